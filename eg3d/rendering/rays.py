"""Camera rays and where they cross the box. Shape letters: N batch, R rays (= side squared)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class RayBundle:
    """Rays of one render call."""

    rays_o: Tensor  # [N, R, 3] world units
    rays_d: Tensor  # [N, R, 3] unit length, so that distances along a ray are Euclidean


def pixel_rays(c2w: Tensor, K: Tensor, resolution: int) -> RayBundle:
    """One ray through each pixel centre, row by row from the top left.

    c2w [N, 4, 4] camera-to-world, OpenCV axes; K [N, 3, 3] over image size. Differentiable in both.
    """
    n = len(c2w)
    centres = (torch.arange(resolution, dtype=c2w.dtype, device=c2w.device) + 0.5) / resolution
    v, u = (grid.reshape(1, -1) for grid in torch.meshgrid(centres, centres, indexing="ij"))
    fx, skew, cx, fy, cy = (K[:, i, j].unsqueeze(1) for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)))
    y_cam = (v - cy) / fy
    x_cam = (u - cx + cy * skew / fy - skew * v / fy) / fx
    in_camera = torch.stack([x_cam, y_cam.expand_as(x_cam), torch.ones_like(x_cam)], dim=-1)
    rays_d = F.normalize(in_camera @ c2w[:, :3, :3].transpose(1, 2), dim=-1)
    rays_o = c2w[:, None, :3, 3].expand(n, resolution * resolution, 3)
    return RayBundle(rays_o, rays_d)


def box_limits(rays: RayBundle, box_warp: float, scope: str = "batch") -> tuple[Tensor, Tensor]:
    """Distances [N, R] at which rays enter and leave the cube of side `box_warp` around the origin (slab test).

    Rays that miss take the smallest entry of the rays that hit as near, and the largest *entry* as far: the
    published rule, which uses the entries twice. If no ray hits, near is -1 and far -2. scope: "batch", as published,
    looks at the rays of the whole call, so that a ray that misses depends on its batch neighbours; "sample" looks at
    each item by itself.
    """
    half = box_warp / 2
    inverse = 1 / rays.rays_d  # a ray parallel to a side gives +-inf, which the min and max below sort out
    a, b = (-half - rays.rays_o) * inverse, (half - rays.rays_o) * inverse
    near = torch.minimum(a, b).amax(dim=-1)
    far = torch.maximum(a, b).amin(dim=-1)
    if near.numel() == 0:
        return near, far
    hit = (near <= far) & (far >= 0)
    dims = (0, 1) if scope == "batch" else (1,)
    has_hit = hit.any(dim=dims, keepdim=True)
    first = near.masked_fill(~hit, math.inf).amin(dims, keepdim=True)
    last = near.masked_fill(~hit, -math.inf).amax(dims, keepdim=True)
    near = torch.where(hit, near, torch.where(has_hit, first, -1.0))
    return near, torch.where(hit, far, torch.where(has_hit, last, -2.0))
