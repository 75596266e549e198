"""Filters, resampling by two, and the convolutions that resample.

Shape letters: N batch, C channels, I and O input and output channels, H and W image sides, k kernel side.
Everything here is twice differentiable. Values agree to rounding in any memory layout.
Source: StyleGAN2 (2020), appendix B; the filter is the outer product of 1, 3, 3, 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eg3d.networks.convolution import conv2d, conv_transpose2d

RESAMPLE_TAPS = (1.0, 3.0, 3.0, 1.0)


def fast_layout(x: Tensor) -> Tensor:
    """x [N, C, H, W] in the memory layout that suits its device: channels-last on a CPU, else unchanged.

    With two threads the depthwise filters took 4 + 4 ms in this layout against 9 + 30 ms (16 x 48 x 64 x 64, forward +
    backward); with one thread whole networks take the same time either way.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def make_resample_filter() -> Tensor:
    """The filter [4, 4] of all resampling; its sum is 1 (taps 1/64, 3/64, 9/64)."""
    taps = torch.tensor(RESAMPLE_TAPS, dtype=torch.float32)
    f = torch.outer(taps, taps)
    return f / f.sum()


def filter2d(x: Tensor, f: Tensor, *, padding: int, gain: float = 1.0, stride: int = 1) -> Tensor:
    """Every channel of x [N, C, H, W] through gain * f, a symmetric filter [k, k], then every stride-th pixel.

    `padding` zeros on all sides: [N, C, (H + 2 padding - k) / stride + 1, likewise W].
    """
    return conv2d(x, _depthwise(x, f, gain), padding=padding, stride=stride, groups=x.shape[1])


def upsample2d(x: Tensor, f: Tensor) -> Tensor:
    """x [N, C, H, W] enlarged to [N, C, 2H, 2W]: zeros between pixels, then the filter f [4, 4] times 4."""
    return conv_transpose2d(x, _depthwise(x, f, 4.0), stride=2, padding=1, groups=x.shape[1])


def downsample2d(x: Tensor, f: Tensor, *, padding: int = 1) -> Tensor:
    """x [N, C, H, W] shrunk to [N, C, H/2, W/2]: the filter f [4, 4], then every second pixel from the first on.

    padding 0 instead of 1 leaves one pixel less on both axes.
    """
    return filter2d(x, f, padding=padding, stride=2)


def conv2d_up(x: Tensor, w: Tensor, f: Tensor, *, groups: int = 1) -> Tensor:
    """Convolution that doubles the sides: x [N, I, H, W], w [O, I/groups, 3, 3], f [4, 4] -> [N, O, 2H, 2W].

    A transposed convolution to 2H + 1, 2W + 1, then the filter times 4.
    """
    wt = w.transpose(0, 1) if groups == 1 else _transpose_grouped(w, groups)
    return filter2d(conv_transpose2d(x, wt, stride=2, groups=groups), f, gain=4.0, padding=1)


def conv2d_down(x: Tensor, w: Tensor, f: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """Convolution that halves the sides: x [N, I, H, W], w [O, I, k, k], f [4, 4], bias [O] -> [N, O, H/2, W/2].

    k = 3: the filter to H + 1, W + 1, then every second place of the convolution. k = 1: `downsample2d` first.
    """
    if w.shape[-1] == 1:
        return conv2d(downsample2d(x, f), w, bias)
    return conv2d(filter2d(x, f, padding=2), w, bias, stride=2)


def _depthwise(x: Tensor, f: Tensor, gain: float) -> Tensor:
    """Filter [k, k] as one depthwise kernel [C, 1, k, k] in the dtype of x (n/64 is exact in 16 bit)."""
    return (f * gain).to(x.dtype)[None, None].expand(x.shape[1], 1, -1, -1)


def _transpose_grouped(w: Tensor, groups: int) -> Tensor:
    """[G*O, I, k, k] -> [G*I, O, k, k], the weight layout of a grouped transposed convolution."""
    o, i, k, _ = w.shape
    return w.reshape(groups, o // groups, i, k, k).transpose(1, 2).reshape(groups * i, o // groups, k, k)
