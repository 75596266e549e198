"""The field at arbitrary points in plain PyTorch: the definition of correct.

Three bilinear samples, their mean, a linear layer, softplus, a linear layer. Source: EG3D (2022), section 3.
Shape letters: N batch, P points, C plane channels, S plane side, H hidden width, F feature channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from eg3d.rendering.planes import PLANE_AXES


def point_features(planes: Tensor, points: Tensor, *, box_warp: float, plane_axes: str) -> Tensor:
    """Mean over the planes of bilinear samples, [N, P, C]; texel centres, zero padding."""
    unit = points * (2 / box_warp)
    axes = [unit[:, :, list(pair)] for pair in PLANE_AXES[plane_axes]]
    samples = [
        F.grid_sample(plane, pair.unsqueeze(2), mode="bilinear", padding_mode="zeros", align_corners=False)
        for plane, pair in zip(planes.unbind(1), axes, strict=True)
    ]
    return ((samples[0] + samples[1] + samples[2]) / 3).squeeze(-1).transpose(1, 2)


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
    features = point_features(planes, points, box_warp=box_warp, plane_axes=plane_axes)
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
    features = point_features(planes, points, box_warp=box_warp, plane_axes=plane_axes)
    out = F.linear(F.softplus(F.linear(features, w1, b1)), w2, b2)
    return out[..., 0], (torch.sigmoid(out[..., 1:]) * 1.002 - 0.001).transpose(1, 2)
