"""A field as small as it can be, after EG3D (2022): three planes, their mean, two linear layers."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PROJECTIONS = {"xy_xz_zx": ([0, 1], [0, 2], [2, 0]), "xy_xz_zy": ([0, 1], [0, 2], [2, 1])}


class GainLinear(nn.Module):
    """A linear layer with a run-time gain on its weight and bias."""

    def __init__(self, num_in: int, num_out: int, *, bias_gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_out, num_in))
        self.bias = nn.Parameter(0.3 * torch.randn(num_out))
        self.weight_gain, self.bias_gain = num_in**-0.5, bias_gain

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


class FakeField(nn.Module):
    """Has what a density grid needs of a generator: cfg, decoder and sigma."""

    def __init__(
        self, *, channels: int = 5, hidden: int = 7, box_warp: float = 1.0, plane_axes: str = "xy_xz_zx"
    ) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(rendering=SimpleNamespace(box_warp=box_warp, plane_axes=plane_axes))
        self.decoder = nn.Module()
        self.decoder.net = nn.Sequential(
            GainLinear(channels, hidden), nn.Softplus(), GainLinear(hidden, 4, bias_gain=0.5)
        )
        self.largest_query = 0

    def sigma(self, planes: Tensor, points: Tensor) -> Tensor:
        self.largest_query = max(self.largest_query, points.shape[1])
        u = points * (2 / self.cfg.rendering.box_warp)
        features = [
            F.grid_sample(planes[:, p], u[:, :, None, axes], align_corners=False)[..., 0]
            for p, axes in enumerate(PROJECTIONS[self.cfg.rendering.plane_axes])
        ]
        mean = torch.stack(features).mean(0).transpose(1, 2)
        return self.decoder.net(mean)[..., :1]
