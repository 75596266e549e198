"""The statistical head as the portraits use it: the average head's coordinates, masks and anchors, computed once.

Shape letters: N heads, V vertices, F faces, A ways and T steps of the hair's anchors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from scipy.spatial import cKDTree

from dataset_preprocessing.human_heads.hair import directions
from eg3d.head_model import HeadModel, Region, load_head_model

NEIGHBOURS = 32  # faces that a direction is tested against
EAR_TOP = np.array([0.166, 0.052, 0.075])  # of the average head, where the temples of glasses rest


@dataclass(frozen=True)
class HeadTemplate:
    """What all heads share. Coordinates on the surface of a head are those of the same vertex of the average head."""

    model: HeadModel
    rest: np.ndarray  # float64 [V, 3] the average head
    faces: np.ndarray  # int64 [F, 3]
    surface: np.ndarray  # float64 [V, 6] rest, then whether it is of lips, of an eyeball, of the mouth's inside
    eyes: np.ndarray  # int64 [2, E] vertices of the eyeballs, the one at -x first
    ears: np.ndarray  # int64 [2, E] vertices about EAR_TOP, the one at -x first
    centre: np.ndarray  # float64 [3] of the skull
    anchor_faces: np.ndarray  # int64 [A, T] faces that the hair's anchors lie on
    anchor_weights: np.ndarray  # float64 [A, T, 3]

    def vertices(self, shape: np.ndarray) -> np.ndarray:
        """Heads of shape codes [N, NUM_SHAPE]: float64 [N, V, 3] world units."""
        return self.model.vertices(torch.from_numpy(shape).float()).double().numpy()

    def anchors(self, vertices: np.ndarray) -> np.ndarray:
        """Where the hair's ways run on a head of vertices [V, 3]: [A, T, 3]."""
        return (vertices[self.faces[self.anchor_faces]] * self.anchor_weights[..., None]).sum(axis=2)

    @cached_property
    def rest_anchors(self) -> np.ndarray:
        """The same on the average head."""
        return self.anchors(self.rest)

    def rest_eyes(self) -> np.ndarray:
        """Centres [2, 3] of the average head's eyes."""
        return self.rest[self.eyes].mean(axis=1)


@cache
def head_template() -> HeadTemplate:
    """The template of the head model that the project ships."""
    model = load_head_model()
    rest, faces, region = model.mean.double().numpy(), model.faces.numpy(), model.region.numpy()
    eye = np.isin(region, [Region.EYE_WHITE, Region.IRIS, Region.PUPIL])
    ear = region == Region.EAR
    hidden = np.isin(region, [Region.MOUTH, Region.SOCKET, Region.BASE])
    sides = (-1.0, 1.0)
    eyes = [np.flatnonzero(eye & (rest[:, 0] * s > 0)) for s in sides]
    tops = [_nearest(rest, np.flatnonzero(ear), np.array([s, 1.0, 1.0]) * EAR_TOP, 4) for s in sides]
    least = min(len(ids) for ids in eyes)
    centre = np.array([0.0, 0.085, 0.03])
    bare = ~(eye | ear | hidden)[faces].any(axis=1)
    found, weights = _anchors(rest, faces, np.flatnonzero(bare), centre)
    masks = np.stack([region == Region.LIPS, eye, region == Region.MOUTH], axis=1)
    surface = np.concatenate([rest, masks], axis=1)
    return HeadTemplate(
        model, rest, faces, surface, np.stack([ids[:least] for ids in eyes]), np.stack(tops), centre, found, weights
    )


def _nearest(rest: np.ndarray, ids: np.ndarray, point: np.ndarray, count: int) -> np.ndarray:
    """Those `count` of some vertices that lie nearest to a point [3]."""
    return ids[np.argsort(((rest[ids] - point) ** 2).sum(1), kind="stable")[:count]]


def _anchors(
    rest: np.ndarray, faces: np.ndarray, allowed: np.ndarray, centre: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Faces [A, T] and weights [A, T, 3] where rays from the centre leave the head for good."""
    rays = directions()
    flat = rays.reshape(-1, 3)
    corners = rest[faces[allowed]] - centre
    middle = corners.mean(axis=1)
    _, near = cKDTree(middle / np.linalg.norm(middle, axis=1, keepdims=True)).query(flat, NEIGHBOURS)
    a, b, c = (corners[near, i] for i in range(3))  # [P, NEIGHBOURS, 3]
    # A ray d meets a triangle at weights proportional to the volumes that it spans with the triangle's edges.
    d = flat[:, None]
    volumes = np.stack([(np.cross(p, q) * d).sum(-1) for p, q in ((b, c), (c, a), (a, b))], axis=-1)
    total = volumes.sum(-1, keepdims=True)
    weights = volumes / np.where(np.abs(total) < 1e-15, 1e-15, total)
    reach = ((weights[..., None] * np.stack([a, b, c], axis=2)).sum(2) * d).sum(-1)
    is_hit = (weights.min(-1) > -0.02) & (total[..., 0] > 0)
    miss = -weights.min(-1)
    score = np.where(is_hit, reach, -1.0 - miss)
    best = score.argmax(axis=1)
    rows = np.arange(len(flat))
    chosen = np.clip(weights[rows, best], 0.0, None)
    chosen /= chosen.sum(-1, keepdims=True)
    shape = rays.shape[:2]
    return allowed[near[rows, best]].reshape(shape), chosen.reshape(*shape, 3)
