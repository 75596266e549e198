"""Elementary layers of the style-based networks: bias-activation, fully connected, convolution, normalisation.

Shape letters: N batch, I and O input and output channels, H and W image sides, k kernel side.
Everything here is twice differentiable.
Sources: Progressive GAN (2018), section 4 (gains at run time, normalisation); StyleGAN2 (2020), appendix B.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eg3d.config_checks import require_one_of
from eg3d.networks.convolution import conv2d
from eg3d.networks.resampling import conv2d_down, make_resample_filter

LRELU_SLOPE = 0.2
ACTIVATION_GAIN = {"linear": 1.0, "lrelu": math.sqrt(2.0)}
NORMALISATION_EPS = 1e-8


def is_half(x: Tensor) -> bool:
    """Whether a tensor of any shape is in one of the 16-bit formats."""
    return x.dtype in (torch.float16, torch.bfloat16)


def bias_act(
    x: Tensor, b: Tensor | None = None, *, act: str = "linear", gain: float | None = None, clamp: float | None = None
) -> Tensor:
    """clamp(gain * act(x + b), +-clamp), bias over dimension 1. 16-bit inputs: float32 inside, rounded once.

    x [N, O, ...]; b [O] or None; act linear | lrelu; gain None means the activation's own; clamp None means no clamp.
    """
    gain = ACTIVATION_GAIN[act] if gain is None else gain
    y = x.float() if is_half(x) else x
    if b is not None:
        y = y + b.to(y.dtype).reshape([-1 if i == 1 else 1 for i in range(y.ndim)])
    if act == "lrelu":
        y = F.leaky_relu(y, LRELU_SLOPE)
    if gain != 1.0:
        y = y * gain
    if clamp is not None:
        y = y.clamp(-clamp, clamp)
    return y.to(x.dtype)


def activate_scaled(x: Tensor, *, act: str, clamp: float | None) -> Tensor:
    """`bias_act` of x [N, O, ...] that already holds bias and (positive) gain: both activations commute with gains.

    x must be fresh from an operation that does not look back at it: the activation takes its memory.
    """
    if act == "lrelu":
        x = F.leaky_relu(x, LRELU_SLOPE, inplace=True)
    return x if clamp is None else x.clamp(-clamp, clamp)


def second_moment_normalise(x: Tensor) -> Tensor:
    """x [N, I] / sqrt(mean of x^2 over I + 1e-8). Source: Progressive GAN (2018), section 4.2."""
    return x * (x.square().mean(1, keepdim=True) + NORMALISATION_EPS).rsqrt()


class FullyConnected(nn.Module):
    """y = act(x (g_w W)^T + g_b b) with g_w = lr_multiplier / sqrt(I), g_b = lr_multiplier.

    W [O, I] ~ N(0, 1 / lr_multiplier^2); b [O] starts at bias_init. Source: Progressive GAN (2018), section 4.1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        require_one_of("activation", activation, ACTIVATION_GAIN)
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """x [N, I] -> [N, O], in the dtype of x."""
        w = (self.weight * self.weight_gain).to(x.dtype)
        b = self.bias if self.bias_gain == 1.0 else self.bias * self.bias_gain
        if self.activation == "linear":
            return F.linear(x, w, b.to(x.dtype))
        return bias_act(x @ w.t(), b, act=self.activation)


class Conv2dLayer(nn.Module):
    """Convolution with weight gain 1/sqrt(I k^2), then bias, activation and clamp; `down` = 2 halves the sides.

    trainable = False keeps weight and bias as buffers (Freeze-D) under the same state names.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        down: int = 1,
        conv_clamp: float | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        require_one_of("activation", activation, ACTIVATION_GAIN)
        self.activation, self.down, self.conv_clamp = activation, down, conv_clamp
        self.weight_gain = 1.0 / math.sqrt(in_channels * kernel_size**2)
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        b = torch.zeros(out_channels) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = nn.Parameter(b) if bias else None
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("bias", b)
        self.register_buffer("resample_filter", make_resample_filter())

    def forward(self, x: Tensor, *, gain: float = 1.0) -> Tensor:
        """gain * layer(x), x [N, I, H, W] -> [N, O, H / down, W / down]; the clamp scales along."""
        act_gain = ACTIVATION_GAIN[self.activation] * gain
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        # Evaluation keeps the published order of operations. A gradient through leaky ReLUs jumps where rounding
        # changes a sign; published weights give published input gradients only with the same rounding.
        if not self.training or is_half(x):
            y = self._convolved(x, (self.weight * self.weight_gain).to(x.dtype), None)
            return bias_act(y, self.bias, act=self.activation, gain=act_gain, clamp=clamp)
        # In training gain and bias ride inside the convolution: the same values, two passes fewer.
        b = None if self.bias is None else self.bias * act_gain
        y = self._convolved(x, self.weight * (self.weight_gain * act_gain), b)
        return activate_scaled(y, act=self.activation, clamp=clamp)

    def _convolved(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if self.down == 2:
            return conv2d_down(x, w, self.resample_filter, bias=b)
        return conv2d(x, w, b, padding=w.shape[-1] // 2)
