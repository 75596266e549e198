"""Distances to meshes. Shape letters: P points, V vertices, F faces, K faces looked at for each point."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

NEAREST = 12  # samples of faces nearest to a point: the nearest face is among theirs on meshes as fine as ours
SPACING = 0.015  # world units between the samples of a large face
TOGETHER = 20_000  # points


def surface_distance(
    points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, *, band: float = np.inf
) -> np.ndarray:
    """Distances [P] of points [P, 3] to a mesh: vertices [V, 3], faces [F, 3].

    Exact for points less than `band` away; those beyond get the distance to a point of the mesh nearby.
    """
    samples, owner = _samples(vertices[faces])
    tree = cKDTree(samples)
    distance, _ = tree.query(points)
    near = np.flatnonzero(distance < band)
    for block in (near[i : i + TOGETHER] for i in range(0, len(near), TOGETHER)):
        _, found = tree.query(points[block], min(NEAREST, len(samples)))
        corners = vertices[faces[owner[found.reshape(len(block), -1)]]]  # [P, K, 3, 3]
        p = points[block][:, None]
        weights = _nearest_weights(p, *(corners[:, :, i] for i in range(3)))  # [P, K, 3]
        distance[block] = np.linalg.norm(p - (corners * weights[..., None]).sum(axis=2), axis=-1).min(axis=1)
    return distance


def _samples(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of faces [F, 3, 3] and the face that each lies on: middles of small ones, a lattice on large ones."""
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    parts = np.maximum(np.ceil(longest / SPACING), 1).astype(np.int64)
    points, owner = [], []
    for n in np.unique(parts):
        u, v = (g.reshape(-1) for g in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
        u, v = u[u + v < n], v[u + v < n]
        weights = (np.stack([u, v, n - 1 - u - v], axis=1) + 1 / 3) / n  # [L, 3]
        which = np.flatnonzero(parts == n)
        points.append((weights @ corners[which]).reshape(-1, 3))
        owner.append(np.repeat(which, len(weights)))
    return np.concatenate(points or [np.zeros((0, 3))]), np.concatenate(owner or [np.zeros(0, dtype=np.int64)])


def _nearest_weights(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Barycentric weights [..., 3] of the points of triangles a, b, c that lie nearest to p, [..., 3] each."""
    ab, ac, ap = b - a, c - a, p - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    total = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / total, (d00 * d21 - d01 * d20) / total
    plane = np.stack([1.0 - v - w, v, w], axis=-1)
    choices = [plane]
    for i, j, start, end in ((0, 1, a, b), (1, 2, b, c), (2, 0, c, a)):
        edge = end - start
        t = ((p - start) * edge).sum(-1) / np.maximum((edge * edge).sum(-1), 1e-30)
        t = np.clip(t, 0.0, 1.0)
        on_edge = np.zeros_like(plane)
        on_edge[..., i], on_edge[..., j] = 1.0 - t, t
        choices.append(on_edge)
    weights = np.stack(choices, axis=-2)  # [..., 4, 3]
    away = p[..., None, :] - (weights[..., None] * np.stack([a, b, c], axis=-2)[..., None, :, :]).sum(axis=-2)
    distance = np.linalg.norm(away, axis=-1)
    distance[..., 0] = np.where((plane >= 0).all(-1), distance[..., 0], np.inf)
    best = distance.argmin(axis=-1)
    return np.take_along_axis(weights, best[..., None, None], axis=-2)[..., 0, :]
