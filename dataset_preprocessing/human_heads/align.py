"""Heads in one frame, as FFHQ crops faces: by the middles of the eyes and the corners of the mouth.

Turning is removed by a similarity to the default head (Umeyama 1991, without reflection); scale and place are those of
FFHQ, whose crop's side is the larger of 2 eye distances and 1.8 times the distance from eyes to mouth, and whose centre
lies a tenth of the way from eyes to mouth. So a child keeps a large cranium above a small face.
Shape letters: N heads, M points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE = 0.279  # world units: FFHQ's measure of every face
CENTRE_Y = 0.0145  # world units, of FFHQ's centre
DEPTH_Z = 0.270  # world units, mean of the middle of the eyes and that of the mouth's corners


@dataclass(frozen=True)
class Anchors:
    """Vertices that FFHQ's alignment looks at, and those that tell how a head is turned."""

    right_eye: np.ndarray
    left_eye: np.ndarray
    mouth_corners: np.ndarray  # right and left
    turning: np.ndarray


def aligned(heads: np.ndarray, anchors: Anchors, reference: np.ndarray) -> np.ndarray:
    """Heads [N, M, 3] in the model's frame; `reference` [M, 3] is upright and faces +z, at any scale."""
    turned = np.einsum("nmi,nji->nmj", heads, _rotations(heads[:, anchors.turning], reference[anchors.turning]))
    right, left = turned[:, anchors.right_eye].mean(axis=1), turned[:, anchors.left_eye].mean(axis=1)
    eyes, mouth = (right + left) / 2, turned[:, anchors.mouth_corners].mean(axis=1)
    eye_to_eye = np.linalg.norm((left - right)[:, :2], axis=1)
    eye_to_mouth = np.linalg.norm((mouth - eyes)[:, :2], axis=1)
    scale = SIDE / np.maximum(2.0 * eye_to_eye, 1.8 * eye_to_mouth)
    centre = eyes + 0.1 * (mouth - eyes)
    centre[:, 2] = (eyes[:, 2] + mouth[:, 2]) / 2
    return (turned - centre[:, None]) * scale[:, None, None] + np.array([0.0, CENTRE_Y, DEPTH_Z])


def _rotations(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rotations [N, 3, 3] that turn points [N, M, 3] towards the reference [M, 3]."""
    centred = points - points.mean(axis=1, keepdims=True)
    target = reference - reference.mean(axis=0)
    u, _, vt = np.linalg.svd(np.einsum("mi,nmj->nij", target, centred))
    flip = np.ones((len(points), 3))
    flip[:, 2] = np.sign(np.linalg.det(u @ vt))
    return (u * flip[:, None]) @ vt
