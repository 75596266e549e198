"""A field as small as it can be, after EG3D (2022): three planes, their mean, two linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eg3d.fields.triplane import TriPlaneField
from eg3d.networks.decoder import Decoder

PROJECTIONS = {"xy_xz_zx": ([0, 1], [0, 2], [2, 0]), "xy_xz_zy": ([0, 1], [0, 2], [2, 1])}


class FakeField(nn.Module):
    """Makes fields of planes with a decoder of its own, and has a plain query to compare them with."""

    def __init__(
        self, *, channels: int = 5, hidden: int = 7, box_warp: float = 1.0, plane_axes: str = "xy_xz_zx"
    ) -> None:
        super().__init__()
        self.box_warp, self.plane_axes = box_warp, plane_axes
        self.decoder = Decoder(channels, hidden, 3, lr_mul=0.5)
        for layer in (self.decoder.net[0], self.decoder.net[2]):
            nn.init.normal_(layer.bias, std=0.3)

    def forward(self, planes: Tensor) -> TriPlaneField:
        """The field of planes [N, 3, C, H, W]."""
        return TriPlaneField(planes, *self.decoder.weights(), box_warp=self.box_warp, plane_axes=self.plane_axes)

    def plain_density(self, planes: Tensor, points: Tensor) -> Tensor:
        """Raw density [N, P] at points [N, P, 3]."""
        u = points * (2 / self.box_warp)
        features = [
            F.grid_sample(planes[:, p], u[:, :, None, axes], align_corners=False)[..., 0]
            for p, axes in enumerate(PROJECTIONS[self.plane_axes])
        ]
        mean = torch.stack(features).mean(0).transpose(1, 2)
        first, _, second = self.decoder.net
        hidden = F.softplus(F.linear(mean, first.weight * first.weight_gain, 0.5 * first.bias))
        return hidden @ (second.weight[0] * second.weight_gain) + 0.5 * second.bias[0]
