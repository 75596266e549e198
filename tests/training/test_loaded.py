"""Networks as their file has them: recorded as they are, changed on purpose only, told when a setting is in vain."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import Run
from omegaconf import OmegaConf
from tiny import flat_overrides, tiny_discriminator_config, tiny_generator_config

from eg3d import train as command
from eg3d.checkpoints.store import load_discriminator, load_generator
from eg3d.generators.eg3d import GeneratorConfig
from eg3d.networks.discriminator import DiscriminatorConfig
from eg3d.training.config import TrainConfig
from eg3d.training.loaded import changed, flattened
from eg3d.training.loop import Trainer, train

Make = Callable[..., TrainConfig]
DEFAULTS = {"generator": GeneratorConfig(), "discriminator": DiscriminatorConfig()}


def test_the_record_has_the_networks_as_they_are(train_config: Make, toy_networks: Path) -> None:
    cfg = train_config(start=str(toy_networks), total_kimg=0.004, **DEFAULTS)
    folder = train(cfg).folder
    recorded = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    for group, told in (("generator", tiny_generator_config()), ("discriminator", tiny_discriminator_config())):
        assert recorded[group] == json.loads(json.dumps(dataclasses.asdict(told)))  # type: ignore[index, call-overload]
    train(dataclasses.replace(cfg, total_kimg=0.008))  # and the same command goes on
    assert json.loads((folder / "run.json").read_text())["sessions"][1]["changed"] == {"total_kimg": [0.004, 0.008]}


def test_changes_on_purpose(train_config: Make, toy_networks: Path) -> None:
    changes = {"rendering.depth_resolution": 6, "rendering": {"white_back": True}, "precision": "bf16"}
    trainer = Trainer(train_config(start=str(toy_networks), start_changes=changes, total_kimg=0.004, **DEFAULTS))
    for network in (trainer.generator, trainer.average):
        assert (network.cfg.rendering.depth_resolution, network.cfg.rendering.white_back) == (6, True)
        assert network.cfg.precision == "bf16"
        for name, value in load_generator(toy_networks).state_dict().items():
            assert torch.equal(network.state_dict()[name], value), name
    assert trainer.discriminator.cfg == dataclasses.replace(load_discriminator(toy_networks).cfg, precision="bf16")
    assert trainer.generator.training and not trainer.average.training
    run = trainer.run()
    recorded = OmegaConf.load(run.folder / "config.yaml")
    assert recorded.generator.rendering.depth_resolution == 6
    assert load_generator(run.snapshot).cfg.rendering.depth_resolution == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generator.z_dim=9"], "differs from generator.z_dim=9 (8 there)"),
        (["discriminator.mapping_layers=3"], "differs from discriminator.mapping_layers=3 (1 there)"),
        (["generator.rendering.depth_resolution=48"], "generator.rendering.depth_resolution=48 (4 there)"),  # a default
    ],
)
def test_settings_without_effect_are_refused(
    run: Run, toy_images: Path, toy_networks: Path, words: list[str], message: str
) -> None:
    result = run(command, f"start={toy_networks}", f"data={toy_images}", "out=run", "device=cpu", *words)
    assert result.code == 1
    text = result.the_error()
    assert message in text and f"start: {toy_networks} decides" in text and "start_changes" in text
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["start_changes.z_dim=9"],
            "start_changes: z_dim cannot change, since the file decides; what can is precision",
        ),
        (["start_changes.rendering.depth=9"], "start_changes: rendering.depth cannot change"),
        (["start_changes.precision=fp8"], "start_changes.precision: 'fp8' is not one of"),
        (["start_changes.rendering.depth_resolution=x"], "depth_resolution must be a whole number, found 'x'"),
        (["start_changes.rendering.depth_resolution=1000000"], "depth_resolution: 1e+06 is beyond 1024"),
        (["start_changes.precision=bf16", "start_config=own"], "start_changes: is for networks loaded with start"),
    ],
)
def test_impossible_changes(run: Run, toy_networks: Path, words: list[str], message: str) -> None:
    result = run(command, f"start={toy_networks}", "device=cpu", *words)
    assert result.code == 2
    assert message in result.the_error()


def test_changes_by_hand_and_by_the_command_line_are_the_same(run: Run, train_config: Make, toy_networks: Path) -> None:
    cfg = train_config(start=str(toy_networks), total_kimg=0.004, start_changes={"rendering.depth_resolution": 6})
    words = [
        word for word in flat_overrides(cfg) if not word.startswith(("generator", "discriminator", "start_changes"))
    ]
    assert run(command, *words, "start_changes={rendering.depth_resolution: 6, precision: fp32}").code == 0
    recorded = OmegaConf.load(Path(cfg.out) / "config.yaml")
    assert recorded.generator.rendering.depth_resolution == 6
    assert changed(tiny_generator_config(), cfg.start_changes).rendering.depth_resolution == 6
    assert flattened({"a": {"b": (1, 2)}, "a.c": 3}) == {"a.b": [1, 2], "a.c": 3}
