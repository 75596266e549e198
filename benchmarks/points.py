"""Raw density and features at 200,000 arbitrary points at the size of published faces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks import harness
from benchmarks.field import random_field, with_tensors
from eg3d.ops.density_points import op, reference

NUM_POINTS = 200_000


def cases(device: str) -> list[harness.Case]:
    """Density alone, and with features; forward, and forward + backward to planes and weights."""
    made = []
    for name in ("density_points", "field_points"):
        functions = (getattr(reference, name), getattr(op, name))
        for passes in ("forward", "forward_backward"):
            plain, native = (_runner(function, device, passes, name == "field_points") for function in functions)
            made.append(harness.Case(name, passes, plain, native))
    return made


def _runner(function: Callable[..., Any], device: str, passes: str, has_features: bool) -> harness.Run:
    field = random_field(device, has_features=has_features)
    points = torch.rand(1, NUM_POINTS, 3, generator=torch.Generator().manual_seed(1)).to(device) - 0.5

    def run(dtype: torch.dtype) -> harness.Outputs:
        cast, inputs = with_tensors(field, dtype)
        with torch.set_grad_enabled(passes == "forward_backward"):
            found = function(cast, points.to(dtype))
        values = list(found) if has_features else [found]
        if passes == "forward":
            return values
        grads = torch.autograd.grad(values, inputs, [torch.ones_like(value) for value in values])
        return [*(value.detach() for value in values), *grads]

    return run


if __name__ == "__main__":
    harness.main("benchmarks.points", cases, __doc__, operation="density_points")
