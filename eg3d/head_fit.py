"""Fitting a head model to a point cloud: closest points, then one Gauss-Newton step for code and motion, a few times.

The distance is that along the model's normals, with a little of the whole one so that the surface does not slide; what
lies far off, or faces another way, does not count. Plain numpy: hundreds of shapes are fitted on a CPU.
Shape letters: M points, V vertices, F triangles, K components.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SLIDING = 0.05  # share of the squared distance across the normal
FACING = 0.3  # cosine of the largest angle between the normals of a point and of its place on the model
MOTION_STEPS = 2  # the first steps move and scale only
COARSE_STEPS, COARSE = 2, 16  # then as many steps of as many components
REACH_SHRINKS = 0.75  # a step
LEAST_REACH = 0.012  # world units
MOTION_RIDGE = 1e-3  # of the shift in mm that a motion makes at the rim of a head
HEAD_RADIUS = 0.2  # world units


@dataclass(frozen=True)
class FitConfig:
    """How a head model is fitted to points."""

    num_components: int = 48
    ridge: float = 0.02  # mm squared that a number of the code costs at one standard deviation, beside the mean square
    iterations: int = 10
    reach: float = 0.08  # world units: points farther off do not count at first
    is_moving: bool = True  # whether the head may turn, shift and scale
    most_points: int = 2000  # more are thinned out evenly at random


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
    mm_per_unit: float


def fit_points(shape: Shape, points: np.ndarray, normals: np.ndarray | None, cfg: FitConfig) -> tuple:
    """Fit to points [M, 3] with unit normals [M, 3] or None, world units.

    Returns the code [K], the Motion, and of every point its distance from the surface (world units, float [M]) and
    whether it counts (bool [M]).
    """
    import scipy.spatial

    rng = np.random.RandomState(0)
    thin = rng.permutation(len(points))[: cfg.most_points]
    some, some_normals = points[thin], None if normals is None else normals[thin]
    code, motion = np.zeros(shape.components.shape[2]), Motion()
    reach = cfg.reach
    for step in range(cfg.iterations):
        vertices, model_normals = _placed(shape, code, motion)
        tree = scipy.spatial.cKDTree(vertices)
        index, counts = _pairs(tree, some, some_normals, model_normals, reach)
        if counts.sum() < 10:
            break
        at, n, wanted = index[counts], model_normals[index[counts]], some[counts] - vertices[index[counts]]
        num = 0 if step < MOTION_STEPS and cfg.is_moving else len(code)
        num = min(num, COARSE) if step < MOTION_STEPS + COARSE_STEPS else num
        centre = vertices.mean(axis=0)
        change = _step(shape, at, n, wanted, vertices[at] - centre, code[:num], motion, cfg)
        code[:num] += change[:num]
        if cfg.is_moving:
            motion = _moved(motion, change[num:], centre)
        reach = max(reach * REACH_SHRINKS, LEAST_REACH)
    vertices, model_normals = _placed(shape, code, motion)
    tree = scipy.spatial.cKDTree(vertices)
    index, counts = _pairs(tree, points, normals, model_normals, reach)
    off = points - vertices[index]
    distances = np.where(counts, np.abs((off * model_normals[index]).sum(axis=1)), np.linalg.norm(off, axis=1))
    return code, motion, distances, counts


def _placed(shape: Shape, code: np.ndarray, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and unit normals [V, 3]."""
    vertices = motion.points(shape.mean + shape.components @ code.astype(shape.components.dtype))
    a, b, c = (vertices[shape.faces[:, i]] for i in range(3))
    of_faces = np.cross(b - a, c - a)
    corners = shape.faces.ravel()
    normals = np.stack(
        [np.bincount(corners, np.repeat(of_faces[:, i], 3), minlength=len(vertices)) for i in range(3)], axis=1
    )
    return vertices, normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _pairs(tree, points, normals, model_normals, reach) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
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
    motion: Motion,
    cfg: FitConfig,
) -> np.ndarray:
    """Change of the code and, where the head may move, of turn [3], shift [3] and logarithm of the scale.

    Pairs are vertices `at` with normals n [M, 3], the ways `wanted` [M, 3] to their points and the arms [M, 3] from the
    head's centre. Lengths are in mm within, motions in units of one mm at the head's rim.
    """
    unit = shape.mm_per_unit
    columns = [motion.scale * np.einsum("ij,mjk->mik", motion.rotation, shape.components[at, :, : len(code)])]
    if cfg.is_moving:
        rim = 1.0 / (HEAD_RADIUS * unit)
        turn = np.stack([np.cross(axis, arm) for axis in np.eye(3)], axis=2) * rim
        shift = np.broadcast_to(np.eye(3) / unit, (len(at), 3, 3))
        columns += [turn, shift, arm[:, :, None] * rim]
    jacobian = np.concatenate(columns, axis=2) * unit
    residual = wanted * unit
    along, across = np.einsum("mik,mi->mk", jacobian, n), jacobian.reshape(-1, jacobian.shape[2])
    left = (residual * n).sum(axis=1)
    weight = 1.0 / (1.0 + np.square(left / max(3.0 * np.median(np.abs(left)), 1e-6)))  # Cauchy
    weight /= weight.sum()
    spread = np.repeat(weight * SLIDING, 3)
    normal = along.T @ (along * weight[:, None]) + across.T @ (across * spread[:, None])
    wish = along.T @ (left * weight) + across.T @ (residual.ravel() * spread)
    num = len(code)
    penalty = np.full(len(wish), MOTION_RIDGE)
    penalty[:num] = cfg.ridge
    wish[:num] -= cfg.ridge * code
    change = np.linalg.solve(normal + np.diag(penalty), wish)
    change[num:] /= HEAD_RADIUS * unit
    change[num + 3 : num + 6] *= HEAD_RADIUS
    return change


def _moved(motion: Motion, change: np.ndarray, centre: np.ndarray) -> Motion:
    """The motion followed by a small turn and scale about a centre, and a shift."""
    turn, shift, growth = change[:3], change[3:6], float(np.exp(np.clip(change[6], -0.2, 0.2)))
    angle = float(np.linalg.norm(turn))
    x, y, z = turn / angle if angle > 0 else np.zeros(3)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    place = growth * rotation @ (motion.shift - centre) + centre + shift
    return Motion(rotation @ motion.rotation, place, motion.scale * growth)
