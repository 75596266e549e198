"""Pictures of meshes by a small software rasteriser: z-buffer, smooth normals, Lambert shading. Needs no display.

Shape letters: V vertices, F faces, P covered sub-pixels (faces times pixels of their boxes), R picture side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from eg3d.cameras import split_label

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
    side = resolution * SUBPIXELS
    vertices = (np.asarray(mesh.vertices) - c2w[:3, 3]) @ c2w[:3, :3]  # camera axes
    normals = vertex_normals(vertices, np.asarray(mesh.faces))
    normal, is_hit = _rasterise(vertices, np.asarray(mesh.faces), normals, K, side)
    picture = np.where(is_hit[..., None], _lit(normal), BACKGROUND)
    picture = picture.reshape(resolution, SUBPIXELS, resolution, SUBPIXELS, 3).mean((1, 3))
    return (np.clip(picture, 0, 1) ** (1 / GAMMA) * 255 + 0.5).astype(np.uint8)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals [V, 3]: the area-weighted mean of the normals of the faces around each vertex."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    sums = [np.bincount(faces.reshape(-1), np.repeat(cross[:, i], 3), minlength=len(vertices)) for i in range(3)]
    normals = np.stack(sums, axis=1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _lit(normal: np.ndarray) -> np.ndarray:
    """Linear colours [..., 3] of unit normals in camera axes."""
    light = np.full(normal.shape[:-1], AMBIENT)
    for direction, strength in LIGHTS:
        light += strength * np.maximum(normal @ (direction / np.linalg.norm(direction)), 0)
    return light[..., None] * CLAY


def _rasterise(
    vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, K: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Normals [side, side, 3] facing the camera, and hits [side, side], of the nearest surface at pixel centres."""
    depth = vertices[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        fractions = vertices[:, :2] / depth[:, None] * K.diagonal()[:2] + K[:2, 2]
        screen = fractions * side - 0.5  # pixel centres are integers
    faces = faces[(depth[faces] > 1e-3).all(1)]
    face, x, y = _covered(screen, faces, side)
    weights, is_inside = _barycentric(screen[faces[face]], x, y)
    face, x, y, weights = face[is_inside], x[is_inside], y[is_inside], weights[is_inside]
    weights = weights / depth[faces[face]]  # perspective: weights / depth are linear on the screen
    total = weights.sum(1)
    pixel = y * side + x
    order = np.lexsort((-total, pixel))  # by pixel, the nearest (largest 1 / depth) first
    pixel, first = np.unique(pixel[order], return_index=True)
    chosen = order[first]
    normal = np.einsum("pi,pij->pj", weights[chosen], normals[faces[face[chosen]]])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    x, y = pixel % side, pixel // side
    away = np.stack(
        [((at + 0.5) / side - K[i, 2]) / K[i, i] for i, at in enumerate((x, y))] + [np.ones(len(x))], axis=1
    )
    normal *= np.where((normal * away).sum(1) > 0, -1.0, 1.0)[:, None]
    normals_out, is_hit = np.zeros((side * side, 3)), np.zeros(side * side, bool)
    normals_out[pixel], is_hit[pixel] = normal, True
    return normals_out.reshape(side, side, 3), is_hit.reshape(side, side)


def _covered(screen: np.ndarray, faces: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pixel of every face's box on the screen: face number, x and y, all [P]."""
    corners = screen[faces]  # [F, 3, 2]
    low = np.clip(np.ceil(corners.min(1)), 0, side).astype(int)
    high = np.clip(np.floor(corners.max(1)), -1, side - 1).astype(int)
    extent = np.maximum(high - low + 1, 0)
    counts = extent.prod(1)
    face = np.repeat(np.arange(len(faces)), counts)
    step = np.arange(len(face)) - np.repeat(counts.cumsum() - counts, counts)
    width = extent[face, 0]
    return face, low[face, 0] + step % np.maximum(width, 1), low[face, 1] + step // np.maximum(width, 1)


def _barycentric(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [P, 3] of the corners [P, 3, 2] at (x, y), and whether the point lies inside (edges included)."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    point = np.stack([x, y], axis=1)

    def area(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        return (q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (r[:, 0] - p[:, 0])

    whole = area(a, b, c)
    safe = np.where(whole == 0, 1.0, whole)
    weights = np.stack([area(b, c, point), area(c, a, point), area(a, b, point)], axis=1) / safe[:, None]
    return weights, (weights >= -1e-9).all(1) & (whole != 0)
