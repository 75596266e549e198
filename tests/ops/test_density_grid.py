"""The native density grid against its reference: values, gradients, second gradients, odd sizes, layouts, threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from eg3d.ops.density_grid import reference
from eg3d.ops.density_grid.grid import GRIDS as KINDS
from eg3d.ops.density_grid.grid import GridSpec, grid_index
from eg3d.ops.density_grid.op import density_grid
from eg3d.ops.density_points.reference import density_points
from tests.ops.field import field_of, field_tensors, largest_error

pytestmark = pytest.mark.usefixtures("native")

SOME = (slice(3, 17), slice(0, 19), slice(5, 12))
GRIDS = [(grid, axes) for grid in KINDS for axes in ("xy_xz_zx", "xy_xz_zy")]
SIZES: list[dict[str, Any]] = [
    {"batch": 2, "channels": 5, "side": 9, "hidden": 7},  # nothing fits a vector
    {"batch": 1, "channels": 16, "side": 64, "hidden": 32},  # the small twin; planes finer than the grid
    {"batch": 1, "channels": 32, "side": 24, "hidden": 64},  # as published
    {"batch": 1, "channels": 1, "side": 1, "hidden": 1},
    {"batch": 1, "channels": 19, "side": 6, "hidden": 150},  # planes coarser than the grid
]


def both(inputs: list[Tensor], **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Value and all gradients, native and by the reference, under one random upstream gradient."""
    options = {"resolution": 19, "slices": SOME, "grid": "exact", "plane_axes": "xy_xz_zx"} | options
    plane_axes, spec, results = options.pop("plane_axes"), GridSpec(**options), []
    for function in (density_grid, reference.density_grid):
        value = function(field_of(inputs, box_warp=1.3, plane_axes=plane_axes), spec)
        results.append([value, *torch.autograd.grad(value, inputs, upstream_of(value))])
    return results[0], results[1]


@pytest.mark.parametrize(("grid", "plane_axes"), GRIDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_float64_equals_the_reference(size: dict[str, Any], grid: str, plane_axes: str) -> None:
    found, expected = both(field_tensors(**size, dtype=torch.float64), grid=grid, plane_axes=plane_axes)
    assert [largest_error(a, b) for a, b in zip(found, expected)] == pytest.approx([0] * 6, abs=1e-10)


@pytest.mark.parametrize(("grid", "plane_axes"), GRIDS)
@pytest.mark.parametrize("scale", [1.0, 60.0])  # 60: hidden values beyond what exponentials of tables can hold
def test_float32_is_as_exact_as_the_reference(scale: float, grid: str, plane_axes: str) -> None:
    """Against float64 at the float32 index: 1e-5 of the range, or what float32 costs the reference itself."""
    inputs = field_tensors(1, 32, 40, 64, dtype=torch.float32, scale=scale)
    found, plain = both(inputs, grid=grid, plane_axes=plane_axes)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    value = at_float32_index(exact, grid, plane_axes)
    truth = [value, *torch.autograd.grad(value, exact, upstream_of(value))]
    for mine, reference_value, expected in zip(found, plain, truth):
        assert largest_error(mine, expected) < max(1e-5, largest_error(reference_value, expected))


@pytest.mark.parametrize("resolution", [19, 100, 255])
def test_the_published_index_is_rounded_as_published(resolution: int) -> None:
    """Where the resolution is no power of two, the float32 quotient moves points along x and y."""
    part = (slice(resolution - 6, resolution), slice(2, 9), slice(0, resolution))
    inputs = field_tensors(1, 32, 256, 64, dtype=torch.float32)
    with torch.no_grad():
        found = density_grid(field_of(inputs, box_warp=1.3), GridSpec(resolution, "skewed", part))
        exact = [tensor.double() for tensor in inputs]
        rounded = at_float32_index(exact, "skewed", "xy_xz_zx", resolution=resolution, slices=part)
        unrounded = density_grid(field_of(exact, box_warp=1.3), GridSpec(resolution, "skewed", part))
    assert largest_error(found, rounded) < 2e-6 < largest_error(found, unrounded)


def upstream_of(value: Tensor) -> Tensor:
    """One random gradient for values of any shape, [N, X, Y, Z]."""
    return torch.randn(value.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(value)


def at_float32_index(inputs: list[Tensor], grid: str, plane_axes: str, **options: Any) -> Tensor:
    """Values [N, X, Y, Z] in the type of the inputs, at the grid's float32 index."""
    spec = GridSpec(**({"resolution": 19, "slices": SOME, "grid": grid} | options))
    points = grid_index(spec).to(inputs[0]) * (1.3 / (spec.resolution - 1)) - 1.3 / 2
    return density_points(field_of(inputs, box_warp=1.3, plane_axes=plane_axes), points[None]).reshape(1, *spec.shape)


@pytest.mark.parametrize(("grid", "plane_axes"), GRIDS)
def test_first_and_second_derivatives(grid: str, plane_axes: str) -> None:
    inputs = field_tensors(1, 2, 4, 3, dtype=torch.float64)

    def small(*tensors: Tensor) -> Tensor:
        part = (slice(0, 3), slice(1, 4), slice(2, 4))
        return density_grid(field_of(tensors, plane_axes=plane_axes), GridSpec(4, grid, part))

    assert torch.autograd.gradcheck(small, inputs)
    assert torch.autograd.gradgradcheck(small, inputs)


@pytest.mark.parametrize("grid", KINDS)
def test_any_layout_and_precision_of_planes(grid: str) -> None:
    inputs = field_tensors(2, 6, 8, 5, dtype=torch.float64)
    expected = both(inputs, grid=grid)[1]
    planes, weights = inputs[0].detach(), inputs[1:]
    channels_last = planes.flatten(1, 2).contiguous(memory_format=torch.channels_last).unflatten(1, (3, 6))
    gaps = torch.stack([planes, planes], dim=-1)[..., 0]
    for same in (channels_last, gaps, planes.transpose(3, 4).contiguous().transpose(3, 4)):
        assert not same.is_contiguous()
        found, _ = both([same.requires_grad_(), *weights], grid=grid)
        assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-12
    spec = GridSpec(19, grid, SOME)
    repeated = density_grid(field_of([planes[:1].expand(2, -1, -1, -1, -1), *weights]), spec)
    assert torch.equal(repeated[0], repeated[1])
    half = density_grid(field_of([planes.bfloat16(), *weights]), spec)
    assert half.dtype == torch.float32 and largest_error(half, expected[0]) > 0


@pytest.mark.parametrize(("grid", "plane_axes"), GRIDS)
def test_threads_do_not_change_a_bit(grid: str, plane_axes: str) -> None:
    inputs = field_tensors(1, 16, 32, 32, dtype=torch.float32)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(both(inputs, grid=grid, plane_axes=plane_axes)[0])
    for a, b, c in zip(*results):
        assert torch.equal(a, b) and torch.equal(a, c)


@pytest.mark.parametrize("grid", KINDS)
def test_empty_batch_and_one_point(grid: str) -> None:
    inputs = field_tensors(0, dtype=torch.float32)
    value = density_grid(field_of(inputs), GridSpec(19, grid, SOME))
    assert value.shape == (0, 14, 19, 7)
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(value.sum(), inputs))
    found, expected = both(field_tensors(dtype=torch.float64), grid=grid, slices=(slice(18, 19),) * 3)
    assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-10


def test_not_a_number_is_not_hidden() -> None:
    inputs = field_tensors(1, 32, 24, 64, dtype=torch.float32)
    with torch.no_grad():
        inputs[0][0, 0, 3] = float("nan")
    for grid in KINDS:
        with torch.no_grad():
            found = density_grid(field_of(inputs), GridSpec(19, grid, SOME))
            assert found[:, :10, :10].isnan().all()  # points inside the plane


def test_more_points_than_the_published_index_can_tell_apart_go_to_the_reference() -> None:
    inputs = field_tensors(dtype=torch.float64)
    part = (slice(300, 303), slice(200, 202), slice(11, 30))
    found, expected = both(inputs, resolution=512, slices=part, grid="skewed")
    assert torch.equal(found[0], expected[0])
    found, expected = both(inputs, resolution=512, slices=part, grid="exact")
    assert largest_error(found[0], expected[0]) < 1e-10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planes": torch.zeros(1, 15, 8, 8)}, r"planes must be \[N, 3, C, S, S\], got \[1, 15, 8, 8\]"),
        ({"w1": torch.zeros(7, 4)}, r"w1 must be \[H, 5\] for these planes, got \[7, 4\]"),
        ({"w2": torch.zeros(6)}, r"w2 must be \[1, 7\] to go with w1, got \[1, 6\]"),
        ({"plane_axes": "xyz"}, "plane_axes: 'xyz' is not one of xy_xz_zx, xy_xz_zy"),
        ({"slices": (slice(0, 20),) * 3}, "slices must lie in 0:19"),
        ({"grid": "bent"}, "grid: 'bent' is not one of exact, skewed"),
        ({"resolution": 1}, "at least 2 points"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    names = ("planes", "w1", "b1", "w2", "b2")
    given = dict(zip(names, field_tensors(dtype=torch.float32))) | change
    axes = {"plane_axes": change["plane_axes"]} if "plane_axes" in change else {}
    spec = {"resolution": 19, "slices": SOME} | {
        k: v for k, v in change.items() if k in ("resolution", "slices", "grid")
    }
    with pytest.raises(ValueError, match=message):
        density_grid(field_of([given[name] for name in names], **axes), GridSpec(**spec))
