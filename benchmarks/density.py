"""Raw density on grids at the size of published faces: slabs of 128 x 141 x 129, 64^3, 256^3."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks import harness
from benchmarks.field import random_field, with_tensors
from eg3d.ops.density_grid import reference
from eg3d.ops.density_grid.grid import GridSpec
from eg3d.ops.density_grid.op import density_grid
from eg3d.representations.sigma_field import SigmaField


def cases(device: str) -> list[harness.Case]:
    """Forward, and forward + backward to planes and weights; the whole cube only forward."""
    made = []
    for name, spec in (
        ("slab_exact", SigmaField(grid="exact").spec()),
        ("slab_skewed", SigmaField(grid="skewed").spec()),
        ("grid64", GridSpec(64)),
        ("cube256_exact", GridSpec(256)),
    ):
        for passes in ("forward", "forward_backward"):
            if name == "cube256_exact" and passes == "forward_backward":
                continue
            plain, native = (_runner(f, device, passes, spec) for f in (reference.density_grid, density_grid))
            made.append(harness.Case(name, passes, plain, native, rounds=1 if name == "cube256_exact" else 3))
    return made


def _runner(
    function: Callable[..., torch.Tensor],
    device: str,
    passes: str,
    spec: GridSpec,
) -> harness.Run:
    field = random_field(device, has_features=False)

    def run(dtype: torch.dtype) -> harness.Outputs:
        cast, inputs = with_tensors(field, dtype)
        with torch.set_grad_enabled(passes == "forward_backward"):
            value = function(cast, spec)
        if passes == "forward":
            return [value]
        return [value.detach(), *torch.autograd.grad(value, inputs, torch.ones_like(value))]

    return run


if __name__ == "__main__":
    harness.main("benchmarks.density", cases, __doc__, operation="density_grid")
