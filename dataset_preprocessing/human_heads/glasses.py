"""Frames of glasses that fit a head: two rims, a bridge and two temples, all closed tubes; the lenses are clear.

Letters: V vertices, P points of a line, S sides of a tube.
"""

from __future__ import annotations

import math

import numpy as np

from dataset_preprocessing.human_heads.codes import Looks
from dataset_preprocessing.human_heads.parts import Part, part, revolved

RIM_POINTS, SIDES = 32, 6
HALF_WIDTH, HALF_HEIGHT, TUBE = 0.049, 0.039, 0.0042  # world units
WRAP = 1.1  # curvature of the frame around the face, per world unit
GAP = 0.007  # between skin and the middle of a tube
EYE_ABOVE = 0.006  # how far the lenses' centres lie below the pupils


def glasses_parts(skin: np.ndarray, eyes: np.ndarray, ears: np.ndarray, look: Looks) -> list[Part]:
    """The frame of one head, nothing for those who wear none.

    skin [V, 3]: vertices of the head; eyes, ears [2, 3]: centres of the eyes and tops of the ears, the one at -x first.
    """
    if not look.wears_glasses:
        return []
    centres = eyes[:, :2] - np.array([0.0, EYE_ABOVE])
    angle = np.arange(RIM_POINTS) * (2.0 * math.pi / RIM_POINTS)
    power = 2.0 / (2.6 + 0.9 * math.tanh(look.glasses_shape))
    half = min(HALF_WIDTH, 0.5 * (centres[1, 0] - centres[0, 0]) - 0.012)
    outline = np.stack([half * _power(np.cos(angle), power), HALF_HEIGHT * _power(np.sin(angle), power)], axis=1)
    rims = centres[:, None] + outline * np.array([[[-1.0, 1.0]], [[1.0, 1.0]]])  # both start at the temple's side
    wrap = WRAP * rims[..., 0] ** 2
    front = skin[skin[:, 2] > eyes[:, 2].mean() - 0.10]
    clear = np.quantile(_skin_above(front, rims.reshape(-1, 2)) + wrap.reshape(-1), 0.93) + GAP
    rims = np.concatenate([rims, (clear - wrap)[..., None]], axis=-1)
    thick = TUBE * (1.0 + 0.22 * look.glasses_shape)
    parts = [_ring("glasses", rim, thick, centre) for rim, centre in zip(rims, rims.mean(axis=1), strict=True)]
    nasal = RIM_POINTS // 2 - 3
    parts.append(_tube("glasses", _arch(rims[0, nasal], rims[1, nasal]), thick))
    side = skin[(skin[:, 1] > -0.06) & (skin[:, 1] < 0.12)]
    for rim, ear in zip(rims, ears, strict=True):
        parts.append(_tube("glasses", _temple(side, rim[2], ear), thick))
    return parts


def _power(value: np.ndarray, exponent: float) -> np.ndarray:
    return np.sign(value) * np.abs(value) ** exponent


def _skin_above(skin: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Largest z [P] of the skin [V, 3] about points [P, 2] (x, y)."""
    distance = ((skin[None, :, :2] - points[:, None]) ** 2).sum(-1)
    near = distance < np.maximum(distance.min(axis=1, keepdims=True) * 1.5, 0.006**2)
    return np.where(near, skin[:, 2], -1.0).max(axis=1)


def _arch(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    q = np.linspace(0.0, 1.0, 7)[:, None]
    rise = np.sin(math.pi * q) * np.array([0.0, 0.006, 0.008])
    return start + (end - start) * q + rise


def _temple(skin: np.ndarray, hinge: np.ndarray, ear: np.ndarray) -> np.ndarray:
    """Points [P, 3] from the rim back to the top of the ear, outside the head, and a little down behind it."""
    sign = np.sign(hinge[0])
    q = np.linspace(0.0, 1.0, 9)[:, None]
    line = hinge + (ear + np.array([0.0, 0.006, 0.0]) - hinge) * q
    beside = skin[skin[:, 0] * sign > 0.05]
    distance = ((beside[None, :, 1:] - line[:, None, 1:]) ** 2).sum(-1)
    near = distance < np.maximum(distance.min(axis=1, keepdims=True) * 1.5, 0.008**2)
    width = np.where(near, beside[:, 0] * sign, 0.0).max(axis=1) + 0.005
    line[1:-1, 0] = sign * np.maximum(np.abs(line[1:-1, 0]), width[1:-1])
    hook = line[-1] + np.array([[-0.004 * sign, -0.012, -0.020], [-0.008 * sign, -0.035, -0.032]])
    return np.concatenate([line, hook])


def _ring(name: str, points: np.ndarray, radius: float, centre: np.ndarray) -> Part:
    """A tube around a closed line [P, 3] that runs around `centre` [3] about the z axis."""
    radial = points - centre
    radial[:, 2] = 0.0
    radial /= np.linalg.norm(radial, axis=1, keepdims=True)
    angle = np.arange(SIDES) * (2.0 * math.pi / SIDES)
    across = np.cos(angle)[:, None] * radial[:, None] + np.sin(angle)[:, None] * np.array([0.0, 0.0, 1.0])
    vertices = (points[:, None] + radius * across).reshape(-1, 3)
    a = np.arange(len(points))[:, None] * SIDES
    b = (np.arange(len(points))[:, None] + 1) % len(points) * SIDES
    i, j = np.arange(SIDES), (np.arange(SIDES) + 1) % SIDES
    first = np.stack([a + i, b + i, b + j], axis=-1).reshape(-1, 3)
    faces = np.concatenate([first, np.stack([a + i, b + j, a + j], axis=-1).reshape(-1, 3)])
    turns = np.cross(points[0] - centre, points[1] - centre)[2]  # against the clock as seen from +z when positive
    return part(name, vertices, faces[:, ::-1] if turns < 0 else faces)


def _tube(name: str, line: np.ndarray, radius: float) -> Part:
    """A tube with rounded ends along a line [P, 3] that never runs straight up."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent, np.array([0.0, 1.0, 0.0]))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    top = np.cross(side, tangent)
    angle = np.arange(SIDES) * (2.0 * math.pi / SIDES)
    around = np.cos(angle)[:, None, None] * side + np.sin(angle)[:, None, None] * top
    body = line + radius * around
    ends = [np.broadcast_to(line[i] + s * radius * tangent[i], (SIDES, 1, 3)) for i, s in ((0, -0.6), (-1, 0.6))]
    points = np.concatenate([ends[0], body, ends[1]], axis=1)
    return revolved(name, points, np.zeros((*points.shape[:2], 1)))
