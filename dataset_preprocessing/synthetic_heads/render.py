"""Pictures of the parametric heads: sphere tracing, one light, exact black background, smooth silhouettes.

Each pixel's cone is marched until it may touch the surface; only then its sub-pixel rays are traced one by one.
Rays of all heads lie in one flat list, with the number of their head; distances are evaluated packed by head.
Shape letters: N heads, V views of each, R pixels a side, P rays or points, M pixels, S sub-pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataset_preprocessing.synthetic_heads.albedo import albedo
from dataset_preprocessing.synthetic_heads.shape import (
    HeadParameters,
    HeadParts,
    head_parameters,
    head_parts,
    sdf,
    union,
)
from eg3d.cameras import lookat_c2w

FFHQ_FOCAL = 2985.29 / 700.0  # normalised by the image side, as in the published labels
RAY_START, RAY_END = 2.2, 3.35  # world units from the camera; the box's content lies between
STEP_SCALE = 0.95  # the distance is a bound of first order only
CONE_STEPS, RAY_STEPS = 24, 32
HIT_PIXELS = 0.3  # a ray has arrived when the surface is nearer than this part of a pixel; one Newton step follows
DEPTH_PIXELS = 0.03  # the same for depth maps
BLOCK = 8  # pixels a side that share the first, widest cone
FLAT_PIXELS = 1.5  # sub-pixel hits within this many pixels of each other share one lighting computation
EVALUATE_TOGETHER = 30_000  # points; larger temporaries leave the cache and are mapped anew by each operation
SUBPIXELS = 2  # rays per pixel side
AMBIENT, DIFFUSE, MIN_VALUE = 0.60, 0.66, 0.13
NORMAL_STEP, OCCLUSION_STEP = 1.5e-3, 0.030


def camera_rays(c2w: Tensor, focal: float, resolution: int) -> tuple[Tensor, Tensor]:
    """Rays through pixel centres, row by row: c2w [V, 4, 4] -> origins [V, 3] and unit directions [V, R*R, 3]."""
    offset = ((torch.arange(resolution) + 0.5) / resolution - 0.5) / focal
    v, u = torch.meshgrid(offset, offset, indexing="ij")
    local = torch.stack([u, v, torch.ones_like(u)], dim=-1).reshape(-1, 3)
    local = local / local.norm(dim=-1, keepdim=True)
    return c2w[:, :3, 3], torch.einsum("vij,pj->vpi", c2w[:, :3, :3], local)


class _Packing:
    """Moves values of P points, sorted by their head [P], to a padded layout [N, longest] and back."""

    def __init__(self, head: Tensor, num_heads: int) -> None:
        counts = torch.bincount(head, minlength=num_heads)
        starts = counts.cumsum(0) - counts
        self.longest = int(counts.max())
        self.num_heads = num_heads
        self.place = head * self.longest + torch.arange(head.numel()) - starts[head]

    def pack(self, values: Tensor) -> Tensor:
        """[P, ...] -> [N, longest, ...], zeros where a head has fewer points."""
        padded = values.new_zeros(self.num_heads * self.longest, *values.shape[1:])
        padded[self.place] = values
        return padded.reshape(self.num_heads, self.longest, *values.shape[1:])

    def unpack(self, values: Tensor) -> Tensor:
        """[N, longest, ...] -> [P, ...]."""
        return values.flatten(0, 1)[self.place]


@dataclass
class _Rays:
    """P rays with the number of their head (rising), the flat index of their square and where they stand."""

    head: Tensor  # [P]
    origin: Tensor  # [P, 3]
    direction: Tensor  # [P, 3] unit length
    t: Tensor  # [P] world units

    def points(self) -> Tensor:
        return torch.addcmul(self.origin, self.t[:, None], self.direction)

    def subset(self, index: Tensor) -> _Rays:
        return _Rays(self.head[index], self.origin[index], self.direction[index], self.t[index])


def _march(rays: _Rays, params: HeadParameters, *, steps: int, reach: float, closest: float) -> Tensor:
    """Advance rays in place until the surface is nearer than reach * t; steps are at least closest * t long.

    Rays stop one Newton step short of `reach`. Returns hit [P]: False for rays that left RAY_END, and for those that
    ran out of steps while farther than 4 * reach from the surface (they passed a silhouette).
    """
    hit = torch.ones_like(rays.t, dtype=torch.bool)
    rays.t = rays.t.clone()
    active = torch.arange(rays.t.numel())
    going_rays = rays.subset(active)
    for _ in range(steps):
        if active.numel() == 0:
            break
        packing = _Packing(going_rays.head, params.brow.shape[0])
        distance = packing.unpack(_in_blocks(sdf, packing.pack(going_rays.points()), params))
        near = reach * going_rays.t
        is_far = distance >= near
        going_rays.t = going_rays.t + torch.where(
            is_far, torch.maximum(distance * STEP_SCALE, closest * going_rays.t), distance - near
        )
        rays.t[active] = going_rays.t
        is_gone = is_far & (going_rays.t >= RAY_END)
        hit[active] = ~is_gone & (distance < 4.0 * near)
        going = (is_far & ~is_gone).nonzero()[:, 0]
        active, going_rays = active[going], going_rays.subset(going)
    return hit


def _in_blocks(function: Callable[[Tensor, HeadParameters], Tensor], points: Tensor, params: HeadParameters) -> Tensor:
    """function(points [N, P, 3], params) -> [..., N, P], computed a block of points at a time."""
    size = max(1, EVALUATE_TOGETHER // points.shape[0])
    return torch.cat([function(block, params) for block in points.split(size, dim=1)], dim=-1)


def _stacked_parts(points: Tensor, params: HeadParameters) -> Tensor:
    return torch.stack(head_parts(points, params))


def light_directions(params: HeadParameters) -> Tensor:
    """Unit vectors [N, 3] towards each head's light: in front, above, turned by its light number."""
    azimuth, elevation = 0.35 * params.light, torch.full_like(params.light, 0.55)
    return torch.cat([azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()], dim=1)


def lighting(points: Tensor, params: HeadParameters) -> tuple[Tensor, HeadParts]:
    """Brightness [N, P] (Lambert, ambient, near occlusion) and the parts' distances at surface points [N, P, 3]."""
    corners = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, 1.0, 1.0]])
    around = [HeadParts(*_in_blocks(_stacked_parts, points + NORMAL_STEP * corner, params)) for corner in corners]
    normal = sum(corner * union(parts)[..., None] for corner, parts in zip(corners, around, strict=True))
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    open_distance = _in_blocks(sdf, points + OCCLUSION_STEP * normal, params)
    openness = 0.55 + 0.45 * (open_distance / OCCLUSION_STEP).clamp(0.0, 1.0)
    facing = (normal * light_directions(params)[:, None]).sum(dim=-1).clamp_min(0.0)
    sky = AMBIENT * (0.8 + 0.2 * normal[..., 1])
    centre = HeadParts(*(sum(values) / len(corners) for values in zip(*around, strict=True)))
    return (sky + DIFFUSE * facing) * openness, centre


def shade(points: Tensor, hit: Tensor, head: Tensor, params: HeadParameters, *, flat: float) -> Tensor:
    """Colours [M, S, 3] in [MIN_VALUE, 1] of sub-pixel points [M, S, 3], head [M]; 0 where hit [M, S] is False.

    Pixels whose points lie within `flat` world units of each other are lit once, at their mean; colours never are.
    """
    mean = points.mean(dim=1, keepdim=True)
    shared = hit.all(dim=1) & ((points - mean).abs().amax(dim=(1, 2)) < flat)
    is_lit = hit & ~shared[:, None]
    is_lit[:, 0] |= shared  # the first sub-pixel of a flat pixel stands for all four
    lit_points = torch.where(shared[:, None, None], mean, points)[is_lit]
    heads = head[:, None].expand_as(hit)
    packing = _Packing(heads[is_lit], params.brow.shape[0])
    brightness, parts = lighting(packing.pack(lit_points), params)
    source = (is_lit.flatten().cumsum(0) - 1).reshape(hit.shape)
    source = torch.where(shared[:, None], source[:, :1], source)[hit]
    brightness = packing.unpack(brightness)[source]
    sources = [packing.unpack(part)[source] for part in parts]

    packing = _Packing(heads[hit], params.brow.shape[0])
    tint = albedo(packing.pack(points[hit]), params, HeadParts(*(packing.pack(part) for part in sources)))
    colour = torch.zeros_like(points)
    colour[hit] = (packing.unpack(tint) * brightness[:, None]).clamp(MIN_VALUE, 1.0)
    return colour


@torch.no_grad()
def render_views(params: HeadParameters, c2w: Tensor, *, resolution: int, focal: float = FFHQ_FOCAL) -> np.ndarray:
    """Pictures of N heads: c2w [N, V, 4, 4] -> uint8 [N, V, R, R, 3], background exactly 0.

    Marches cones of BLOCK^2 pixels, then of one pixel, then SUBPIXELS^2 rays for each pixel that may see the head.
    Source: Hart (1996), sphere tracing. Raises ValueError if the resolution is no multiple of BLOCK.
    """
    num_heads, views = c2w.shape[:2]
    index, t = _pixels_that_may_hit(params, c2w, resolution, focal)
    samples, width = SUBPIXELS * SUBPIXELS, _pixel_width(resolution, focal)
    subpixels = _split(index, resolution, SUBPIXELS)
    rays = _rays(c2w, focal, resolution * SUBPIXELS, subpixels, t.repeat_interleave(samples))
    hit = _march(rays, params, steps=RAY_STEPS, reach=HIT_PIXELS * width, closest=0.4 * width)
    colour = shade(
        rays.points().reshape(-1, samples, 3),
        hit.reshape(-1, samples),
        rays.head[::samples],
        params,
        flat=FLAT_PIXELS * width * RAY_START,
    )
    image = torch.zeros(num_heads * views * resolution**2, 3)
    image[index] = colour.mean(dim=1)
    return (image * 255.0 + 0.5).to(torch.uint8).reshape(num_heads, views, resolution, resolution, 3).numpy()


@torch.no_grad()
def depth_views(params: HeadParameters, c2w: Tensor, *, resolution: int, focal: float = FFHQ_FOCAL) -> np.ndarray:
    """True distances along the rays through pixel centres: c2w [N, V, 4, 4] -> float32 [N, V, R, R], 0 = background.

    World units; a ray ends about DEPTH_PIXELS of a pixel before the surface. Raises ValueError as `render_views` does.
    """
    index, t = _pixels_that_may_hit(params, c2w, resolution, focal)
    width = _pixel_width(resolution, focal)
    rays = _rays(c2w, focal, resolution, index, t)
    hit = _march(rays, params, steps=2 * RAY_STEPS, reach=DEPTH_PIXELS * width, closest=0.1 * width)
    depth = torch.zeros(c2w.shape[0] * c2w.shape[1] * resolution**2)
    depth[index] = torch.where(hit, rays.t, 0.0)
    return depth.reshape(*c2w.shape[:2], resolution, resolution).numpy()


def _pixels_that_may_hit(params: HeadParameters, c2w: Tensor, resolution: int, focal: float) -> tuple[Tensor, Tensor]:
    """Flat indices [M] of the pixels whose cones may touch the surface, and the distances [M] they are free up to."""
    if resolution % BLOCK:
        raise ValueError(f"resolution {resolution} must be a multiple of {BLOCK}")
    index = torch.arange(c2w.shape[0] * c2w.shape[1] * (resolution // BLOCK) ** 2)
    t = torch.full((index.numel(),), RAY_START)
    for side, split in ((resolution // BLOCK, 1), (resolution, BLOCK)):
        index = _split(index, side // split, split)
        rays = _rays(c2w, focal, side, index, t.repeat_interleave(split * split))
        cone = math.sqrt(0.5) * _pixel_width(side, focal)  # a cone of this slope holds its square
        near = _march(rays, params, steps=CONE_STEPS, reach=cone, closest=0.0)
        index, t = index[near], rays.t[near]
    return index, t


def _pixel_width(resolution: int, focal: float) -> float:
    """Width of a pixel at distance 1."""
    return 1.0 / (resolution * focal)


def _rays(c2w: Tensor, focal: float, side: int, index: Tensor, t: Tensor) -> _Rays:
    """Rays through the squares `index` (head, view, row, column, flat) of side^2 squares in each view."""
    origins, directions = camera_rays(c2w.flatten(0, 1), focal, side)
    picture = index // (side * side)
    return _Rays(picture // c2w.shape[1], origins[picture], directions.reshape(-1, 3)[index], t)


def _split(index: Tensor, side: int, factor: int) -> Tensor:
    """Flat indices (picture, row, column) of squares on a side^2 grid -> those of their factor^2 children."""
    picture, row, column = index // (side * side), index // side % side, index % side
    small = torch.arange(factor)
    rows = (row[:, None] * factor + small)[:, :, None]
    columns = (column[:, None] * factor + small)[:, None, :]
    fine = side * factor
    return ((picture[:, None, None] * fine + rows) * fine + columns).reshape(-1)


def contact_sheet(
    seeds: list[int], *, resolution: int = 128, poses: list[tuple[float, float]] | None = None
) -> np.ndarray:
    """A table of pictures, one row a head, one column a (yaw, pitch) in radians: uint8 [rows*R, columns*R, 3]."""
    poses = poses or [(-0.5, 0.0), (-0.25, -0.12), (0.0, 0.0), (0.25, 0.12), (0.5, 0.0), (0.0, -0.25), (0.0, 0.25)]
    yaw, pitch = torch.tensor(poses, dtype=torch.float32).unbind(-1)
    c2w = lookat_c2w(yaw, pitch)
    rows = [
        np.concatenate(list(render_views(head_parameters(s), c2w[None], resolution=resolution)[0]), axis=1)
        for s in seeds
    ]
    return np.concatenate(rows, axis=0)
