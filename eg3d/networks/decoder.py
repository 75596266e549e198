"""The small network that turns plane features into density and colour. Letters: N batch, P points, C features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eg3d.networks.layers import FullyConnected


class Decoder(nn.Module):
    """Two layers with a softplus between. Source: EG3D (2022), section 3.

    Features come channel first, [N, C, P], as the plane lookup leaves them, so that no transpose is written.
    Parameters are named `net.0` and `net.2` as in published weights.
    """

    def __init__(self, in_channels: int, hidden: int, out_features: int, lr_mul: float = 1.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            FullyConnected(in_channels, hidden, lr_multiplier=lr_mul),
            nn.Softplus(),
            FullyConnected(hidden, 1 + out_features, lr_multiplier=lr_mul),
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Raw density [N, P] (no activation) and colour features [N, F, P] in (-0.001, 1.001)."""
        out = self._affine(2, self._hidden(features))
        sigma, colours = out.split([1, out.shape[1] - 1], dim=1)
        return sigma[:, 0], torch.sigmoid(colours) * 1.002 - 0.001

    def sigma(self, features: Tensor) -> Tensor:
        """Raw density [N, P] alone: one row of the last layer, the same numbers as `forward` gives."""
        return self._affine(2, self._hidden(features), rows=1)[:, 0]

    def density_weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights of the raw density with all gains applied: w1 [H, C], b1 [H], w2 [H], b2 []; differentiable."""
        w1, b1, w2, b2 = self.weights()
        return w1, b1, w2[0], b2[0]

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All weights with gains applied: w1 [H, C], b1 [H], w2 [1 + F, H] (density first), b2 [1 + F]."""
        first, _, second = self.net
        w1, b1 = first.weight * first.weight_gain, first.bias * first.bias_gain
        return w1, b1, second.weight * second.weight_gain, second.bias * second.bias_gain

    def _hidden(self, features: Tensor) -> Tensor:
        return F.softplus(self._affine(0, features))

    def _affine(self, layer: int, x: Tensor, rows: int | None = None) -> Tensor:
        """Layer `layer` on channel-first x, only its first `rows` outputs if given."""
        linear = self.net[layer]
        weight, bias = linear.weight[:rows] * linear.weight_gain, linear.bias[:rows] * linear.bias_gain
        return torch.baddbmm(bias[None, :, None], weight.expand(len(x), -1, -1), x)
