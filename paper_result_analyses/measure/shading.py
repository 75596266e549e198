"""Pictures of meshes: smooth normals, Lambert shading. Needs no display. Shape letter: R picture side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from eg3d.cameras import split_label
from eg3d.raster import project, rasterize, vertex_normals

if TYPE_CHECKING:
    import trimesh

CLAY = np.array([0.83, 0.81, 0.78])  # linear colour of the surface
BACKGROUND = 1.0
# Directions towards the lights in camera axes (right, down, forward), and their strengths.
LIGHTS = ((np.array([-0.70, -0.70, -0.50]), 0.86), (np.array([0.75, -0.10, -0.45]), 0.16))
AMBIENT = 0.07
SUBPIXELS = 2  # per side of a pixel
GAMMA = 2.2


def shade_mesh(mesh: trimesh.Trimesh, c: Tensor, resolution: int) -> np.ndarray:
    """Picture uint8 [R, R, 3] of a mesh (world units) from camera label c [25] or [1, 25], on white.

    Same framing as a render from `c`. Surfaces seen from behind are lit as if seen from the front. The same mesh gives
    the same picture. Nothing in view is an all-white picture.
    """
    c2w, K = (part[0].double().numpy() for part in split_label(c.detach().cpu().reshape(1, -1)))
    side, focal = resolution * SUBPIXELS, float(K[0, 0])
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    screen, nearness = project(vertices, c2w, focal=focal, resolution=side)
    seen, _ = rasterize(screen, nearness, faces, side, two_sided=True).perspective(nearness, faces)
    normal = seen.interpolate(vertex_normals(vertices, faces), faces) @ c2w[:3, :3]  # camera axes
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    across, down = (((at + 0.5) / side - 0.5) / focal for at in (seen.pixel % side, seen.pixel // side))
    away = np.stack([across, down, np.ones(len(across))], axis=1)
    normal *= np.where((normal * away).sum(1) > 0, -1.0, 1.0)[:, None]
    picture = np.full((side * side, 3), BACKGROUND)
    picture[seen.pixel] = _lit(normal)
    picture = picture.reshape(resolution, SUBPIXELS, resolution, SUBPIXELS, 3).mean((1, 3))
    return (np.clip(picture, 0, 1) ** (1 / GAMMA) * 255 + 0.5).astype(np.uint8)


def _lit(normal: np.ndarray) -> np.ndarray:
    """Linear colours [..., 3] of unit normals in camera axes."""
    light = np.full(normal.shape[:-1], AMBIENT)
    for direction, strength in LIGHTS:
        light += strength * np.maximum(normal @ (direction / np.linalg.norm(direction)), 0)
    return light[..., None] * CLAY
