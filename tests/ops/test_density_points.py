"""The native field at points against its reference, and against the grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from eg3d.ops.density_grid.grid import GridSpec, grid_points
from eg3d.ops.density_grid.op import density_grid
from eg3d.ops.density_points import op, reference
from tests.ops.field import field_of, field_tensors, largest_error

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture(autouse=True)
def _always_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "FEWEST_POINTS_PER_TEXEL", 0.0)


def inputs_of(dtype: torch.dtype, features: int = 4, **size: int) -> list[Tensor]:
    planes, w1, b1, w2, _ = field_tensors(**size, dtype=dtype)
    rng = torch.Generator().manual_seed(9)
    second = torch.randn(1 + features, len(w2), generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    return [planes, w1, b1, second, torch.randn(1 + features, generator=rng).to(dtype).requires_grad_()]


def points_of(batch: int, count: int, dtype: torch.dtype) -> Tensor:
    """A third lies outside the box of side 1.3, some of it far away."""
    u = torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5
    return (torch.where(torch.arange(count)[:, None] % 3 == 0, 4.0, 1.3) * u).to(dtype)


def both(inputs: list[Tensor], points: Tensor, functions: tuple[Callable, ...], **options: Any) -> list[list[Tensor]]:
    results = []
    for function in functions:
        values = function(field_of(inputs, **{"box_warp": 1.3} | options), points)
        values = [values] if isinstance(values, Tensor) else list(values)
        rng = torch.Generator().manual_seed(0)
        upstream = [torch.randn(v.shape, generator=rng, dtype=torch.float64).to(v) for v in values]
        results.append([*values, *torch.autograd.grad(values, inputs, upstream)])
    return results


FIELD, DENSITY = (op.field_points, reference.field_points), (op.density_points, reference.density_points)


@pytest.mark.parametrize("plane_axes", ["xy_xz_zx", "xy_xz_zy"])
@pytest.mark.parametrize(
    "size",
    [{"batch": 2}, {"channels": 32, "side": 40, "hidden": 64}, {"channels": 1, "side": 1, "hidden": 1}],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 193])
def test_float64_equals_the_reference(size: dict[str, int], count: int, plane_axes: str) -> None:
    inputs = inputs_of(torch.float64, **size)
    points = points_of(len(inputs[0]), count, torch.float64)
    found, expected = both(inputs, points, FIELD, plane_axes=plane_axes)
    assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-10
    alone = [*inputs[:3], inputs[3][0].detach().requires_grad_(), inputs[4][0].detach().requires_grad_()]
    found, expected = both(alone, points, DENSITY, plane_axes=plane_axes)
    assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-10


def test_float32_is_as_exact_as_the_reference() -> None:
    inputs = inputs_of(torch.float32, features=32, channels=32, side=40, hidden=64)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    points = points_of(1, 300, torch.float32)
    found, plain = both(inputs, points, FIELD)
    (truth,) = both(exact, points.double(), FIELD[1:])
    for mine, reference_value, expected in zip(found, plain, truth):
        assert largest_error(mine, expected) < max(1e-5, 2 * largest_error(reference_value, expected))


def test_first_and_second_derivatives_and_gradients_to_points() -> None:
    inputs = inputs_of(torch.float64, features=2, channels=2, side=4, hidden=3)
    points = points_of(1, 5, torch.float64)

    def small(planes: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return op.field_points(field_of([planes, *weights], box_warp=1.3), points)

    assert torch.autograd.gradcheck(small, inputs)
    assert torch.autograd.gradgradcheck(small, inputs)
    moving = points.clone().requires_grad_()
    sigma_raw, _ = op.field_points(field_of(inputs), moving)
    assert torch.autograd.grad(sigma_raw.sum(), moving)[0].abs().max() > 0


def test_a_grid_of_points_is_the_grid() -> None:
    field = field_of(field_tensors(2, 16, 32, 32, dtype=torch.float32))
    points = grid_points(GridSpec(12)).expand(2, -1, 3)
    one_by_one = op.density_points(field, points).reshape(2, 12, 12, 12)
    grid = density_grid(field, GridSpec(12))
    assert largest_error(one_by_one, grid) < 1e-5


def test_threads_layout_and_empty_inputs() -> None:
    inputs = inputs_of(torch.float32, channels=6, side=16)
    planes, points = inputs[0].detach(), points_of(1, 500, torch.float32)
    expected = both(inputs, points, FIELD[1:])[0]
    last = planes.flatten(1, 2).contiguous(memory_format=torch.channels_last).unflatten(1, (3, 6)).requires_grad_()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found = both([last, *inputs[1:]], points.expand(1, 500, 3), FIELD[:1])[0]
        assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-5
    sigma_raw, rgb = op.field_points(field_of([planes, *inputs[1:]]), points[:, :0])
    assert sigma_raw.shape == (1, 0) and rgb.shape == (1, 4, 0)
    with pytest.raises(ValueError, match=r"points must be \[1, P, 3\] for these planes, got \[2, 500, 3\]"):
        op.field_points(field_of([planes, *inputs[1:]]), points.expand(2, 500, 3))
