"""Raw density on a regular grid in plain PyTorch: the definition of correct.

Shape letters: N batch, D grid side, X, Y, Z sides of the part, P points, C plane channels, S plane side, H hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from eg3d.ops.density_points.reference import density_points

GRIDS = ("exact", "skewed")
CHUNK_POINTS = 10**6  # points of one query, as published
Slices = tuple[slice, slice, slice]


def grid_points(
    resolution: int,
    *,
    box_warp: float = 1.0,
    grid: str,
    slices: Slices | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Points of the cube (or of the part `slices` of it), [P, 3] in world units, z running fastest.

    "exact": (i, j, k) * L / (D - 1) - L / 2. "skewed": the published coordinates, in which the flat index is divided
    as a real number, so that a coordinate also carries the fractions of the faster ones and overshoots by up to
    L / (D - 1). Released rewards were trained on it; the flat index is rounded to float32 as it was there.
    """
    check_grid(resolution, grid)
    ranges = slices or (slice(0, resolution),) * 3
    axes = [torch.arange(r.start, r.stop, device=device) for r in ranges]
    i, j, k = (axis.reshape(-1) for axis in torch.meshgrid(*axes, indexing="ij"))
    if grid == "exact":
        index = torch.stack([i, j, k], dim=-1).to(dtype)
    else:
        flat = ((i * resolution + j) * resolution + k).to(torch.float32).to(dtype)
        side = float(resolution)
        index = torch.stack([flat / side / side, (flat / side) % side, flat % side], dim=-1)
    return index * (box_warp / (resolution - 1)) - box_warp / 2


def density_grid(
    planes: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    resolution: int,
    slices: Slices,
    grid: str,
    box_warp: float,
    plane_axes: str,
    chunk: int = CHUNK_POINTS,
    is_recomputed: bool = False,
) -> Tensor:
    """Raw density [N, X, Y, Z] by querying every point, sample by sample and chunk by chunk; see op.density_grid.

    is_recomputed: compute each chunk again in the backward pass instead of keeping its hidden layer.
    """
    points = grid_points(
        resolution, box_warp=box_warp, grid=grid, slices=slices, device=planes.device, dtype=planes.dtype
    )

    def query(sample: Tensor, piece: Tensor) -> Tensor:
        return density_points(sample, piece, w1, b1, w2, b2, box_warp=box_warp, plane_axes=plane_axes).reshape(-1)

    values = [
        checkpoint(query, sample, piece, use_reentrant=False, preserve_rng_state=False)
        if is_recomputed
        else query(sample, piece)
        for sample in planes.unsqueeze(1)  # [1, 3, C, S, S] each
        for piece in points[None].split(chunk, dim=1)
    ]
    shape = [r.stop - r.start for r in slices]
    return torch.cat(values).reshape(len(planes), *shape) if values else planes.new_zeros(0, *shape)


def check_grid(resolution: int, grid: str) -> None:
    """ValueError unless there is such a grid."""
    if grid not in GRIDS:
        raise ValueError(f"grid: {grid!r} is not one of {', '.join(GRIDS)}")
    if resolution < 2:
        raise ValueError(f"resolution: a grid needs at least 2 points per side, got {resolution}")
