"""The small network that turns plane features into density and colour. Letters: C channels, H hidden, F features."""

from __future__ import annotations

from torch import Tensor, nn

from eg3d.networks.layers import FullyConnected


class Decoder(nn.Module):
    """Two layers with a softplus between. Source: EG3D (2022), section 3.

    It holds the weights; eg3d/ops does the arithmetic, together with the look-up in the planes. Parameters are named
    `net.0` and `net.2` as in published weights.
    """

    def __init__(self, in_channels: int, hidden: int, out_features: int, lr_mul: float = 1.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            FullyConnected(in_channels, hidden, lr_multiplier=lr_mul),
            nn.Softplus(),
            FullyConnected(hidden, 1 + out_features, lr_multiplier=lr_mul),
        )

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All weights with gains applied: w1 [H, C], b1 [H], w2 [1 + F, H] (density first), b2 [1 + F]."""
        first, _, second = self.net
        w1, b1 = first.weight * first.weight_gain, first.bias * first.bias_gain
        return w1, b1, second.weight * second.weight_gain, second.bias * second.bias_gain
