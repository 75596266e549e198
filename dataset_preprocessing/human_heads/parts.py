"""Closed surfaces that a portrait is put together from, and points on them. V vertices, F faces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True)
class Part:
    """One closed surface; faces turn outwards."""

    name: str  # "head", "hair", "bun", "glasses"
    vertices: np.ndarray  # float64 [V, 3] world units
    faces: np.ndarray  # int64 [F, 3]
    surface: np.ndarray  # float64 [V, SURFACE] coordinates on the surface, which its colours depend on


SURFACE = 6


def part(name: str, vertices: np.ndarray, faces: np.ndarray, surface: np.ndarray | None = None) -> Part:
    """A part from vertices [V, 3], faces [F, 3] and up to SURFACE coordinates [V, S]; those that lack are 0."""
    padded = np.zeros((len(vertices), SURFACE))
    if surface is not None:
        padded[:, : surface.shape[1]] = surface
    return Part(name, vertices, faces, padded)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals [V, 3] of vertices [V, 3]: those of the faces [F, 3] around them, by area; 0 where there are none."""
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.stack(
        [sum(np.bincount(faces[:, i], normal[:, k], len(vertices)) for i in range(3)) for k in range(3)], axis=1
    )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def is_closed(faces: np.ndarray) -> bool:
    """Whether faces [F, 3] have every edge twice, once in each direction."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    most = int(faces.max()) + 1 if len(faces) else 1
    forth, back = np.sort(edges[:, 0] * most + edges[:, 1]), np.sort(edges[:, 1] * most + edges[:, 0])
    return bool((forth == back).all() and (np.diff(forth) > 0).all())


def revolved(name: str, points: np.ndarray, surface: np.ndarray) -> Part:
    """A closed part from points [A, B, 3] around an axis; the first and the last row become one point each."""
    columns, rows = points.shape[:2]
    inner, coordinates = points[:, 1:-1].reshape(-1, 3), surface[:, 1:-1].reshape(-1, surface.shape[2])
    poles = np.stack([points[:, 0].mean(0), points[:, -1].mean(0)])
    ends = np.stack([surface[0, 0], surface[0, -1]])
    faces = _revolved_faces(columns, rows - 2)
    return part(name, np.concatenate([inner, poles]), faces, np.concatenate([coordinates, ends]))


@cache
def _revolved_faces(columns: int, rows: int) -> np.ndarray:
    """Faces [F, 3] of a closed surface of `columns` ways by `rows` points, and two poles."""
    a, b = np.arange(columns)[:, None], (np.arange(columns)[:, None] + 1) % columns
    r = np.arange(rows - 1)
    corners = [a * rows + r, a * rows + r + 1, b * rows + r + 1, b * rows + r]
    p, q, s, t = (np.broadcast_to(c, (columns, rows - 1)).reshape(-1) for c in corners)
    a, b, top = a[:, 0], b[:, 0], columns * rows
    first = np.stack([np.full(columns, top), a * rows, b * rows], axis=1)
    last = np.stack([np.full(columns, top + 1), b * rows + rows - 1, a * rows + rows - 1], axis=1)
    return np.concatenate([np.stack([p, q, s], axis=1), np.stack([p, s, t], axis=1), first, last]).astype(np.int64)
