"""The modulated convolution: its definition first, then the fast forms that layers run.

Every sample has a convolution of its own: shared weights w, scaled by the sample's styles s and, demodulated, scaled
back so that outputs keep unit variance. Source: StyleGAN2 (2020), section 2.2, equations 1 to 3.

Shape letters: N batch (1 at least), I and O input and output channels, H and W image sides, k kernel side.
Every form takes x [N, I, H, W], w [O, I, k, k], s [N, I] and a `Modulation`, and returns [N, O, H, W], or
[N, O, 2H, 2W] with a resampling filter (k = 3); twice differentiable in x, w, s, bias and noise.
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
    bias: Tensor | None = None  # [1, O, 1, 1], added last
    noise: Tensor | None = None  # [N or 1, 1, H, W] of the result, added last


Form = Callable[[Tensor, Tensor, Tensor, Modulation], Tensor]


def modulated_conv2d(x: Tensor, w: Tensor, s: Tensor, m: Modulation) -> Tensor:
    """The definition, one sample after the other: y [N, O, H, W] of x [N, I, H, W], w [O, I, k, k] and s [N, I].

        w'[o, i, k]  = s[i] w[o, i, k]                                          (eq. 1)
        sigma[o]     = sqrt(sum over i, k of w'[o, i, k]^2)                     (eq. 2)
        w''[o, i, k] = w'[o, i, k] / sqrt(sigma[o]^2 + eps)                     (eq. 3; without demodulation w')
        y[o]         = gain * sum over i of (w''[o, i] convolved with x[i]) + bias[o] + noise

    All other forms are measured against it. For full precision: in float16 the squares of large styles overflow.
    """
    outputs = []
    for x_n, s_n in zip(x.split(1), s, strict=True):
        w_n = s_n[None, :, None, None] * w
        if m.demodulate:
            w_n = w_n / (w_n.square().sum((1, 2, 3), keepdim=True) + DEMODULATION_EPS).sqrt()
        outputs.append(_conv(x_n, w_n, m.up_filter))
    y = m.gain * torch.cat(outputs)
    y = y if m.bias is None else y + m.bias
    return y if m.noise is None else y + m.noise


def _conv(x: Tensor, w: Tensor, up_filter: Tensor | None, *, groups: int = 1) -> Tensor:
    if up_filter is None:
        return conv2d(x, w, padding=w.shape[-1] // 2, groups=groups)
    return conv2d_up(x, w, up_filter, groups=groups)


# ------------------------------------------------------------------------------------------- the fast forms


def modulated_conv2d_fast(x: Tensor, w: Tensor, s: Tensor, m: Modulation, *, is_training: bool) -> Tensor:
    """`modulated_conv2d` [N, O, H, W] in the form that is fastest here. All agree to rounding, finite in float16."""
    return fastest_form(x, w, m, is_training=is_training)(x, w, s, m)


def fastest_form(x: Tensor, w: Tensor, m: Modulation, *, is_training: bool) -> Form:
    """The rule for x [N, I, H, W] and w [O, I, k, k].

    On an accelerator a set of weights per sample in evaluation, as published, else one for all. On a CPU grouped
    convolutions are slower, but a single sample needs none; and a 1x1 layer is fastest as one matrix product.
    """
    is_cpu = x.device.type == "cpu"
    if w.shape[-1] == 1 and m.up_filter is None and (is_cpu or not is_training):
        return modulated_conv2d_pointwise
    if is_cpu:
        return modulated_conv2d_grouped if _is_cheap_to_scale(x, w) else modulated_conv2d_shared
    return modulated_conv2d_shared if is_training else modulated_conv2d_grouped


def _is_cheap_to_scale(x: Tensor, w: Tensor) -> bool:
    """Whether styles had better scale the weights than the features: for one sample with more features than weights.

    The gradient by scaled weights is a convolution of its own, so not where styles alone want gradients.
    """
    needs_no_other = w.requires_grad or not torch.is_grad_enabled()
    return len(x) == 1 and needs_no_other and w.numel() < x.numel()


def modulated_conv2d_shared(x: Tensor, w: Tensor, s: Tensor, m: Modulation) -> Tensor:
    """One convolution for all samples: s [N, I] scales its inputs, gain and demodulation [N, O] its outputs."""
    w, s, d = _scales(x, w, s, m)
    y = _conv(x * s.to(x.dtype)[:, :, None, None], w.to(x.dtype), m.up_filter)
    if d is None:
        return _offset(y if m.gain == 1.0 else y * m.gain, m.bias, m.noise)
    scale = (d if m.gain == 1.0 else d * m.gain).to(y.dtype)[:, :, None, None]
    if m.bias is None:
        return _offset(y * scale, None, m.noise)
    return _offset(torch.addcmul(m.bias.to(y.dtype), y, scale), None, m.noise)


def modulated_conv2d_grouped(x: Tensor, w: Tensor, s: Tensor, m: Modulation) -> Tensor:
    """One grouped convolution; the groups are the samples, each with weights [O, I, k, k] of its own."""
    n, o = x.shape[0], w.shape[0]
    w, s, d = _scales(x, w, s, m)
    weights = w[None] * (s * m.gain)[:, None, :, None, None]
    weights = (weights if d is None else weights * d[:, :, None, None, None]).flatten(0, 1).to(x.dtype)
    if n == 1:  # as it is: reshaped, it would not pass for channels-last any more
        return _offset(_conv(x, weights, m.up_filter), m.bias, m.noise)
    y = _conv(x.reshape(1, -1, *x.shape[2:]), weights, m.up_filter, groups=n)
    return _offset(y.reshape(n, o, *y.shape[2:]), m.bias, m.noise)


def modulated_conv2d_pointwise(x: Tensor, w: Tensor, s: Tensor, m: Modulation) -> Tensor:
    """k = 1 without resampling: a batched matrix product over pixels. The result [N, O, H, W] is channels-last."""
    assert w.shape[-1] == 1 and m.up_filter is None, "only a 1x1 convolution is a matrix product over pixels"
    n, i, h, width = x.shape
    w, s, d = _scales(x, w, s, m)
    weights = w[None, :, :, 0, 0] * (s * m.gain)[:, None]
    weights = (weights if d is None else weights * d[:, :, None]).to(x.dtype).transpose(1, 2)
    pixels = x.permute(0, 2, 3, 1).reshape(n, h * width, i)
    if m.bias is None:
        y = torch.bmm(pixels, weights)
    else:
        y = torch.baddbmm(m.bias[..., 0].transpose(1, 2).to(x.dtype), pixels, weights)
    return _offset(y.view(n, h, width, -1).permute(0, 3, 1, 2), None, m.noise)


def _offset(y: Tensor, bias: Tensor | None, noise: Tensor | None) -> Tensor:
    """y [N, O, H, W], fresh from an operation that does not look back at it, with bias and noise; in y's memory."""
    for term in (bias, noise):
        y = y if term is None else y.add_(term.to(y.dtype))
    return y


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
