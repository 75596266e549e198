"""Density grids: the points they stand for, the crop, and the values against a plain query of every point."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.hydra_command import compose_config
from eg3d.ops.density_grid.grid import GridSpec, Slices, grid_points
from eg3d.representations.sigma_field import SigmaField
from eg3d.samples import SampleConfig, sample_seeds
from eg3d.training.config import TrainConfig
from tests.representations.fake_field import FakeField


def test_published_slab_at_256_and_64() -> None:
    assert SigmaField().slices() == (slice(64, 192), slice(64, 205), slice(102, 231))
    assert SigmaField().shape() == (128, 141, 129)
    twin = SigmaField(resolution=64)
    assert twin.slices() == (slice(16, 48), slice(16, 52), slice(25, 58))
    assert twin.shape() == (32, 36, 33)


@pytest.mark.parametrize("resolution", [7, 33, 64, 100])
def test_skewed_grid_follows_the_published_formula(resolution: int) -> None:
    points = grid_points(GridSpec(resolution, "skewed")).double()
    n = np.arange(resolution**3)
    k, j, i = n % resolution, n // resolution % resolution, n // resolution**2
    index = np.stack([i + j / resolution + k / resolution**2, j + k / resolution, k], axis=1)
    expected = index / (resolution - 1) - 0.5
    assert np.abs(points.numpy() - expected).max() < 1e-5  # float32 flat index


def test_skewed_grid_example_of_the_specification() -> None:
    """Voxel (10, 20, 30) of 256 sits at fractional index (10.0786, 20.1172, 30); coordinates overshoot to 0.5039."""
    part = (slice(10, 11), slice(20, 21), slice(30, 31))
    index = (grid_points(GridSpec(256, "skewed", part))[0] + 0.5) * 255
    assert torch.allclose(index, torch.tensor([10.0786, 20.1172, 30.0]), atol=1e-3)
    corner: Slices = (slice(255, 256),) * 3
    last = grid_points(GridSpec(256, "skewed", corner))[0]
    assert last[0] == pytest.approx(0.5039, abs=1e-4)


@pytest.mark.parametrize("grid", ["exact", "skewed"])
def test_cropped_points_are_the_points_of_the_cropped_cube(grid: str) -> None:
    cfg = SigmaField(resolution=18, grid=grid)
    x, y, z = cfg.slices()
    whole = grid_points(GridSpec(18, grid), box_warp=1.3).reshape(18, 18, 18, 3)
    part = grid_points(cfg.spec(), box_warp=1.3).reshape(*cfg.shape(), 3)
    assert torch.equal(part, whole[x, y, z])


def test_exact_grid_reaches_the_faces_of_the_box() -> None:
    points = grid_points(GridSpec(5), box_warp=2.0)
    assert torch.allclose(points[0], torch.tensor([-1.0, -1, -1])) and torch.allclose(points[-1], torch.ones(3))
    assert torch.allclose(points[1], torch.tensor([-1.0, -1, -0.5]))  # z runs fastest


@pytest.fixture(params=["auto", "reference"])
def setting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything that runs natively also runs without a compiler."""
    monkeypatch.setenv("EG3D_OPS", request.param)
    return request.param


def plain_query(field: FakeField, planes: Tensor, cfg: SigmaField) -> Tensor:
    points = grid_points(cfg.spec(), box_warp=field.box_warp).expand(len(planes), -1, 3)
    return field.plain_density(planes, points).reshape(len(planes), *cfg.shape())


@pytest.mark.parametrize("grid", ["exact", "skewed"])
@pytest.mark.parametrize("plane_axes", ["xy_xz_zx", "xy_xz_zy"])
@pytest.mark.parametrize("box_warp", [1.0, 1.6])
def test_slab_equals_a_plain_query_with_gradients(setting: str, grid: str, plane_axes: str, box_warp: float) -> None:
    torch.manual_seed(0)
    field = FakeField(box_warp=box_warp, plane_axes=plane_axes)
    planes = torch.randn(2, 3, 5, 9, 9, requires_grad=True)
    cfg = SigmaField(resolution=19, grid=grid)
    spec = dataclasses.replace(cfg.spec(), chunk=300)
    found, expected = field(planes).density_grid(spec), plain_query(field, planes, cfg)
    assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    inputs = [planes, *field.decoder.parameters()]
    weight = torch.randn_like(found)
    for mine, plain in zip(torch.autograd.grad(found, inputs, weight), torch.autograd.grad(expected, inputs, weight)):
        assert torch.allclose(mine, plain, atol=2e-5 * plain.abs().max().item(), rtol=0)


def test_only_the_skewed_grid_is_skewed() -> None:
    """The skew is a quirk of the published grid; it must not go away, and "exact" must not have it."""
    torch.manual_seed(1)
    field, planes = FakeField(), torch.randn(1, 3, 5, 9, 9)
    exact = field(planes).density_grid(GridSpec(12, "exact"))
    skewed = field(planes).density_grid(GridSpec(12, "skewed"))
    assert torch.allclose(exact[:, 0, 0, 0], skewed[:, 0, 0, 0], atol=1e-5)
    assert (exact - skewed).abs().max() > 1e-2


@pytest.mark.parametrize("grid", ["exact", "skewed"])
def test_slab_is_the_crop_of_the_whole(grid: str) -> None:
    torch.manual_seed(2)
    field, planes = FakeField(), torch.randn(2, 3, 5, 8, 8)
    cfg = SigmaField(resolution=17, grid=grid)
    slab = field(planes).density_grid(cfg.spec())
    x, y, z = cfg.slices()
    assert torch.allclose(slab, field(planes).density_grid(GridSpec(17, grid))[:, x, y, z], atol=1e-5)
    assert slab.shape == (2, *cfg.shape())


def test_empty_batch(setting: str) -> None:
    planes = torch.zeros(0, 3, 5, 8, 8)
    for grid in ("exact", "skewed"):
        assert FakeField()(planes).density_grid(SigmaField(resolution=16, grid=grid).spec()).shape[0] == 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"grid": "foo"}, "'foo' is not one of exact, skewed"),
        ({"rhs": 0.8}, "rhs, lhs"),
        ({"resolution": 1}, "2 points"),
    ],
)
def test_config_faults_are_named(change: dict, word: str) -> None:
    assert any(word in fault for fault in SigmaField(**change).validate())


def test_bad_arguments_get_one_line() -> None:
    with pytest.raises(ValueError, match="planes must be"):
        FakeField()(torch.zeros(1, 15, 8, 8)).density_grid(GridSpec(8))


def test_real_generator_seed_slab_is_deterministic_and_equals_its_point_query() -> None:
    torch.manual_seed(6)
    cfg = compose_config("train", TrainConfig, ["experiment=twin_warm"])
    G = TriPlaneGenerator(cfg.generator).eval()
    slab, cut = SigmaField(resolution=24, grid="exact"), SampleConfig(psi=0.7)
    with torch.no_grad():
        first, again, other = (slab.extract(G, sample_seeds(G, [seed], cut)) for seed in (3, 3, 4))
        assert first.shape == (1, *slab.shape()) and first.dtype == torch.float32
        assert torch.equal(first, again) and not torch.equal(first, other)
        field = G.field_of_planes(torch.randn(1, 3, 16, 64, 64))
        found = field.density_grid(GridSpec(20)).reshape(1, -1)
        expected = field.density(grid_points(GridSpec(20))[None])
    assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
