"""The outer surface of a slab of raw density, closed, and the pieces that it falls into.

Shapes: X, Y, Z sides of the slab; V vertices; F faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from eg3d.representations.mesh import surface


@dataclass(frozen=True)
class OuterSurface:
    """A closed surface around everything but the air in front, in voxels of the slab."""

    vertices: np.ndarray  # [V, 3] float64, voxels
    neighbours: Any  # scipy CSR [V, V], rows add up to 1: times positions it gives the mean of the neighbours
    areas: np.ndarray  # [V] voxels squared
    normals: np.ndarray  # [V, 3] unit, outward
    is_main: np.ndarray  # [V] bool: of the largest piece
    stray: float  # share of the area in other pieces, 0 to 1
    floating: float  # share of the area in other pieces that no side of the slab cuts off, 0 to 1
    num_tunnels: int  # through the largest piece


def outer_surface(values: np.ndarray, level: float) -> OuterSurface | None:
    """The outer surface of float32 [X, Y, Z]; None where nothing crosses the level or a value is not finite."""
    solid = outer_solid(values, level) if np.isfinite(values).all() else np.zeros(values.shape, bool)
    if solid.all() or not solid.any():
        return None
    # Hollows are filled just above the level, so that only the outer surface is meshed; the margin closes it.
    filled = np.where(solid & (values < level), level + 1, values)
    closed = np.pad(filled, 1, constant_values=min(level - 50, float(values.min())))
    vertices, faces = surface(closed, level)
    vertices = vertices.astype(np.float64) - 1  # voxels of the slab
    neighbours = _adjacency(faces, len(vertices))
    piece, areas, normals = _pieces(vertices, faces, neighbours)
    total = np.bincount(piece, weights=areas)
    is_main = piece == int(total.argmax())
    # Closed surface: V - E + F = 2 - 2 * tunnels, and E = 3/2 F.
    euler = int(is_main.sum()) - int(is_main[faces[:, 0]].sum()) // 2
    stray = 1.0 - float(total.max() / total.sum())
    is_cut = np.zeros(len(total), dtype=bool)
    is_cut[piece[((vertices < 0) | (vertices > np.array(values.shape) - 1)).any(1)]] = True
    is_cut[int(total.argmax())] = True
    floating = float(total[~is_cut].sum() / total.sum())
    return OuterSurface(vertices, neighbours, areas, normals, is_main, stray, floating, max(0, (2 - euler) // 2))


def outer_solid(values: np.ndarray, level: float) -> np.ndarray:
    """bool [X, Y, Z]: everything but the air in front: matter, and hollows that the camera's side can not reach."""
    from scipy import ndimage

    air, _ = ndimage.label(values < level)
    in_front = np.unique(air[:, :, -1])
    return ~np.isin(air, in_front[in_front > 0])


def _adjacency(faces: np.ndarray, num_vertices: int):
    """Row-normalised neighbour matrix [V, V], scipy CSR: times positions it gives the mean of the neighbours."""
    from scipy.sparse import csr_array

    start = np.concatenate([faces[:, 0], faces[:, 1], faces[:, 2]])
    end = np.concatenate([faces[:, 1], faces[:, 2], faces[:, 0]])  # closed surface: each edge occurs in both directions
    graph = csr_array((np.ones(len(start)), (start, end)), shape=(num_vertices, num_vertices))
    degree = np.maximum(np.diff(graph.indptr), 1)
    graph.data /= np.repeat(degree, np.diff(graph.indptr))
    return graph


def _pieces(vertices: np.ndarray, faces: np.ndarray, neighbours) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per vertex: number of its connected piece, area around it, unit outward normal."""
    from scipy.sparse.csgraph import connected_components

    _, piece = connected_components(neighbours, directed=False)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)  # twice the area, outward
    face_area = np.linalg.norm(cross, axis=1) / 2
    corners, each = faces.reshape(-1), len(vertices)
    areas = np.bincount(corners, weights=np.repeat(face_area / 3, 3), minlength=each)
    normals = np.stack([np.bincount(corners, weights=np.repeat(cross[:, i], 3), minlength=each) for i in range(3)], 1)
    return piece, areas, normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
