"""Raw density on grids at the size of published faces: slabs of 128 x 141 x 129, 64^3, 256^3."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks import harness
from benchmarks.field import random_decoder, random_planes
from eg3d.ops.density_grid import reference
from eg3d.ops.density_grid.op import density_grid
from eg3d.representations.sigma_field import SigmaFieldConfig, slab_slices


def cases(device: str) -> list[harness.Case]:
    """Forward, and forward + backward to planes and weights; the whole cube only forward."""
    slab, part64, part256 = slab_slices(SigmaFieldConfig()), (slice(0, 64),) * 3, (slice(0, 256),) * 3
    made = []
    for name, resolution, slices, grid in (
        ("slab_exact", 256, slab, "exact"),
        ("slab_skewed", 256, slab, "skewed"),
        ("grid64", 64, part64, "exact"),
        ("cube256_exact", 256, part256, "exact"),
    ):
        for passes in ("forward", "forward_backward"):
            if name == "cube256_exact" and passes == "forward_backward":
                continue
            plain, native = (
                _runner(f, device, passes, resolution, slices, grid) for f in (reference.density_grid, density_grid)
            )
            made.append(harness.Case(name, passes, plain, native, rounds=1 if name == "cube256_exact" else 3))
    return made


def _runner(
    function: Callable[..., torch.Tensor],
    device: str,
    passes: str,
    resolution: int,
    slices: reference.Slices,
    grid: str,
) -> harness.Run:
    planes, weights = random_planes(device), random_decoder(device).density_weights()
    options = {"resolution": resolution, "slices": slices, "grid": grid, "box_warp": 1.0, "plane_axes": "xy_xz_zx"}

    def run(dtype: torch.dtype) -> harness.Outputs:
        inputs = [t.detach().to(dtype).requires_grad_() for t in (planes, *weights)]
        with torch.set_grad_enabled(passes == "forward_backward"):
            value = function(*inputs, **options)
        if passes == "forward":
            return [value]
        return [value.detach(), *torch.autograd.grad(value, inputs, torch.ones_like(value))]

    return run


if __name__ == "__main__":
    harness.main("benchmarks.density", cases, __doc__)
