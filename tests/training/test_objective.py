"""The phases of a run: order, rates, windows; and where the heads' parameters go in the latent space."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import toy_draw
from torch import Tensor

from eg3d.training.config import AdversarialLossConfig, TrainConfig, WarmStartConfig
from eg3d.training.loop import Trainer
from eg3d.training.phases import Draw, Phase
from eg3d.training.warm_start import codes_to_latents, latent_rotation

Make = Callable[..., TrainConfig]


def _phases(cfg: TrainConfig) -> dict[str, Phase]:
    return {phase.name: phase for phase in Trainer(cfg).phases}


def _reconstruction(trainer: Trainer) -> Callable[[Draw], Tensor]:
    """The loss of the warm start's phase."""
    assert trainer.phases[0].name == "Grec"
    return trainer.phases[0].terms[0].loss


def test_published_order_rates_and_betas(train_config: Make) -> None:
    phases = _phases(train_config(loss=AdversarialLossConfig()))
    assert [(p.name, p.interval) for p in phases.values()] == [("Gmain", 1), ("Greg", 4), ("Dmain", 1), ("Dreg", 16)]
    assert phases["Gmain"].optimizer is phases["Greg"].optimizer
    assert phases["Dmain"].optimizer is phases["Dreg"].optimizer
    g, d = (phases[name].optimizer.param_groups[0] for name in ("Gmain", "Dmain"))
    assert g["lr"] == pytest.approx(0.0025 * 4 / 5)
    assert g["betas"] == pytest.approx((0, 0.99 ** (4 / 5)))
    assert d["lr"] == pytest.approx(0.002 * 16 / 17)
    assert d["betas"] == pytest.approx((0, 0.99 ** (16 / 17)))
    assert g["eps"] == d["eps"] == 1e-8


def test_monotonic_types_add_a_term_and_fix_the_deviation(train_config: Make) -> None:
    plain = Trainer(train_config()).objective
    assert ([term.name for term in plain.density_terms()], plain._density_std()) == (["density_reg"], 0.004)
    for kind in ("monotonic-detach", "monotonic-fixed"):
        trainer = Trainer(train_config(loss=AdversarialLossConfig(density_reg_type=kind, density_reg_points=20)))
        assert [term.name for term in trainer.phases[1].terms] == ["monotonic", "density_reg"]
        assert trainer.objective._density_std() == 1 / 256
        trainer.phases[1].step(toy_draw(trainer), micro_batch=4, num_images=0)
        assert all(norm > 0 for norm in trainer.phases[1].norms.values())


def test_style_scale_touches_the_affine_weights_alone(train_config: Make) -> None:
    plain, scaled = (Trainer(train_config(warm_start=WarmStartConfig(style_scale=s))).generator for s in (1.0, 0.25))
    for (name, one), other in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        factor = 0.25 if name.endswith("affine.weight") else 1.0
        assert torch.equal(other, factor * one), name


def test_reconstruction_adds_its_weighted_parts(train_config: Make) -> None:
    warm = WarmStartConfig(reconstruction_kimg=1, silhouette_weight=0.5, spread_weight=3.0)
    trainer = Trainer(train_config(warm_start=warm))
    loss = float(_reconstruction(trainer)(toy_draw(trainer)))
    parts = trainer.stats.collect()
    named = [parts[f"Loss/{name}"]["mean"] for name in ("reconstruction", "silhouette", "spread")]
    assert all(part > 0 for part in named)
    assert loss == pytest.approx(sum(named), rel=1e-6)


def test_without_regularisers_the_rates_are_not_scaled(train_config: Make) -> None:
    phases = _phases(train_config(loss=AdversarialLossConfig(r1_gamma=0, density_reg_interval=0)))
    assert list(phases) == ["Gmain", "Dmain"]
    assert phases["Gmain"].optimizer.param_groups[0]["lr"] == 0.0025
    assert phases["Dmain"].optimizer.param_groups[0]["betas"] == (0.0, 0.99)


def test_warm_start_phases_follow_each_other(train_config: Make) -> None:
    warm = WarmStartConfig(reconstruction_kimg=2, discriminator_kimg=1)
    phases = _phases(train_config(loss=AdversarialLossConfig(), warm_start=warm))
    windows = {name: (p.first_image, p.last_image) for name, p in phases.items()}
    end = float("inf")
    assert windows == {
        "Grec": (0, 2000), "Gmain": (3000, end), "Greg": (3000, end), "Dmain": (2000, end), "Dreg": (2000, end),
    }  # fmt: skip
    rate = phases["Grec"].lr
    assert rate is not None
    assert (rate(0), rate(1000), rate(2000)) == pytest.approx((0.003, (0.003 + 0.0005) / 2, 0.0005))


def test_schedules_count_from_the_start_of_adversarial_training(train_config: Make) -> None:
    loss = AdversarialLossConfig(blur_init_sigma=10, blur_fade_kimg=2, swap_fade_kimg=2)
    trainer = Trainer(train_config(loss=loss, warm_start=WarmStartConfig(reconstruction_kimg=1)))
    trainer.counters.num_images = 500
    assert (trainer.objective.blur_sigma, trainer.objective.swap_probability) == (10, 1)
    trainer.counters.num_images = 2000
    assert (trainer.objective.blur_sigma, trainer.objective.swap_probability) == (5, 0.75)


@pytest.mark.parametrize(("lazy_gain", "factor"), [(True, 3.0), (False, 1.0)])
def test_lazy_gain_scales_r1(train_config: Make, lazy_gain: bool, factor: float) -> None:
    cfg = train_config()
    trainer = Trainer(train_config(loss=dataclasses.replace(cfg.loss, r1_gamma=2.0, lazy_gain=lazy_gain)))
    trainer.discriminator.requires_grad_(True)
    loss = trainer.objective.r1(toy_draw(trainer)).detach()
    assert float(loss) == pytest.approx(factor * trainer.stats.collect()["Loss/r1_penalty"]["mean"], rel=1e-6)


def test_each_adversarial_loss_reaches_its_network(train_config: Make) -> None:
    trainer = Trainer(train_config())
    for phase in trainer.phases:
        phase.step(toy_draw(trainer), micro_batch=4, num_images=0)
        assert all(norm > 0 for norm in phase.norms.values()), phase.name
        assert not any(p.requires_grad for p in (*trainer.generator.parameters(), *trainer.discriminator.parameters()))


def test_only_the_discriminators_fakes_move_the_mean_latent(train_config: Make) -> None:
    trainer = Trainer(train_config())
    draw, mean = toy_draw(trainer), trainer.generator.backbone.mapping.w_avg
    before = mean.clone()
    trainer.objective.generator_main(draw)
    trainer.objective.density(draw)
    assert torch.equal(mean, before)
    trainer.phases[2].step(draw, micro_batch=4, num_images=0)
    assert not torch.equal(mean, before)


def test_reconstruction_needs_the_heads_parameters(train_config: Make) -> None:
    trainer = Trainer(train_config(warm_start=WarmStartConfig(reconstruction_kimg=1)))
    draw = toy_draw(trainer)
    bare = dataclasses.replace(draw, real=dataclasses.replace(draw.real, code=None))
    with pytest.raises(ValueError, match=r"codes\.npy"):
        _reconstruction(trainer)(bare)


def test_depth_supervision_needs_depths(train_config: Make) -> None:
    trainer = Trainer(train_config(warm_start=WarmStartConfig(reconstruction_kimg=1, depth_weight=1)))
    draw = toy_draw(trainer)
    bare = dataclasses.replace(draw, real=dataclasses.replace(draw.real, depth=None))
    with pytest.raises(ValueError, match=r"depths\.npy"):
        _reconstruction(trainer)(bare)


def test_latent_rotation_is_orthogonal_and_fixed() -> None:
    q = latent_rotation(16).double()
    assert torch.allclose(q @ q.T, torch.eye(16, dtype=torch.float64), atol=1e-6)
    assert torch.equal(latent_rotation(16), latent_rotation(16))


def test_codes_keep_their_lengths_and_come_back() -> None:
    codes = torch.from_numpy(np.random.RandomState(0).randn(5, 8).astype(np.float32))
    z = codes_to_latents(codes, 8, torch.Generator())
    assert torch.allclose(z.norm(dim=1), codes.norm(dim=1), rtol=1e-5)
    assert torch.allclose(z @ latent_rotation(8).T, codes, atol=1e-5)


def test_latents_of_normal_codes_are_standard_normal() -> None:
    codes = torch.from_numpy(np.random.RandomState(0).randn(20_000, 5).astype(np.float32))
    z = codes_to_latents(codes, 8, torch.Generator().manual_seed(0))
    assert torch.allclose(z.mean(0), torch.zeros(8), atol=0.03)
    assert torch.allclose(z.T.cov(), torch.eye(8), atol=0.04)


def test_more_head_parameters_than_latent_directions() -> None:
    with pytest.raises(ValueError, match="z_dim: 4 is smaller than the 5"):
        codes_to_latents(torch.zeros(1, 5), 4, torch.Generator())


def test_a_data_set_of_another_size(train_config: Make, toy_images: Path) -> None:
    cfg = train_config()
    generator = dataclasses.replace(cfg.generator, img_resolution=32, sr_input_resolution=16)
    discriminator = dataclasses.replace(cfg.discriminator, img_resolution=32)
    with pytest.raises(ValueError, match="16-pixel images, the generator makes 32"):
        Trainer(train_config(generator=generator, discriminator=discriminator))
