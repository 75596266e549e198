"""Transforms: what a network is shown of a representation."""

from __future__ import annotations

import math

import pytest
import torch

from eg3d.config_checks import faults_of
from eg3d.hydra_command import compose_config
from reward_model_training.data.transforms import (
    TRANSFORMS,
    DetachedSigmaSelfConfig,
    FixedRangeConfig,
    NormaliseSigmaSelfConfig,
    OpacityConfig,
    SurfaceDistanceConfig,
    SurfaceLogisticConfig,
    TransformConfig,
    normalise_sigma_self,
    surface_distance,
    to_network_axes,
    to_network_input,
    upper_end,
)
from reward_model_training.train import RewardTrainConfig

BY_VOXEL = (FixedRangeConfig(), FixedRangeConfig(clamps=False), SurfaceLogisticConfig(), OpacityConfig())


def raw_density(*shape: int, seed: int = 0) -> torch.Tensor:
    """Made-up raw density as the twin's has it: hundreds inside, minus thousands outside."""
    rng = torch.Generator().manual_seed(seed)
    return -500 + 600 * torch.randn(shape, generator=rng)


@pytest.mark.parametrize("cfg", BY_VOXEL, ids=lambda cfg: f"{cfg.name}")
@pytest.mark.parametrize("value", [-7500.0, 7500.0])
def test_one_hot_voxel_changes_itself_alone(cfg: TransformConfig, value: float) -> None:
    x = raw_density(2, 4, 5, 6)
    x[1, 2, 3, 4] = 40.0  # near the surface
    hot = x.clone()
    hot[1, 2, 3, 4] = value
    changed = to_network_input(hot, cfg) != to_network_input(x, cfg)
    assert changed.sum() == 1 and changed[1, 0, 4, 3, 2]
    published = NormaliseSigmaSelfConfig()  # where it moves nearly all others
    assert (to_network_input(hot, published) != to_network_input(x, published))[1].float().mean() > 0.9


@pytest.mark.parametrize("cfg", BY_VOXEL, ids=lambda cfg: f"{cfg.name}")
def test_the_gradient_of_a_voxel_reaches_that_voxel_alone(cfg: TransformConfig) -> None:
    x = torch.linspace(-900, 900, 24).reshape(1, 2, 3, 4).requires_grad_()
    (grad,) = torch.autograd.grad(to_network_input(x, cfg)[0, 0, 3, 1, 1], x)
    assert grad[0, 1, 1, 3] > 0 and grad.count_nonzero() == 1


@pytest.mark.parametrize(
    "cfg", [*BY_VOXEL, DetachedSigmaSelfConfig(), NormaliseSigmaSelfConfig()], ids=lambda c: c.name
)
def test_denser_is_never_less(cfg: TransformConfig) -> None:
    x = torch.linspace(-3000, 3000, 24).reshape(1, 2, 3, 4)
    made = to_network_input(x, cfg).permute(0, 4, 3, 2, 1).reshape(-1)
    assert (made.diff() >= 0).all() and torch.isfinite(made).all()
    if getattr(cfg, "clamps", True):
        assert made.min() >= 0 and made.max() <= upper_end(cfg)


def test_without_the_ends_the_numbers_are_the_same_and_the_gradient_is_the_scale() -> None:
    x = raw_density(2, 4, 5, 6).requires_grad_()
    published, detached = NormaliseSigmaSelfConfig(), DetachedSigmaSelfConfig()
    assert torch.equal(to_network_input(x, published), to_network_input(x, detached))
    weight = torch.rand(2, 1, 6, 5, 4)
    grads = [torch.autograd.grad((weight * to_network_input(x, cfg)).sum(), x)[0] for cfg in (published, detached)]
    span = x.amax((1, 2, 3)) - x.amin((1, 2, 3))
    own = weight[:, 0].permute(0, 3, 2, 1) * (100 / span)[:, None, None, None]
    torch.testing.assert_close(grads[1], own)
    differ = (grads[0] - own).abs() > 1e-4 * own.abs().max()  # through the two ends, published: those two alone
    assert differ.sum((1, 2, 3)).tolist() == [2, 2]
    for end in (x.amin((1, 2, 3)), x.amax((1, 2, 3))):
        assert differ[x == end[:, None, None, None]].all()


def test_the_logistic_is_half_at_the_surface_and_knows_no_scale_of_far_density() -> None:
    cfg = SurfaceLogisticConfig(level=10.0, width=50.0)
    made = to_network_input(torch.tensor([10.0, 60.0, 5000.0, -5000.0]).reshape(1, 1, 1, 4), cfg).reshape(-1)
    assert made[0] == 50 and made[1].item() == pytest.approx(73.106, abs=1e-3)
    assert made[2].item() == pytest.approx(100.0) and made[3].item() == pytest.approx(0.0)


@pytest.mark.parametrize("steepness", [20.0, 50.0, 900.0])
def test_the_distance_is_that_to_the_surface_however_steep_densities_are(steepness: float) -> None:
    at = torch.linspace(-8, 8, 33, dtype=torch.float64)  # half a unit a voxel
    radius = torch.stack(torch.meshgrid(at, at, at, indexing="ij")).square().sum(0).sqrt()
    inside = 5 - radius  # units; a sphere of 10 voxels
    cfg = SurfaceDistanceConfig(least_slope=1e-3, width=1.5, high=1.0)
    made = surface_distance((10 + steepness * inside)[None], cfg)[0]
    is_near = inside.abs() < 1
    wanted = torch.sigmoid(2 * inside / 1.5)
    torch.testing.assert_close(made[is_near], wanted[is_near], atol=0.02, rtol=0)
    assert made.min() >= 0 and made.max() <= 1


def test_the_distance_of_flat_density_is_finite_and_one_voxel_reaches_its_neighbours_alone() -> None:
    cfg = SurfaceDistanceConfig()
    x = torch.full((1, 5, 5, 5), -20.0).requires_grad_()
    assert torch.isfinite(torch.autograd.grad(to_network_input(x, cfg).sum(), x)[0]).all()
    hot = x.detach().clone()
    hot[0, 2, 2, 2] = 7500.0
    changed = to_network_input(hot, cfg) != to_network_input(x, cfg)
    assert changed.sum() == 7 and changed[0, 0, 2, 2].sum() == 3


def test_opacity_is_the_share_of_light_that_a_voxel_stops() -> None:
    cfg = OpacityConfig(length=0.01, high=1.0)
    made = to_network_input(torch.tensor([[[[101.0, 1.0, -300.0]]]]), cfg).reshape(-1)
    assert made.tolist() == pytest.approx([1 - math.exp(-1.0), 1 - math.exp(-0.01 * math.log(2)), 0.0], abs=1e-6)


def test_a_command_line_chooses_one() -> None:
    words = ["data.rankings=a.csv", "data.generator=b", "transform=surface_logistic", "transform.width=70"]
    assert compose_config("reward", RewardTrainConfig, words).transform == SurfaceLogisticConfig(width=70.0)


def test_normalisation_spans_the_range_is_scale_free_and_defines_the_constant_slab() -> None:
    torch.manual_seed(5)
    x = torch.randn(3, 4, 5, 6)
    x[1] = 7.0
    x.requires_grad_()
    scaled = normalise_sigma_self(x)
    for sample in (0, 2):
        assert scaled[sample].min() == 0 and scaled[sample].max().item() == pytest.approx(100.0)
    assert (scaled[1] == 0).all()
    assert torch.allclose(normalise_sigma_self(3 * x + 2), scaled, atol=1e-3)
    (grad,) = torch.autograd.grad(scaled.square().sum(), x)
    assert torch.isfinite(grad).all() and (grad[1] == 0).all()
    assert (normalise_sigma_self(x, low=-1.0, high=1.0)[1] == -1).all()


def test_network_axes_are_z_y_x() -> None:
    x = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    y = to_network_axes(x)
    assert y.shape == (2, 1, 5, 4, 3) and y[1, 0, 4, 2, 1] == x[1, 1, 2, 4]


def test_bad_shapes_get_one_line() -> None:
    with pytest.raises(ValueError, match="x must be"):
        normalise_sigma_self(torch.zeros(2, 3, 4))


def test_the_table_applies_a_transform_by_its_name_and_says_its_range() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    cfg = NormaliseSigmaSelfConfig(low=-1.0, high=3.0)
    made = to_network_input(x.half(), cfg)
    assert made.dtype == torch.float32 and made.shape == (2, 1, 5, 4, 3)
    assert made.max().item() == pytest.approx(upper_end(cfg)) and made.min().item() == pytest.approx(-1.0)
    (grad,) = torch.autograd.grad(to_network_input(x, cfg)[0].sum(), x)
    assert grad[0].abs().sum() > 0 and grad[1].abs().sum() == 0
    assert {name: entry.config().name for name, entry in TRANSFORMS.items()} == {name: name for name in TRANSFORMS}


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"low": 100.0}, "low below high"), ({"high": float("inf")}, "finite"), ({"name": "x"}, "name")],
)
def test_faults_of_a_transform(changes: dict, word: str) -> None:
    (fault,) = faults_of(NormaliseSigmaSelfConfig(**changes))
    assert word in fault


@pytest.mark.parametrize(
    ("cfg", "word"),
    [
        (FixedRangeConfig(raw_low=3.0, raw_high=3.0), "raw_low below raw_high"),
        (FixedRangeConfig(high=0.0), "high: must be above 0"),
        (SurfaceLogisticConfig(width=0.0), "width: must be above 0"),
        (SurfaceDistanceConfig(width=0.0), "width: must be above 0"),
        (SurfaceDistanceConfig(least_slope=-1.0), "least_slope: must be above 0"),
        (OpacityConfig(length=-1.0), "length: must be above 0"),
        (DetachedSigmaSelfConfig(low=200.0), "low below high"),
    ],
)
def test_faults_of_the_others(cfg: TransformConfig, word: str) -> None:
    (fault,) = faults_of(cfg)
    assert word in fault


def test_what_the_front_hides_is_not_read() -> None:
    """A head that is hollow, and one that is not, look the same from the front; without the option they do not."""
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, 24)] * 3, indexing="ij")
    radius = torch.stack([x, y, z]).norm(dim=0)
    solid = 10 + 400 * (0.7 - radius)
    hollow = 10 + 400 * (torch.minimum(0.7 - radius, radius - 0.3))
    seen = SurfaceDistanceConfig(seen_from_front=True)
    shells = [surface_distance(each[None], seen)[0] for each in (solid, hollow)]
    at_the_front = (z > 0) & (radius > 0.65)
    assert (shells[0] - shells[1])[at_the_front].abs().max() < 0.5
    at_the_back = (radius < 0.3) | ((z < -0.5) & (torch.hypot(x, y) < 0.2))
    assert min(shell[at_the_back].min() for shell in shells) > 50, "all that lies behind the surface is solid"
    assert surface_distance(hollow[None], SurfaceDistanceConfig())[0][at_the_back].min() < 50


def test_the_hidden_side_has_no_gradient() -> None:
    density = raw_density(1, 5, 5, 9, seed=3).requires_grad_()
    surface_distance(density, SurfaceDistanceConfig(seen_from_front=True)).sum().backward()
    is_largest = density >= density.flip(3).cummax(3).values.flip(3)  # of all that is nearer to the front
    assert density.grad is not None and density.grad[~is_largest].count_nonzero() == 0
    assert density.grad[is_largest].count_nonzero() > 0
