"""The field at arbitrary points in plain PyTorch: the definition of correct.

Three bilinear samples, their mean, a linear layer, softplus, a linear layer. Source: EG3D (2022), section 3.
Shape letters: N batch, P points, F feature channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from eg3d.ops.triplane import TriPlane
from eg3d.rendering.planes import sample_planes


def density_points(field: TriPlane, points: Tensor) -> Tensor:
    """Raw density [N, P]; see op.density_points."""
    return F.softplus(F.linear(_features(field, points), field.w1, field.b1)) @ field.w2[0] + field.b2[0]


def field_points(field: TriPlane, points: Tensor) -> tuple[Tensor, Tensor]:
    """Raw density [N, P] and colour features [N, F, P] in (-0.001, 1.001)."""
    out = F.linear(F.softplus(F.linear(_features(field, points), field.w1, field.b1)), field.w2, field.b2)
    return out[..., 0], (torch.sigmoid(out[..., 1:]) * 1.002 - 0.001).transpose(1, 2)


def _features(field: TriPlane, points: Tensor) -> Tensor:
    """Plane features [N, P, C] at points [N, P, 3]."""
    return sample_planes(field.planes, points, box_warp=field.box_warp, plane_axes=field.plane_axes).transpose(1, 2)
