"""Cameras: poses on the viewing sphere, intrinsics, and the 25-number label of a data set.

OpenCV axes: +x right in the image, +y down, +z into the scene. The world has y up and the frontal camera on +z.
Shape letters: N cameras. Everything is float32 and differentiable unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

FFHQ_RADIUS = 2.7  # world units from the origin
FFHQ_LOOKAT = (0.0, 0.0, 0.2)
FFHQ_FOV_DEG = 18.837  # diagonal field of view
LABEL_SIZE = 25

# Literal constants of the published conversion: rounding them properly would move every rendered pixel a little.
_PUBLISHED_PI = 3.14159
_PUBLISHED_SQRT2 = 1.414


def lookat_c2w(
    yaw: float | Tensor,
    pitch: float | Tensor,
    *,
    radius: float = FFHQ_RADIUS,
    lookat: Sequence[float] | Tensor = FFHQ_LOOKAT,
) -> Tensor:
    """Camera-to-world matrices of cameras on a sphere around the origin that look at a point.

    yaw, pitch: offsets in radians from the frontal pose (0, 0), floats or [N]. Positive yaw moves the camera
    towards +x, negative pitch raises it. The real elevation is about 0.637 of the pitch, because the published
    parametrisation maps the vertical angle through arccos(1 - 2v/pi). radius and lookat in world units.
    Returns [N, 4, 4], rotation columns right, down, forward. Gradients flow to yaw, pitch and a tensor `lookat`.
    """
    yaws, pitches = torch.broadcast_tensors(_angles(yaw), _angles(pitch))
    vertical = (math.pi / 2 + pitches).clamp(1e-5, math.pi - 1e-5)
    theta = math.pi / 2 + yaws
    phi = torch.arccos(1 - 2 * vertical / math.pi)
    centre = radius * torch.stack(
        [phi.sin() * torch.cos(math.pi - theta), phi.cos(), phi.sin() * torch.sin(math.pi - theta)], dim=-1
    )
    target = torch.as_tensor(lookat, dtype=centre.dtype, device=centre.device)
    return _c2w_from_forward(target - centre, centre)


def _angles(value: float | Tensor) -> Tensor:
    tensor = torch.as_tensor(value)
    return torch.atleast_1d(tensor if tensor.is_floating_point() else tensor.float())


def _c2w_from_forward(forward: Tensor, centre: Tensor) -> Tensor:
    """Pose without roll from a viewing direction [N, 3] and a centre [N, 3]; undefined when looking along y."""
    forward = torch.nn.functional.normalize(forward, dim=-1)
    world_up = forward.new_tensor([0.0, 1.0, 0.0]).expand_as(forward)
    right = -torch.nn.functional.normalize(torch.linalg.cross(world_up, forward), dim=-1)
    down = torch.nn.functional.normalize(torch.linalg.cross(forward, right), dim=-1)
    upper = torch.stack([right, down, forward, centre], dim=-1)
    last = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(upper), 1, 4)
    return torch.cat([upper, last], dim=1)


def fov_to_intrinsics(fov_deg: float = FFHQ_FOV_DEG) -> Tensor:
    """Intrinsics [3, 3] over image size from a diagonal field of view in degrees."""
    return intrinsics(1 / (math.tan(fov_deg * _PUBLISHED_PI / 360) * _PUBLISHED_SQRT2))


# Of the released slabs and rankings: 4.26339 image widths, a little less than the 4.2647 of the images.
PUBLISHED_FOCAL = 1 / (math.tan(FFHQ_FOV_DEG * _PUBLISHED_PI / 360) * _PUBLISHED_SQRT2)


def intrinsics(focal: float) -> Tensor:
    """Intrinsics [3, 3] over image size: focal length in image widths, principal point in the centre."""
    return torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])


def camera_label(c2w: Tensor, K: Tensor) -> Tensor:
    """Labels [N, 25] from poses [N, 4, 4] (or [4, 4]) and intrinsics [3, 3] or [N, 3, 3]."""
    c2w = c2w.reshape(-1, 16)
    return torch.cat([c2w, K.to(c2w).reshape(-1, 9).expand(len(c2w), 9)], dim=1)


def split_label(c: Tensor) -> tuple[Tensor, Tensor]:
    """Poses [N, 4, 4] and intrinsics [N, 3, 3] of labels [N, 25]. Raises ValueError for another width."""
    if c.ndim != 2 or c.shape[1] != LABEL_SIZE:
        raise ValueError(f"camera labels must be [N, 25] (16 pose, 9 intrinsics), got {list(c.shape)}")
    return c[:, :16].reshape(-1, 4, 4), c[:, 16:].reshape(-1, 3, 3)


_MIRROR = torch.tensor([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # of image coordinates: u -> 1 - u


def mirrored_labels(c: Tensor) -> Tensor:
    """Labels [N, 25] of the horizontally mirrored pictures: the cameras that see the world mirrored at x = 0.

    c2w becomes S c2w S with S = diag(-1, 1, 1, 1); of K the skew changes sign and the principal point its side.
    """
    c2w, K = split_label(c)
    signs = c.new_tensor([-1.0, 1.0, 1.0, 1.0])
    # Adding 0 makes 0 of -0, so that equal labels are equal bits.
    return camera_label(signs[:, None] * c2w * signs + 0, _MIRROR.to(c) @ K * signs[:3] + 0)


def transformed_labels(c: Tensor, A: Tensor) -> Tensor:
    """Labels [N, 25] of pictures that went through affine maps A [N, 3, 3] of image coordinates (0 to 1, right, down).

    A turn of the picture becomes a roll of the camera, the rest of the map its intrinsics. A map that turns the picture
    over (negative determinant) mirrors it first: see `mirrored_labels`. What c sees at u, the result sees at A u.
    """
    is_mirrored = torch.linalg.det(A[:, :2, :2]) < 0
    A = torch.where(is_mirrored[:, None, None], A @ _MIRROR.to(A), A)
    c2w, K = split_label(torch.where(is_mirrored[:, None], mirrored_labels(c), c))
    K = A @ K
    # K = U R, with U upper triangular and R a rotation about the viewing axis that goes over to the camera.
    norm = K[:, 1, :2].norm(dim=-1)
    sin, cos = K[:, 1, 0] / norm, K[:, 1, 1] / norm
    R = torch.eye(4).to(c).repeat(len(c), 1, 1)
    R[:, 0, 0], R[:, 0, 1], R[:, 1, 0], R[:, 1, 1] = cos, -sin, sin, cos
    transposed = R.transpose(1, 2)
    return camera_label(c2w @ transposed, K @ transposed[:, :3, :3])


@dataclass
class CameraConfig:
    """The cameras that the images of a generator are seen from."""

    radius: float = FFHQ_RADIUS  # world units from the origin
    pivot: tuple[float, float, float] = FFHQ_LOOKAT  # world point that cameras look at
    focal: float = 4.2647  # image widths

    def label(self, yaw: float | Tensor = 0.0, pitch: float | Tensor = 0.0) -> Tensor:
        """Labels [N, 25] of cameras at these offsets (radians) from the frontal pose."""
        return camera_label(lookat_c2w(yaw, pitch, radius=self.radius, lookat=self.pivot), intrinsics(self.focal))

    def canonical(self) -> Tensor:
        """The frontal camera [1, 25]: the one that seeds are conditioned on, scored from and compared by."""
        return self.label()

    def published(self) -> CameraConfig:
        """The same cameras with the focal length of the released preference data, whatever the generator's own is."""
        return replace(self, focal=PUBLISHED_FOCAL)

    def validate(self) -> list[str]:
        """All faults, one line each."""
        return [f"{n}: must be positive, got {getattr(self, n)}" for n in ("radius", "focal") if getattr(self, n) <= 0]
