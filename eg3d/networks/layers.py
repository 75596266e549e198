"""Elementary layers of the style-based networks: resampling, convolution, modulation, bias-activation.

Shape letters: N batch, I and O input and output channels, H and W image sides, k kernel side.
Everything here is twice differentiable. On a CPU images run channels-last: with two threads the depthwise
filters took 4 + 4 ms there against 9 + 30 ms (16 x 48 x 64 x 64, forward + backward); with one thread whole
networks take the same time either way. Values agree to rounding in any layout.
Sources: StyleGAN2 (Karras et al., 2020), sections 2 and appendix B; EG3D (Chan et al., 2022).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eg3d.networks.convolution import conv2d, conv_transpose2d

LRELU_SLOPE = 0.2
ACTIVATION_GAIN = {"linear": 1.0, "lrelu": math.sqrt(2.0)}
FUSED_MODCONV = ("auto", "fused", "unfused")
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
FIR_TAPS = (1.0, 3.0, 3.0, 1.0)
DEMODULATION_EPS = 1e-8


# -------------------------------------------------------------------------------- layout and precision


def fast_layout(x: Tensor) -> Tensor:
    """x [N, C, H, W] in the memory layout that suits its device: channels-last on a CPU, else unchanged."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def compute_dtype(precision: str, device: torch.device, full: torch.dtype) -> torch.dtype:
    """Number format of a low-precision block: `full` for fp32, and for fp16 anywhere but on CUDA.

    Published models run fp16 blocks in float32 off CUDA (their clamps stay); bf16 is honoured everywhere.
    """
    low = PRECISIONS[precision]
    if low is None or (low is torch.float16 and device.type != "cuda"):
        return full
    return low


def is_low_precision(resolution: int, top_resolution: int, num_fp16_res: int) -> bool:
    """Whether a block is one of the num_fp16_res highest resolutions (never below 8)."""
    if num_fp16_res <= 0:
        return False
    threshold = max(2 ** (int(math.log2(top_resolution)) + 1 - num_fp16_res), 8)
    return resolution >= threshold


def check_choice(name: str, value: str, choices) -> None:
    """Raise ValueError unless value is one of choices."""
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(map(str, choices))}")


# --------------------------------------------------------------------------------- bias and activation


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """clamp(gain * act(x + b), +-clamp), bias over dimension 1. 16-bit inputs: float32 inside, rounded once.

    x [N, O, ...]; b [O] or None; gain None means the activation's own; clamp None means no clamp.
    """
    gain = ACTIVATION_GAIN[act] if gain is None else gain
    y = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if b is not None:
        y = y + b.to(y.dtype).reshape([-1 if i == 1 else 1 for i in range(y.ndim)])
    if act == "lrelu":
        y = F.leaky_relu(y, LRELU_SLOPE)
    if gain != 1.0:
        y = y * gain
    if clamp is not None:
        y = y.clamp(-clamp, clamp)
    return y.to(x.dtype)


def _activate_scaled(x: Tensor, *, act: str, clamp: float | None) -> Tensor:
    """Activation of a tensor that already holds bias and (positive) gain, with which both activations commute."""
    if act == "lrelu":
        x = F.leaky_relu(x, LRELU_SLOPE)
    return x if clamp is None else x.clamp(-clamp, clamp)


# ------------------------------------------------------------------------------------------ resampling


def make_resample_filter(taps: tuple[float, ...] = FIR_TAPS) -> Tensor:
    """Two-dimensional filter [n, n] with sum 1 (n = 4: taps 1/64, 3/64, 9/64)."""
    f = torch.tensor(taps, dtype=torch.float32)
    f = torch.outer(f, f)
    return f / f.sum()


def _depthwise(x: Tensor, f: Tensor, gain: float) -> Tensor:
    """Filter [n, n] as one depthwise kernel [C, 1, n, n] in the dtype of x (n/64 is exact in 16 bit)."""
    return (f * gain).to(x.dtype)[None, None].expand(x.shape[1], 1, -1, -1)


def filter2d(x: Tensor, f: Tensor, *, gain: float = 1.0, padding: int | None = None, stride: int = 1) -> Tensor:
    """Convolve every channel of x [N, C, H, W] with a symmetric filter, zero padded.

    f [n, n], or [n] for a separable one. padding None keeps the size (n odd) or pads floor(n/2) before
    and floor((n-1)/2) after (n even); an integer pads that much on all sides.
    """
    if f.ndim == 1:
        before, after = (f.shape[0] // 2, (f.shape[0] - 1) // 2) if padding is None else (padding, padding)
        x = F.pad(x, [before, after, before, after])
        x = conv2d(x, _depthwise(x, f[None], gain), stride=(1, stride), groups=x.shape[1])
        return conv2d(x, _depthwise(x, f[:, None], 1.0), stride=(stride, 1), groups=x.shape[1])
    if padding is None:
        before, after = f.shape[0] // 2, (f.shape[0] - 1) // 2
        x, padding = (x, before) if before == after else (F.pad(x, [before, after, before, after]), 0)
    return conv2d(x, _depthwise(x, f, gain), padding=padding, stride=stride, groups=x.shape[1])


def upsample2d(x: Tensor, f: Tensor, *, gain: float = 1.0) -> Tensor:
    """Enlarge [N, C, H, W] to [N, C, 2H, 2W]: zeros between pixels, then the 4x4 filter times 4 * gain."""
    return conv_transpose2d(x, _depthwise(x, f, 4.0 * gain), stride=2, padding=1, groups=x.shape[1])


def downsample2d(x: Tensor, f: Tensor, *, gain: float = 1.0, padding: int = 1) -> Tensor:
    """Shrink [N, C, H, W] to [N, C, H/2, W/2]: 4x4 filter, then every second pixel from the first on."""
    return filter2d(x, f, gain=gain, padding=padding, stride=2)


# ----------------------------------------------------------------------------------------- convolution


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    *,
    up: int = 1,
    down: int = 1,
    groups: int = 1,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolution with optional factor-2 resampling. x [N, I, H, W]; w [O, I/groups, k, k], k 1 or 3.

    Up, k = 3: transposed convolution to 2H+1, then the filter with gain 4 -> 2H. Down, k = 3: filter to H+1,
    then stride 2 -> H/2. For k = 1 the filter does all resampling. bias [O] is added to the convolution and
    therefore allowed only where no filter follows (up = 1).
    """
    k = w.shape[-1]
    if up == 1 and down == 1:
        return conv2d(x, w, bias, padding=k // 2, groups=groups)
    if down == 2 and k == 1:
        return conv2d(downsample2d(x, f), w, bias, groups=groups)
    if down == 2:
        return conv2d(filter2d(x, f, padding=2), w, bias, stride=2, groups=groups)
    assert up == 2 and down == 1 and bias is None
    if k == 1:
        return upsample2d(conv2d(x, w, groups=groups), f)
    wt = w.transpose(0, 1) if groups == 1 else _transpose_grouped(w, groups)
    return filter2d(conv_transpose2d(x, wt, stride=2, groups=groups), f, gain=4.0, padding=1)


def _transpose_grouped(w: Tensor, groups: int) -> Tensor:
    """[G*O, I, k, k] -> [G*I, O, k, k], the weight layout of a grouped transposed convolution."""
    o, i, k, _ = w.shape
    return w.reshape(groups, o // groups, i, k, k).transpose(1, 2).reshape(groups * i, o // groups, k, k)


def demodulation(w: Tensor, s: Tensor) -> Tensor:
    """1 / sqrt(sum (w s)^2 + 1e-8) over inputs and taps. w [O, I, k, k], s [N, I] -> [N, O]."""
    return (s.square() @ w.square().sum((2, 3)).t() + DEMODULATION_EPS).rsqrt()


def _prenormalise(w: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Scale weights per output and styles per sample to at most 1 so that float16 cannot overflow."""
    fan = math.sqrt(w[0].numel())
    w = w / (fan * w.abs().amax((1, 2, 3), keepdim=True))
    return w, s / s.abs().amax(1, keepdim=True)


def modulated_conv2d(
    x: Tensor,
    w: Tensor,
    s: Tensor,
    *,
    f: Tensor | None = None,
    up: int = 1,
    demodulate: bool = True,
    fused: bool = False,
    offset: Tensor | None = None,
    gain: float = 1.0,
) -> Tensor:
    """Convolution whose weights are scaled per sample and input channel: gain * conv(x, w s d) + offset.

    x [N, I, H, W]; w [O, I, k, k]; s [N, I]; f [4, 4] when up = 2; offset broadcasts to the output (noise,
    bias); d is `demodulation` or 1. `fused` builds one weight per sample (grouped convolution); otherwise
    inputs and outputs are scaled around one shared convolution. Both agree to float32 rounding.
    Source: StyleGAN2 section 2.2; float16 pre-normalisation as in the published models.
    """
    if x.dtype is torch.float16 and demodulate:
        w, s = _prenormalise(w, s)
    d = demodulation(w, s) if demodulate else None
    if w.shape[-1] == 1 and up == 1 and fused:
        return _modulated_pointwise(x, w, s, d, offset, gain)
    if fused:
        return _modulated_grouped(x, w, s, d, offset, gain, f, up)
    y = conv2d_resample(x * s.to(x.dtype)[:, :, None, None], w.to(x.dtype), f, up=up)
    if d is None:
        y = y if gain == 1.0 else y * gain
        return y if offset is None else y + offset.to(y.dtype)
    scale = (d if gain == 1.0 else d * gain).to(y.dtype)[:, :, None, None]
    return y * scale if offset is None else torch.addcmul(offset.to(y.dtype), y, scale)


def _modulated_grouped(
    x: Tensor, w: Tensor, s: Tensor, d: Tensor | None, offset: Tensor | None, gain: float, f: Tensor | None, up: int
) -> Tensor:
    """Fused form: one grouped convolution with a weight per sample; layout as given."""
    n, o = x.shape[0], w.shape[0]
    wn = w[None] * (s * gain)[:, None, :, None, None]
    wn = (wn if d is None else wn * d[:, :, None, None, None]).flatten(0, 1).to(x.dtype)
    y = conv2d_resample(x.reshape(1, -1, *x.shape[2:]), wn, f, up=up, groups=n)
    y = y.reshape(n, o, *y.shape[2:])
    return y if offset is None else y + offset.to(y.dtype)


def _modulated_pointwise(
    x: Tensor, w: Tensor, s: Tensor, d: Tensor | None, offset: Tensor | None, gain: float
) -> Tensor:
    """1x1 case of the fused form as one batched matrix product over pixels; result is channels-last."""
    n, i, h, width = x.shape
    wn = w[None, :, :, 0, 0] * (s * gain)[:, None]
    wn = (wn if d is None else wn * d[:, :, None]).to(x.dtype)
    x, wn = x.permute(0, 2, 3, 1).reshape(n, h * width, i), wn.transpose(1, 2)
    is_bias = offset is not None and offset.shape[2:] == (1, 1)
    y = torch.baddbmm(offset[..., 0].transpose(1, 2).to(x.dtype), x, wn) if is_bias else torch.bmm(x, wn)
    y = y.view(n, h, width, -1).permute(0, 3, 1, 2)
    return y if offset is None or is_bias else y + offset.to(y.dtype)


def use_fused(fused_modconv: str, *, training: bool, device: torch.device) -> bool:
    """Which form of a 3x3 modulated convolution runs.

    "auto" is the published choice (fused in evaluation mode) on an accelerator, and unfused on a CPU, where
    grouped convolutions are slower.
    """
    if fused_modconv == "auto":
        return device.type != "cpu" and not training
    return fused_modconv == "fused"


# ---------------------------------------------------------------------------------------------- layers


class FullyConnected(nn.Module):
    """y = act(x (g_w W)^T + g_b b) with g_w = lr_multiplier / sqrt(in), g_b = lr_multiplier.

    W ~ N(0, 1 / lr_multiplier^2); b starts at bias_init. Input and output [N, in], [N, out].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ):
        super().__init__()
        check_choice("activation", activation, ACTIVATION_GAIN)
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        w = (self.weight * self.weight_gain).to(x.dtype)
        b: Tensor | None = self.bias
        if b is not None and self.bias_gain != 1.0:
            b = b * self.bias_gain
        if self.activation == "linear":
            return F.linear(x, w, None if b is None else b.to(x.dtype))
        return bias_act(x @ w.t(), b, act=self.activation)


class Conv2dLayer(nn.Module):
    """Convolution with weight gain 1/sqrt(I k^2), factor-2 resampling, bias, activation and clamp.

    [N, I, H, W] -> [N, O, H*up/down, W*up/down]. trainable = False keeps weight and bias as buffers
    (Freeze-D) under the same state names.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        conv_clamp: float | None = None,
        trainable: bool = True,
    ):
        super().__init__()
        check_choice("activation", activation, ACTIVATION_GAIN)
        self.activation, self.up, self.down, self.conv_clamp = activation, up, down, conv_clamp
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
        act_gain = ACTIVATION_GAIN[self.activation] * gain
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        # Evaluation keeps the published order of operations. A gradient through leaky ReLUs jumps where rounding
        # changes a sign; published weights give published input gradients only with the same rounding.
        if not self.training or x.dtype in (torch.float16, torch.bfloat16) or self.up != 1:
            w = (self.weight * self.weight_gain).to(x.dtype)
            y = conv2d_resample(x, w, self.resample_filter, up=self.up, down=self.down)
            return bias_act(y, self.bias, act=self.activation, gain=act_gain, clamp=clamp)
        # In training gain and bias ride inside the convolution: the same values, two passes fewer.
        w = self.weight * (self.weight_gain * act_gain)
        b = None if self.bias is None else self.bias * act_gain
        y = conv2d_resample(x, w, self.resample_filter, down=self.down, bias=b)
        return _activate_scaled(y, act=self.activation, clamp=clamp)


def second_moment_normalise(x: Tensor, *, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over dim."""
    return x * (x.square().mean(dim, keepdim=True) + eps).rsqrt()
