"""Raw density on a regular grid in plain PyTorch: the definition of correct.

Shape letters: N batch, X, Y, Z sides of the part, P points.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from eg3d.ops.density_grid.grid import GridSpec, grid_points
from eg3d.ops.density_points.reference import density_points
from eg3d.ops.triplane import TriPlane


def density_grid(field: TriPlane, spec: GridSpec, *, is_recomputed: bool = False) -> Tensor:
    """Raw density [N, X, Y, Z] by querying every point, sample by sample and chunk by chunk; see op.density_grid.

    is_recomputed: compute each chunk again in the backward pass instead of keeping its hidden layer.
    """
    planes = field.planes
    points = grid_points(spec, box_warp=field.box_warp, device=planes.device, dtype=planes.dtype)

    def query(sample: Tensor, piece: Tensor) -> Tensor:
        return density_points(field.with_tensors(sample, *field.tensors[1:]), piece).reshape(-1)

    values = [
        checkpoint(query, sample, piece, use_reentrant=False, preserve_rng_state=False)
        if is_recomputed
        else query(sample, piece)
        for sample in planes.unsqueeze(1)  # [1, 3, C, S, S] each
        for piece in points[None].split(spec.chunk, dim=1)
    ]
    return torch.cat(values).reshape(len(planes), *spec.shape) if values else planes.new_zeros(0, *spec.shape)
