"""The modulated convolution: its definition first, then the fast forms that layers run.

Every sample has a convolution of its own: shared weights w, scaled by the sample's styles s and, demodulated, scaled
back so that outputs keep unit variance. Source: StyleGAN2 (2020), section 2.2, equations 1 to 3.

Shape letters: N batch (1 at least), I and O input and output channels, H and W image sides, k kernel side.
Every form takes x [N, I, H, W], w [O, I, k, k], s [N, I] and a `Modulation`, and returns [N, O, H, W], or
[N, O, 2H, 2W] with a resampling filter (k = 3); twice differentiable in x, w, s and the offset.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eg3d.networks.convolution import conv2d
from eg3d.networks.resampling import conv2d_up

DEMODULATION_EPS = 1e-8


@dataclass(frozen=True)
class Modulation:
    """What happens to a convolution beside the styles."""

    demodulate: bool = True
    up_filter: Tensor | None = None  # [4, 4]; given, the convolution doubles the sides
    gain: float = 1.0
    offset: Tensor | None = None  # bias, noise or both, added last; broadcasts to the result


Form = Callable[[Tensor, Tensor, Tensor, Modulation], Tensor]


def modulated_conv2d(x: Tensor, w: Tensor, s: Tensor, m: Modulation) -> Tensor:
    """The definition, one sample after the other: y [N, O, H, W] of x [N, I, H, W], w [O, I, k, k] and s [N, I].

        w'[o, i, k]  = s[i] w[o, i, k]                                          (eq. 1)
        sigma[o]     = sqrt(sum over i, k of w'[o, i, k]^2)                     (eq. 2)
        w''[o, i, k] = w'[o, i, k] / sqrt(sigma[o]^2 + eps)                     (eq. 3; without demodulation w')
        y[o]         = gain * sum over i of (w''[o, i] convolved with x[i]) + offset[o]

    All other forms are measured against it. For full precision: in float16 the squares of large styles overflow.
    """
    outputs = []
    for x_n, s_n in zip(x.split(1), s, strict=True):
        w_n = s_n[None, :, None, None] * w
        if m.demodulate:
            w_n = w_n / (w_n.square().sum((1, 2, 3), keepdim=True) + DEMODULATION_EPS).sqrt()
        outputs.append(_conv(x_n, w_n, m.up_filter))
    y = m.gain * torch.cat(outputs)
    return y if m.offset is None else y + m.offset


def _conv(x: Tensor, w: Tensor, up_filter: Tensor | None, *, groups: int = 1) -> Tensor:
    if up_filter is None:
        return conv2d(x, w, padding=w.shape[-1] // 2, groups=groups)
    return conv2d_up(x, w, up_filter, groups=groups)


# ------------------------------------------------------------------------------------------- the fast forms


def modulated_conv2d_fast(x: Tensor, w: Tensor, s: Tensor, m: Modulation, *, is_training: bool) -> Tensor:
    """`modulated_conv2d` [N, O, H, W] in the form that is fastest here. All agree to rounding, finite in float16."""
    return fastest_form(w, m, device_type=x.device.type, is_training=is_training)(x, w, s, m)


def fastest_form(w: Tensor, m: Modulation, *, device_type: str, is_training: bool) -> Form:
    """The rule for w [O, I, k, k]: a set per sample in evaluation on an accelerator (as published), else one for all.

    On a CPU grouped convolutions are slower, and a 1x1 layer is fastest as one matrix product in training too.
    """
    is_cpu = device_type == "cpu"
    if w.shape[-1] == 1 and m.up_filter is None and (is_cpu or not is_training):
        return modulated_conv2d_pointwise
    return modulated_conv2d_shared if is_cpu or is_training else modulated_conv2d_grouped


def modulated_conv2d_shared(x: Tensor, w: Tensor, s: Tensor, m: Modulation) -> Tensor:
    """One convolution for all samples: s [N, I] scales its inputs, gain and demodulation [N, O] its outputs."""
    w, s, d = _scales(x, w, s, m)
    y = _conv(x * s.to(x.dtype)[:, :, None, None], w.to(x.dtype), m.up_filter)
    if d is None:
        y = y if m.gain == 1.0 else y * m.gain
        return y if m.offset is None else y + m.offset.to(y.dtype)
    scale = (d if m.gain == 1.0 else d * m.gain).to(y.dtype)[:, :, None, None]
    return y * scale if m.offset is None else torch.addcmul(m.offset.to(y.dtype), y, scale)


def modulated_conv2d_grouped(x: Tensor, w: Tensor, s: Tensor, m: Modulation) -> Tensor:
    """One grouped convolution; the groups are the samples, each with weights [O, I, k, k] of its own."""
    n, o = x.shape[0], w.shape[0]
    w, s, d = _scales(x, w, s, m)
    weights = w[None] * (s * m.gain)[:, None, :, None, None]
    weights = (weights if d is None else weights * d[:, :, None, None, None]).flatten(0, 1).to(x.dtype)
    y = _conv(x.reshape(1, -1, *x.shape[2:]), weights, m.up_filter, groups=n)
    y = y.reshape(n, o, *y.shape[2:])
    return y if m.offset is None else y + m.offset.to(y.dtype)


def modulated_conv2d_pointwise(x: Tensor, w: Tensor, s: Tensor, m: Modulation) -> Tensor:
    """k = 1 without resampling: a batched matrix product over pixels. The result [N, O, H, W] is channels-last."""
    assert w.shape[-1] == 1 and m.up_filter is None, "only a 1x1 convolution is a matrix product over pixels"
    n, i, h, width = x.shape
    w, s, d = _scales(x, w, s, m)
    weights = w[None, :, :, 0, 0] * (s * m.gain)[:, None]
    weights = (weights if d is None else weights * d[:, :, None]).to(x.dtype).transpose(1, 2)
    pixels = x.permute(0, 2, 3, 1).reshape(n, h * width, i)
    bias, offset = (None, m.offset) if m.offset is None or m.offset.shape[2:] != (1, 1) else (m.offset, None)
    if bias is None:
        y = torch.bmm(pixels, weights)
    else:
        y = torch.baddbmm(bias[..., 0].transpose(1, 2).to(x.dtype), pixels, weights)
    y = y.view(n, h, width, -1).permute(0, 3, 1, 2)
    return y if offset is None else y + offset.to(y.dtype)


def demodulation(w: Tensor, s: Tensor) -> Tensor:
    """1 / sqrt(sigma^2 + eps) of equations 2 and 3 for w [O, I, k, k] and s [N, I]: [N, O]."""
    return (s.square() @ w.square().sum((2, 3)).t() + DEMODULATION_EPS).rsqrt()


def _scales(x: Tensor, w: Tensor, s: Tensor, m: Modulation) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weights, styles and demodulation [N, O] (None without), in full precision, fit for features like x."""
    if not m.demodulate:
        return w, s, None
    if x.dtype is torch.float16:
        w, s = _prenormalised(w, s)
    return w, s, demodulation(w, s)


def _prenormalised(w: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Weights per output and styles per sample, scaled to at most 1 so that float16 cannot overflow.

    Demodulation takes both scales out again, up to its eps. As in the published models.
    """
    fan = math.sqrt(w[0].numel())
    w = w / (fan * w.abs().amax((1, 2, 3), keepdim=True))
    return w, s / s.abs().amax(1, keepdim=True)
