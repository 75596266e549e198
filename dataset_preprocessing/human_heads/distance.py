"""Signed distances to closed meshes. Shape letters: P points, V vertices, F faces, K faces looked at for each point."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from dataset_preprocessing.human_heads.parts import vertex_normals

NEAREST = 16  # faces whose middles lie nearest to a point: the nearest face is among them on meshes as fine as ours
TOGETHER = 20_000  # points


def signed_distance(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Distances [P] of points [P, 3] to a closed mesh, negative inside: vertices [V, 3], faces [F, 3] outwards.

    The side is told by the vertices' normals, mixed where the nearest point lies, so that it may be wrong beside edges
    sharper than a right angle.
    """
    normals = vertex_normals(vertices, faces)
    tree = cKDTree(vertices[faces].mean(axis=1))
    blocks = [points[i : i + TOGETHER] for i in range(0, len(points), TOGETHER)]
    found = [_block(block, tree, vertices, faces, normals) for block in blocks]
    return np.concatenate(found) if found else np.zeros(0)


def _block(
    points: np.ndarray, tree: cKDTree, vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray
) -> np.ndarray:
    _, near = tree.query(points, min(NEAREST, len(faces)))
    near = near.reshape(len(points), -1)
    corners = vertices[faces[near]]  # [P, K, 3, 3]
    weights = _nearest_weights(points[:, None], *(corners[:, :, i] for i in range(3)))  # [P, K, 3]
    away = points[:, None] - (corners * weights[..., None]).sum(axis=2)
    distance = np.linalg.norm(away, axis=-1)
    best = distance.argmin(axis=1)
    rows = np.arange(len(points))
    normal = (normals[faces[near[rows, best]]] * weights[rows, best][..., None]).sum(axis=1)
    side = np.where((away[rows, best] * normal).sum(axis=1) < 0, -1.0, 1.0)
    return side * distance[rows, best]


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
