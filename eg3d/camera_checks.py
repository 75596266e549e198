"""Are 25 numbers an EG3D camera? Labels that can not be are named by what they are: pixels, transposed, OpenGL axes.

A label is a flat camera-to-world pose (4 x 4, OpenCV axes: x right, y down, z into the scene), then flat intrinsics
(3 x 3) over the image's size. What makes rendering meaningless is an error; what is only unlikely is a warning.
N labels; float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eg3d.data_files import shown

LABEL = "25 numbers: c2w with OpenCV axes, then K over the image's size"
SCENE_RADIUS = 0.5  # world units around the origin: half the box of FFHQ, less than that of any published generator
_EXACT = 1e-3  # of entries that are 0 or 1 in every camera
_ORTHONORMAL = 0.02  # of R times its transpose; rounding of published labels stays below 1e-5
_MOST_FOCAL = 50.0  # image widths, a view of about one degree
_LEAST_FOCAL = 0.05
_PRINCIPAL_POINT = (0.1, 0.9)  # image widths
_PIXELS = 1.0  # image widths from the middle; a principal point beyond it is not over the image's size
_SMALLEST_SCENE = 0.01  # image widths
_MOST_SHOWN = 9  # numbers of a label, in a message
_INVERTED = "world-to-camera poses, it seems (expected camera-to-world)"


@dataclass(frozen=True)
class CameraFault:
    """One thing that is wrong with some labels."""

    kind: str
    rows: np.ndarray  # of the labels that have it, at least one
    is_error: bool
    example: str  # the telling numbers of the first of them

    def line(self, names: Sequence[str]) -> str:
        """In words, with a count and the first name."""
        return f"{self.kind}: {len(self.rows)} (first {shown(names[int(self.rows[0])])}: {self.example})"


def camera_faults(labels: np.ndarray) -> list[CameraFault]:
    """What is wrong with labels [N, 25]; every label counts once, by the first thing found, errors before warnings."""
    c2w, K = labels[:, :16].reshape(-1, 4, 4), labels[:, 16:].reshape(-1, 3, 3)
    with np.errstate(all="ignore"):  # what a bad label makes of the later checks is not asked
        findings = [*_pose_faults(c2w, labels), *_intrinsics_faults(K), *_view_faults(c2w, K)]
    is_open, faults = np.ones(len(labels), dtype=bool), []
    for kind, is_error, is_bad, numbers in findings:
        rows = np.flatnonzero(is_bad & is_open)
        if len(rows):
            is_open[rows] = False
            example = " ".join(f"{number:.6g}" for number in np.ravel(numbers[rows[0]])[:_MOST_SHOWN])
            faults.append(CameraFault(kind, rows, is_error, example))
    return faults


def error_line(faults: Sequence[CameraFault], names: Sequence[str]) -> str:
    """The errors among the faults in one line, or ""."""
    errors = [fault for fault in faults if fault.is_error]
    total = sum(len(fault.rows) for fault in errors)
    found = "; ".join(fault.line(names) for fault in errors)
    return f"{total} of {len(names)} labels are no cameras ({LABEL}): {found}" if errors else ""


def warning_lines(faults: Sequence[CameraFault], names: Sequence[str]) -> list[str]:
    """One line for every kind of unlikely camera."""
    return [f"camera labels to look at: {fault.line(names)}" for fault in faults if not fault.is_error]


Finding = tuple[str, bool, np.ndarray, np.ndarray]  # kind, whether it is an error, [N] which, [N, ...] telling numbers


def _pose_faults(c2w: np.ndarray, labels: np.ndarray) -> list[Finding]:
    last_row, last_column = c2w[:, 3], c2w[:, :, 3]
    is_last_row, is_last_column = _is_unit(last_row), _is_unit(last_column)
    R = c2w[:, :3, :3]
    product = R @ R.transpose(0, 2, 1)
    is_rotation = np.abs(product - np.eye(3)).max((1, 2)) < _ORTHONORMAL
    first = labels[:, :9].reshape(-1, 3, 3)
    is_K_first = (np.abs(first[:, 2] - [0, 0, 1]).max(1) < _EXACT) & (first[:, 0, 0] > 0) & _is_unit(labels[:, 21:])
    scale = product[:, 0, 0]
    is_scaled = np.abs(product - scale[:, None, None] * np.eye(3)).max((1, 2)) < _ORTHONORMAL * scale
    return [
        ("all zeros", True, ~labels.any(1), labels[:, :1]),
        ("intrinsics before the pose", True, ~is_last_row & is_K_first, labels),
        ("transposed pose (the translation is in the last row)", True, ~is_last_row & is_last_column, last_row),
        ("the last row of the pose is not 0 0 0 1", True, ~is_last_row, last_row),
        ("the pose has a scale; its rotation must be without", True, ~is_rotation & is_scaled, np.sqrt(np.abs(scale))),
        ("the rotation of the pose is not orthonormal", True, ~is_rotation, R),
        ("the pose mirrors (its rotation has determinant -1)", True, np.linalg.det(R) < 0, R),
    ]


def _intrinsics_faults(K: np.ndarray) -> list[Finding]:
    focal, centre = K[:, [0, 1], [0, 1]], K[:, :2, 2]
    is_far = (np.abs(centre - 0.5) > _PIXELS).any(1)
    is_transposed = (K[:, 2, :2] > _EXACT).any(1) & (np.abs(centre) < _EXACT).all(1)
    low, high = _PRINCIPAL_POINT
    return [
        ("intrinsics are zeros", True, ~K.any((1, 2)), focal),
        ("transposed intrinsics (the principal point is in the last row)", True, is_transposed, K[:, 2]),
        ("the intrinsics do not have the form fx s cx 0 fy cy 0 0 1", True, ~_is_triangular(K), K),
        ("the focal length is not positive", True, (focal <= 0).any(1), focal),
        (
            "intrinsics in pixels, expected image widths (fx, fy, cx, cy over the image's size)",
            True,
            is_far | (focal > _MOST_FOCAL).any(1),
            np.concatenate([focal, centre], 1),
        ),
        ("the focal length is too short for a picture", True, (focal < _LEAST_FOCAL).any(1), focal),
        ("principal point far from the middle", False, ((centre < low) | (centre > high)).any(1), centre),
    ]


def _view_faults(c2w: np.ndarray, K: np.ndarray) -> list[Finding]:
    """Where the origin and the box around it lie for each camera."""
    R, t = c2w[:, :3, :3], c2w[:, :3, 3]
    origin = np.einsum("nji,nj->ni", R, -t)  # in camera coordinates
    distance, depth = np.linalg.norm(t, axis=1), origin[:, 2]
    is_outside = distance > SCENE_RADIUS
    is_behind, is_inverted = is_outside & (depth < 0), _are_inverted(R, t)
    pixel = (np.einsum("nij,nj->ni", K, origin) / depth[:, None])[:, :2]
    radius = K[:, [0, 1], [0, 1]] * SCENE_RADIUS / depth[:, None]
    is_out = ((pixel + radius < 0) | (pixel - radius > 1)).any(1)
    is_small = (2 * radius < _SMALLEST_SCENE).any(1)
    return [
        (_INVERTED, True, is_behind & is_inverted, t),
        (
            "the camera looks away from the scene, as with OpenGL axes (y up, -z into the scene; negate the second and "
            "third column of the pose)",
            True,
            is_behind,
            np.concatenate([R[:, :, 2], t], 1),
        ),
        (_INVERTED, False, np.full(len(t), is_inverted), t),
        ("the origin of the world is outside the picture", False, is_outside & is_out, pixel),
        ("the scene is tiny in the picture; are its distances world units?", False, is_outside & is_small, t),
        ("the camera is within the scene", False, ~is_outside, t),
    ]


def _are_inverted(R: np.ndarray, t: np.ndarray) -> bool:
    """Whether the poses, as a set, look at the origin when inverted, and neither towards nor away from it as they are.

    One label alone does not tell: it may look elsewhere, and a frontal pose is its own inverse.
    """

    if len(t) < 2:
        return False

    def off_axis(forward: np.ndarray, position: np.ndarray) -> float:
        cosine = -(forward * position).sum(1) / np.maximum(np.linalg.norm(position, axis=1), 1e-9)
        return float(np.arccos(np.clip(cosine, -1, 1)).mean())

    given = off_axis(R[:, :, 2], t)
    inverted = off_axis(R[:, 2], np.einsum("nji,nj->ni", R, -t))
    return 0.1 < given < 2.5 and given > 3 * inverted


def _is_unit(rows: np.ndarray) -> np.ndarray:
    """[N] whether rows [N, 4] are 0 0 0 1."""
    return np.abs(rows - [0, 0, 0, 1]).max(1) < _EXACT


def _is_triangular(K: np.ndarray) -> np.ndarray:
    return (np.abs(K[:, 2] - [0, 0, 1]).max(1) < _EXACT) & (np.abs(K[:, 1, 0]) < _EXACT)
