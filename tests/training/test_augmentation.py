"""Augmentation in the training step: cameras follow the pictures, p follows the discriminator."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_records import lines_of, state_of
from safetensors import safe_open
from tiny import toy_draw

from eg3d.cameras import CameraConfig, transformed_labels
from eg3d.generators.eg3d import GeneratorConfig, TriPlaneGenerator
from eg3d.networks.augment import AugmentPipe, copied_pixels, pipe_config
from eg3d.random_streams import SampleStreams
from eg3d.training.augmentation import adapted_p, augmented
from eg3d.training.config import AdversarialLossConfig, AugmentationConfig, TrainConfig
from eg3d.training.loop import Trainer, train

Make = Callable[..., TrainConfig]
FIXED = AugmentationConfig(mode="fixed", p=1.0, pipe=pipe_config("bgcfnc"))


def _pair(n: int = 4) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    images = {name: torch.rand(n, 3, s, s, generator=rng) * 2 - 1 for name, s in (("image", 16), ("image_raw", 8))}
    return images, CameraConfig().label(torch.linspace(-0.3, 0.3, n), torch.linspace(0.2, -0.1, n))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_picture_is_what_the_turned_camera_renders(generator_config: GeneratorConfig, turns: int) -> None:
    torch.manual_seed(0)
    generator = TriPlaneGenerator(generator_config).eval()
    c = CameraConfig().label(torch.tensor([0.3, -0.2]), torch.tensor([0.1, 0.2]))
    ws = generator.mapping(torch.randn(2, 8, generator=torch.Generator().manual_seed(1)), c)
    cos, sin = round(math.cos(turns * math.pi / 2)), round(math.sin(turns * math.pi / 2))
    G = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]).expand(2, 3, 3)
    shift = torch.tensor([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    turned = transformed_labels(c, shift @ G @ torch.linalg.inv(shift))
    with torch.no_grad():
        field = generator.field(ws)
        before, after = (generator.render(field, ws, label).image_raw_clean for label in (c, turned))
    assert float((after - before).abs().max()) > 0.01
    assert torch.allclose(after, copied_pixels(before, G), atol=1e-5)  # the same rays up to rounding


def test_nothing_happens_at_p_zero() -> None:
    images, c = _pair()
    found, label = augmented(AugmentPipe(pipe_config("bgc")), images, c, SampleStreams.seeded(range(4)))
    assert found is images
    assert label is c


def test_images_raw_images_and_cameras_change_together() -> None:
    images, c = _pair(20)
    pipe = AugmentPipe(pipe_config("bg"), p=0.1)
    found, label = augmented(pipe, images, c, SampleStreams.seeded(range(20)))
    assert {name: list(x.shape) for name, x in found.items()} == {"image": [20, 3, 16, 16], "image_raw": [20, 3, 8, 8]}
    is_moved = (label != c).any(1)
    assert 3 < int(is_moved.sum()) < 17
    assert torch.equal(is_moved, (found["image"] != images["image"]).flatten(1).any(1))
    alone, _ = augmented(pipe, {"image": images["image"]}, c, SampleStreams.seeded(range(20)))
    assert torch.allclose(alone["image"], found["image"], atol=1e-6)


def test_colours_leave_cameras_alone() -> None:
    images, c = _pair()
    found, label = augmented(AugmentPipe(pipe_config("color"), p=1.0), images, c, SampleStreams.seeded(range(4)))
    assert torch.equal(label, c)
    assert not torch.equal(found["image"], images["image"])


@pytest.mark.parametrize(
    ("p", "mean_sign", "wanted"), [(0.5, 0.9, 0.532), (0.5, 0.1, 0.468), (0.01, -1, 0), (0.99, 1, 1), (0.5, 0.6, 0.5)]
)
def test_p_moves_by_the_images_shown(p: float, mean_sign: float, wanted: float) -> None:
    found = adapted_p(p, mean_sign, target=0.6, num_images=128, kimg=4)
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("is_dual", [True, False])
def test_every_loss_works_on_augmented_images(train_config: Make, is_dual: bool) -> None:
    base = train_config()
    discriminator = dataclasses.replace(base.discriminator, dual_discrimination=is_dual, disc_c_noise=0.3)
    trainer = Trainer(train_config(augmentation=FIXED, discriminator=discriminator))
    for phase in trainer.phases:
        phase.step(toy_draw(trainer), micro_batch=4, num_images=0)
        assert all(0 < norm < math.inf for norm in phase.norms.values()), phase.name


def test_the_generator_learns_through_the_augmentation(train_config: Make) -> None:
    trainer = Trainer(train_config(augmentation=FIXED))
    trainer.generator.requires_grad_(True)
    draw = toy_draw(trainer)
    trainer.objective.generator_main(draw).backward()
    touched = [p for p in trainer.generator.backbone.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert len(touched) > 10


def test_p_is_logged_saved_and_shipped(train_config: Make) -> None:
    """With a target of -1 every real image is one too many that the discriminator is right about: p rises."""
    ada = AugmentationConfig(mode="ada", target=-1.0, interval=2, kimg=0.1)
    run = train(train_config(augmentation=ada))
    p = [line["Progress/augment"]["mean"] for line in lines_of(run.folder)]
    assert p[0] == 0
    assert p[-1] == pytest.approx(4 * 8 / 100)  # 9 steps of 4 images, a change every second
    assert float(state_of(run.folder)[0]["network/augment_pipe/p"]) == pytest.approx(p[-1])
    with safe_open(str(run.snapshot), framework="pt") as file:
        assert float(file.get_tensor("augment_pipe/p")) == pytest.approx(p[-1])
        assert json.loads(file.metadata()["configs"])["augment_pipe"]["xflip"] == 1.0


def test_without_p_augmentation_changes_nothing(train_config: Make, tmp_path: Path) -> None:
    runs = [
        train(
            train_config(out=str(tmp_path / mode), total_kimg=0.008, augmentation=AugmentationConfig(mode=mode, p=0.0))
        )
        for mode in ("none", "fixed")
    ]
    tensors = [state_of(run.folder)[0] for run in runs]
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())


def test_style_mixing_reaches_every_generator_phase(train_config: Make) -> None:
    trainer = Trainer(
        train_config(loss=AdversarialLossConfig(style_mixing_prob=1.0, density_reg_points=20, r1_interval=3))
    )
    draw = toy_draw(trainer)
    ws = trainer.objective._styles(draw, draw.coin)
    plain = trainer.generator.mapping(draw.z, draw.other)  # swapped at the start of a run
    is_own = (ws == plain).all(2)
    assert is_own[:, 0].all()
    assert not is_own[:, -1].any()
    assert (is_own.int().diff(dim=1) <= 0).all()  # own layers first, then the other latent's
    for phase in trainer.phases[:2]:
        phase.step(toy_draw(trainer), micro_batch=4, num_images=0)
        assert all(norm > 0 for norm in phase.norms.values())


def test_faults_of_the_config() -> None:
    faults = AugmentationConfig(mode="adaptive", p=2, target=3, interval=0, kimg=0).validate()
    assert [fault.split(":")[0] for fault in faults] == ["mode", "interval", "p", "target", "kimg"]
