"""Faces without area, taken out of a closed triangle mesh so that it stays closed.

Marching cubes makes them where a density hits the level exactly at a grid point: the crossings of all edges that end
there fall together. Such faces have no normal, and a smoothing would count their corners as neighbours.
Shape letters: V vertices, F faces, K kept vertices.
"""

from __future__ import annotations

import numpy as np

SHORTEST_EDGE = 1e-6  # voxels: marching cubes moves a crossing at a grid point by about float32's precision
LEAST_AREA = 1e-10  # voxels squared, twice the area; faces of surfaces that hit no grid point have more than 1e-8


def without_flat_faces(
    vertices: np.ndarray, faces: np.ndarray, *, shortest: float = SHORTEST_EDGE, least_area: float = LEAST_AREA
) -> tuple[np.ndarray, np.ndarray]:
    """Indices [K] of the vertices that are kept, in order, and faces [F', 3] among those; all used, none flat.

    vertices [V, 3]. The ends of an edge of at most `shortest` become one vertex, which takes the two faces at the edge
    away and leaves a closed surface closed; then faces whose area, twice, is at most `least_area` are dropped. A mesh
    without such edges and faces comes back as it is.
    """
    points = np.asarray(vertices, dtype=np.float64)
    smallest_edge, area = _sizes(points, faces)
    if (smallest_edge <= shortest).any():
        faces = _joined(points, faces, smallest_edge <= shortest, shortest=shortest)
        _, area = _sizes(points, faces)
    if (area <= least_area).any():
        faces = faces[area > least_area]
    used = np.zeros(len(points), dtype=bool)
    used[faces.reshape(-1)] = True
    if used.all():
        return np.arange(len(points)), faces
    return np.flatnonzero(used), (np.cumsum(used) - 1).astype(faces.dtype)[faces]


def _sizes(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per face [F]: its shortest edge, and twice its area."""
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    edges = (b - a, c - b, a - c)
    shortest = np.sqrt(np.minimum.reduce([np.einsum("ij,ij->i", edge, edge) for edge in edges]))
    normal = _cross(edges[0], edges[2])
    return shortest, np.sqrt(np.einsum("ij,ij->i", normal, normal))


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Cross products [F, 3]; several times faster than np.cross on millions of rows."""
    (x, y, z), (p, q, r) = u.T, v.T
    return np.stack([y * r - z * q, z * p - x * r, x * q - y * p], axis=1)


def _joined(points: np.ndarray, faces: np.ndarray, has_short: np.ndarray, *, shortest: float) -> np.ndarray:
    """Faces in which the ends of short edges are one vertex, the first of them; those that lost a corner are gone.

    has_short [F]: the faces that have such an edge.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    start, end = faces[has_short], np.roll(faces[has_short], -1, axis=1)
    is_short = np.linalg.norm(points[start] - points[end], axis=2) <= shortest
    edges = (start[is_short], end[is_short])
    graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(len(points),) * 2)
    _, label = connected_components(graph, directed=False)
    first = np.unique(label, return_index=True)[1].astype(faces.dtype)
    joined = first[label][faces]
    return joined[(joined != np.roll(joined, -1, axis=1)).all(axis=1)]
