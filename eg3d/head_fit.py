"""Fitting a head model to a point cloud: closest points, then one Gauss-Newton step for code and motion, a few times.

The distance is that along the model's normals, with a little of the whole one so that the surface does not slide; what
lies far off, or faces another way, does not count. Plain numpy: hundreds of shapes are fitted on a CPU.
Shape letters: M points, V vertices, F triangles, K components.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse
    import scipy.spatial

SLIDING = 0.05  # share of the squared distance across the normal
FACING = 0.3  # cosine of the largest angle between the normals of a point and of its place on the model
MOTION_STEPS = 2  # the first steps move and scale only
COARSE_STEPS, COARSE = 2, 16  # then as many steps of as many components
REACH_SHRINKS = 0.75  # a step
LEAST_REACH = 0.02  # world units; vertices of the scalp lie farther apart than those of the face
HEAD_RADIUS = 0.2  # world units


@dataclass(frozen=True)
class FitConfig:
    """How a head model is fitted to points."""

    num_components: int = 48
    ridge: float = 0.02  # mm squared that a number of the code costs at one standard deviation, beside the mean square
    iterations: int = 10
    reach: float = 0.08  # world units: points farther off do not count at first
    is_moving: bool = True  # whether the head may turn, shift and scale
    motion_ridge: float = 0.002  # the same for a motion that shifts the rim of a head by one mm
    most_points: int = 1500  # more are thinned out evenly at random


@dataclass
class Motion:
    """A similarity: scale * rotation @ x + shift."""

    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    shift: np.ndarray = field(default_factory=lambda: np.zeros(3))
    scale: float = 1.0

    def points(self, x: np.ndarray) -> np.ndarray:
        """Points [M, 3] where the similarity puts them."""
        return self.scale * x @ self.rotation.T + self.shift


@dataclass(frozen=True)
class Shape:
    """The part of a head model that is fitted; lengths in world units."""

    mean: np.ndarray  # [V, 3]
    components: np.ndarray  # [V, 3, K]
    faces: np.ndarray  # [F, 3] of these vertices
    around: scipy.sparse.csr_matrix  # [V, F] 1 where a triangle touches a vertex
    mm_per_unit: float


class Fitted(NamedTuple):
    """What a fit to M points found; lengths in world units."""

    code: np.ndarray  # [K]
    motion: Motion  # takes the head of this code to the points
    distances: np.ndarray  # [M] from the surface; from the nearest vertex for points that do not count
    counts: np.ndarray  # bool [M]: near enough, and facing the same way


def fit_points(shape: Shape, points: np.ndarray, normals: np.ndarray | None, cfg: FitConfig) -> Fitted:
    """Fit to points [M, 3] with unit normals [M, 3] or None, world units.

    The head must stand about as the model's do, within cfg.reach.
    """
    import scipy.spatial  # half a second that commands without fits need not wait for

    rng = np.random.RandomState(0)
    thin = rng.permutation(len(points))[: cfg.most_points]
    some, some_normals = points[thin], None if normals is None else normals[thin]
    code, motion, moved = np.zeros(shape.components.shape[2]), Motion(), np.zeros(7)
    reach = cfg.reach
    for step in range(cfg.iterations):
        vertices, model_normals = _placed(shape, code, motion)
        tree = scipy.spatial.cKDTree(vertices, balanced_tree=False)
        index, counts = _pairs(tree, some, some_normals, model_normals, reach)
        if counts.sum() < 10:
            break
        at, n, wanted = index[counts], model_normals[index[counts]], some[counts] - vertices[index[counts]]
        num = 0 if step < MOTION_STEPS and cfg.is_moving else len(code)
        num = min(num, COARSE) if step < MOTION_STEPS + COARSE_STEPS else num
        centre = vertices.mean(axis=0)
        change = _step(shape, at, n, wanted, vertices[at] - centre, code[:num], moved, motion, cfg)
        code[:num] += change[:num]
        if cfg.is_moving:
            moved += change[num:]
            rim = HEAD_RADIUS * shape.mm_per_unit
            turn, shift = (motion.rotation @ part for part in (change[num : num + 3], change[num + 3 : num + 6]))
            motion = _moved(motion, turn / rim, shift / shape.mm_per_unit, change[num + 6] / rim, centre)
        reach = max(reach * REACH_SHRINKS, LEAST_REACH)
    vertices, model_normals = _placed(shape, code, motion)
    tree = scipy.spatial.cKDTree(vertices, balanced_tree=False)
    index, counts = _pairs(tree, points, normals, model_normals, reach)
    off = points - vertices[index]
    distances = np.where(counts, np.abs((off * model_normals[index]).sum(axis=1)), np.linalg.norm(off, axis=1))
    return Fitted(code, motion, distances, counts)


def _placed(shape: Shape, code: np.ndarray, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and unit normals [V, 3]."""
    vertices = motion.points(shape.mean + shape.components @ code.astype(shape.components.dtype))
    a, b, c = (vertices[shape.faces[:, i]] for i in range(3))
    (ux, uy, uz), (vx, vy, vz) = (b - a).T, (c - a).T
    of_faces = np.stack(
        [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx], axis=1
    )  # np.cross takes thrice as long
    normals = shape.around @ of_faces
    return vertices, normals / np.maximum(np.sqrt(np.square(normals).sum(axis=1, keepdims=True)), 1e-12)


def _pairs(
    tree: scipy.spatial.cKDTree,
    points: np.ndarray,
    normals: np.ndarray | None,
    model_normals: np.ndarray,
    reach: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The vertex nearest to each point, and whether the two may be the same place."""
    distance, index = tree.query(points)
    counts = distance < reach
    if normals is not None:
        counts &= (model_normals[index] * normals).sum(axis=1) > FACING
    return index, counts


def _step(
    shape: Shape,
    at: np.ndarray,
    n: np.ndarray,
    wanted: np.ndarray,
    arm: np.ndarray,
    code: np.ndarray,
    moved: np.ndarray,
    motion: Motion,
    cfg: FitConfig,
) -> np.ndarray:
    """Change of the code and, where the head may move, of turn [3], shift [3] and growth, in mm at the head's rim
    and along the axes of the model.

    Pairs are vertices `at` with normals n [M, 3], the ways `wanted` [M, 3] to their points and the arms [M, 3] from the
    head's centre. `moved` [7] is the sum of the changes so far.
    """
    unit, num = shape.mm_per_unit, len(code)
    n, residual, arm = ((x @ motion.rotation).astype(np.float32) for x in (n, wanted * unit, arm / HEAD_RADIUS))
    jacobian = np.empty((len(at), 3, num + 7 * cfg.is_moving), dtype=np.float32)
    np.multiply(shape.components[at, :, :num], motion.scale * unit, out=jacobian[:, :, :num])
    if cfg.is_moving:
        x, y, z = arm.T
        jacobian[:, :, num:] = 0.0
        for row, column, value in ((1, 0, -z), (2, 0, y), (0, 1, z), (2, 1, -x), (0, 2, -y), (1, 2, x)):
            jacobian[:, row, num + column] = value
        jacobian[:, [0, 1, 2], [num + 3, num + 4, num + 5]] = 1.0
        jacobian[:, :, num + 6] = arm
    along = jacobian[:, 0] * n[:, :1] + jacobian[:, 1] * n[:, 1:2] + jacobian[:, 2] * n[:, 2:]
    across = jacobian.reshape(-1, jacobian.shape[2])
    left = (residual * n).sum(axis=1)
    weight = 1.0 / (1.0 + np.square(left / max(3.0 * np.median(np.abs(left)), 1e-6)))  # Cauchy
    weight /= weight.sum()
    spread = np.repeat(weight * SLIDING, 3)
    normal = along.T @ (along * weight[:, None]) + across.T @ (across * spread[:, None])
    wish = along.T @ (left * weight) + across.T @ (residual.ravel() * spread)
    now = np.concatenate([code, moved])[: len(wish)]
    penalty = np.where(np.arange(len(wish)) < num, cfg.ridge, cfg.motion_ridge)
    return np.linalg.solve(normal + np.diag(penalty), wish - penalty * now)


def _moved(motion: Motion, turn: np.ndarray, shift: np.ndarray, growth: float, centre: np.ndarray) -> Motion:
    """The motion followed by a small turn and growth about a centre, and a shift."""
    growth = float(np.exp(np.clip(growth, -0.2, 0.2)))
    angle = float(np.linalg.norm(turn))
    x, y, z = turn / angle if angle > 0 else np.zeros(3)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    place = growth * rotation @ (motion.shift - centre) + centre + shift
    return Motion(rotation @ motion.rotation, place, motion.scale * growth)
