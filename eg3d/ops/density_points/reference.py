"""The field at arbitrary points in plain PyTorch: the definition of correct.

Three bilinear samples, their mean, a linear layer, softplus, a linear layer. Source: EG3D (2022), section 3.
Shape letters: N batch, P points, C plane channels, S plane side, H hidden width, F feature channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from eg3d.rendering.planes import sample_planes


def density_points(
    planes: Tensor,
    points: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    box_warp: float,
    plane_axes: str,
) -> Tensor:
    """Raw density [N, P]; see op.density_points."""
    features = sample_planes(planes, points, box_warp=box_warp, plane_axes=plane_axes).transpose(1, 2)
    return F.softplus(F.linear(features, w1, b1)) @ w2 + b2


def field_points(
    planes: Tensor,
    points: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    box_warp: float,
    plane_axes: str,
) -> tuple[Tensor, Tensor]:
    """Raw density [N, P] and colour features [N, F, P] in (-0.001, 1.001); w2 [1 + F, H], b2 [1 + F]."""
    features = sample_planes(planes, points, box_warp=box_warp, plane_axes=plane_axes).transpose(1, 2)
    out = F.linear(F.softplus(F.linear(features, w1, b1)), w2, b2)
    return out[..., 0], (torch.sigmoid(out[..., 1:]) * 1.002 - 0.001).transpose(1, 2)
