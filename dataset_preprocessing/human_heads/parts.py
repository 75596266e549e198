"""Closed surfaces that a portrait is put together from, and points on them. V vertices, F faces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from eg3d.raster import vertex_normals


@dataclass(frozen=True)
class Part:
    """One closed surface; faces turn outwards."""

    name: str  # "head", "hair", "bun", "glasses"
    vertices: np.ndarray  # float64 [V, 3] world units
    faces: np.ndarray  # int64 [F, 3]
    surface: np.ndarray  # float64 [V, SURFACE] coordinates on the surface, which its colours depend on
    normals: np.ndarray  # float64 [V, 3] unit length, for its light
    is_hidden: np.ndarray  # bool [V] deep inside the head, where there is no light


SURFACE = 6


def part(
    name: str,
    vertices: np.ndarray,
    faces: np.ndarray,
    surface: np.ndarray | None = None,
    *,
    normals: np.ndarray | None = None,
    is_hidden: np.ndarray | None = None,
) -> Part:
    """A part from vertices [V, 3], faces [F, 3] and up to SURFACE coordinates [V, S]; those that lack are 0.

    Normals [V, 3] are those of the faces and no vertex is hidden unless given.
    """
    padded = np.zeros((len(vertices), SURFACE))
    if surface is not None:
        padded[:, : surface.shape[1]] = surface
    normals = vertex_normals(vertices, faces) if normals is None else normals
    return Part(
        name, vertices, faces, padded, normals, np.zeros(len(vertices), bool) if is_hidden is None else is_hidden
    )


def is_closed(faces: np.ndarray) -> bool:
    """Whether faces [F, 3] have every edge twice, once in each direction."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    most = int(faces.max()) + 1 if len(faces) else 1
    forth, back = np.sort(edges[:, 0] * most + edges[:, 1]), np.sort(edges[:, 1] * most + edges[:, 0])
    return bool((forth == back).all() and (np.diff(forth) > 0).all())


def revolved(name: str, points: np.ndarray, surface: np.ndarray, *, outer: int | None = None) -> Part:
    """A closed part from points [A, B, 3] around an axis; the first and the last row become one point each.

    Of B rows the first `outer` are seen (None: all); the others are hidden and have the light of those beside them.
    """
    columns, rows = points.shape[:2]
    outer = rows if outer is None else outer
    faces = _revolved_faces(columns, rows - 2)
    vertices = _with_poles(points)
    seen = np.broadcast_to((np.arange(rows) < outer)[None, :, None], (columns, rows, 1))
    is_hidden = _with_poles(seen.astype(float))[:, 0] < 0.5
    normals = vertex_normals(vertices, faces[~is_hidden[faces].any(axis=1)])
    return part(name, vertices, faces, _with_poles(surface), normals=normals, is_hidden=is_hidden)


def _with_poles(rows: np.ndarray) -> np.ndarray:
    """Values [A, B, C] of the points between, way by way, then the mean of the first and of the last row."""
    between = rows[:, 1:-1].reshape(-1, rows.shape[2])
    return np.concatenate([between, rows[:, 0].mean(0, keepdims=True), rows[:, -1].mean(0, keepdims=True)])


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
