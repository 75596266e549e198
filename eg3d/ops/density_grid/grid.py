"""Regular grids over the cube of a field: which points they have, and which part of them is wanted.

Shape letters: D grid side, X, Y, Z sides of the part, P points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GRIDS = ("exact", "skewed")
CHUNK_POINTS = 2**16  # points of one query where native operations are missing: about 100 MB at 64 hidden units
Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class GridSpec:
    """A part of a regular grid of D^3 points over the cube; a volume on it has the order (x, y, z)."""

    resolution: int  # D, points a side
    grid: str = "exact"  # "exact" | "skewed": the published grid, see grid_points
    slices: Slices | None = None  # index ranges (x, y, z); None = the whole grid
    chunk: int = CHUNK_POINTS  # points of one query where native operations are missing

    @property
    def ranges(self) -> Slices:
        """Index ranges of the part."""
        return self.slices or (slice(0, self.resolution),) * 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z)."""
        x, y, z = (r.stop - r.start for r in self.ranges)
        return x, y, z

    def check(self) -> None:
        """ValueError unless there is such a part of such a grid."""
        if self.grid not in GRIDS:
            raise ValueError(f"grid: {self.grid!r} is not one of {', '.join(GRIDS)}")
        if self.resolution < 2:
            raise ValueError(f"resolution: a grid needs at least 2 points per side, got {self.resolution}")
        if any(not 0 <= r.start < r.stop <= self.resolution for r in self.ranges):
            raise ValueError(f"slices must lie in 0:{self.resolution} and hold points, got {self.slices}")
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1 point, got {self.chunk}")


def grid_index(spec: GridSpec, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Indices of the grid's points along x, y, z, [P, 3], from 0 to D - 1, z running fastest.

    "exact": whole numbers. "skewed": the published indices, in which the flat index is divided as a real number, so
    that an index also carries the fractions of the faster ones and overshoots by up to 1; the flat index is rounded to
    float32 as it was there, the quotients to `dtype` (as there in float32: up to 0.002 off where D is no power of two).
    """
    spec.check()
    resolution = spec.resolution
    axes = [torch.arange(r.start, r.stop, device=device) for r in spec.ranges]
    i, j, k = (axis.reshape(-1) for axis in torch.meshgrid(*axes, indexing="ij"))
    if spec.grid == "exact":
        return torch.stack([i, j, k], dim=-1).to(dtype)
    flat = ((i * resolution + j) * resolution + k).to(torch.float32).to(dtype)
    side = float(resolution)
    return torch.stack([flat / side / side, (flat / side) % side, flat % side], dim=-1)


def grid_points(
    spec: GridSpec,
    *,
    box_warp: float = 1.0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Points of the grid, [P, 3] in world units; the cube has side L = box_warp: index * L / (D - 1) - L / 2.

    Released rewards were trained on the "skewed" grid, which overshoots the cube by up to L / (D - 1).
    """
    index = grid_index(spec, device=device, dtype=dtype)
    return index * (box_warp / (spec.resolution - 1)) - box_warp / 2
