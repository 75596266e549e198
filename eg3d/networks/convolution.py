"""Convolutions whose second derivatives cost no more than convolutions.

PyTorch differentiates a convolution's backward pass through a convolution with image-sized kernels, and loops
over the groups of a depthwise one. A convolution is bilinear, so each of its derivatives is again a convolution,
a transposed convolution or a weight gradient: the two functions below say so to autograd, to every order. The
gradient penalty of a 64-pixel discriminator, batch 16, then takes 0.71 instead of 0.88 s of one CPU core.

Weight gradients of wide layers on a CPU are matrix products here (`_by_columns`), because PyTorch's own (oneDNN's) are
slow on channels-last images. Against it, batch 1, 512 to 128 channels, 4 to 256 pixels a side: transposed convolutions
1.4 to 2.8 times as fast with AVX-512, to 7 times with AVX2; others 1.1 to 3.9 times with AVX2, 0.5 to 1 with AVX-512.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

WIDE = 128  # channels on both sides, from which on a weight gradient may be a matrix product
COLUMN_FLOATS = 2**20  # numbers that one product looks at: few enough to stay in a cache


class _Geometry(NamedTuple):
    stride: tuple[int, int]
    padding: tuple[int, int]
    output_padding: tuple[int, int]
    groups: int
    transposed: bool


def conv2d(x: Tensor, w: Tensor, bias: Tensor | None = None, *, stride=1, padding: int = 0, groups: int = 1) -> Tensor:
    """As torch.nn.functional.conv2d: x [N, I, H, W], w [O, I/groups, k, k], bias [O]; stride int or pair."""
    return _convolve(x, w, bias, _Geometry(_pair(stride), _pair(padding), (0, 0), groups, False))


def conv_transpose2d(x: Tensor, w: Tensor, *, stride=1, padding: int = 0, groups: int = 1) -> Tensor:
    """As torch.nn.functional.conv_transpose2d: x [N, I, H, W], w [I, O/groups, k, k]."""
    return _convolve(x, w, None, _Geometry(_pair(stride), _pair(padding), (0, 0), groups, True))


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _convolve(x: Tensor, w: Tensor, bias: Tensor | None, geometry: _Geometry) -> Tensor:
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, w, bias)):
        return _Convolution.apply(x, w, bias, geometry)
    return _forward(x, w, bias, geometry)


def _forward(x: Tensor, w: Tensor, bias: Tensor | None, g: _Geometry) -> Tensor:
    shape = (g.stride, g.padding, (1, 1), g.transposed, g.output_padding, g.groups)
    return torch.convolution(x, w, bias, *shape)


def _native_backward(grad: Tensor, x: Tensor, w: Tensor, g: _Geometry, mask: tuple[bool, bool, bool]):
    shape = (g.stride, g.padding, (1, 1), g.transposed, g.output_padding, g.groups)
    bias_sizes = [grad.shape[1]] if mask[2] else None
    return torch.ops.aten.convolution_backward(grad, x, w, bias_sizes, *shape, mask)


def _first_order(grad: Tensor, x: Tensor, w: Tensor, g: _Geometry, mask: tuple[bool, bool, bool]):
    """Gradients by x, w and bias, each None where `mask` wants none, of which no gradients are taken again."""
    if not (mask[1] and _has_slow_weight_gradient(x, w, g)):
        return _native_backward(grad, x, w, g, mask)
    dx, _, db = _native_backward(grad, x, w, g, (mask[0], False, mask[2])) if mask[0] or mask[2] else (None, None, None)
    # A transposed convolution is the adjoint of one from its output to its input: the two change places.
    image, result = (grad, x) if g.transposed else (x, grad)
    dw = torch.empty_strided(w.shape, w.stride(), dtype=w.dtype)
    dw.copy_(_by_columns(image, result, w.shape[-1], stride=g.stride, padding=g.padding))
    return dx, dw, db


def _has_slow_weight_gradient(x: Tensor, w: Tensor, g: _Geometry) -> bool:
    """The rule, as measured: see above. Kernels [O, I, k, k] with k > 1, in full precision."""
    is_dense = g.groups == 1 and w.shape[-1] > 1 and w.shape[-1] == w.shape[-2] and min(w.shape[:2]) >= WIDE
    if not is_dense or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or x.numel() == 0:
        return False
    return g.stride != (1, 1) or torch.backends.cpu.get_cpu_capability() != "AVX512"


def _by_columns(image: Tensor, result: Tensor, k: int, *, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Weight gradient [O, I, k, k] of a convolution from image [N, I, H, W] to result [N, O, P, Q], a gradient.

    The products of results [N P Q, O] with the k x k patches that they saw [N P Q, k k I], a few rows at a time.
    """
    inner, outer = image.shape[1], result.shape[1]
    patches = _patches(image, k, stride=stride, padding=padding)
    dw = result.new_zeros(outer, k * k * inner)
    for rows, columns in _row_blocks(result.permute(0, 2, 3, 1), patches):
        dw.addmm_(rows.reshape(-1, outer).t(), columns.reshape(-1, k * k * inner))
    return dw.view(outer, k, k, inner).permute(0, 3, 1, 2)


def _patches(image: Tensor, k: int, *, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """View [N, P, Q, k, k I] of an image [N, I, H, W], padded with zeros: what each place of a convolution sees."""
    n, inner = image.shape[:2]
    down, right = padding
    x = torch.nn.functional.pad(image.permute(0, 2, 3, 1), [0, 0, right, right, down, down]).contiguous()
    height, width = x.shape[1:3]
    size = (n, (height - k) // stride[0] + 1, (width - k) // stride[1] + 1, k, k * inner)
    line = width * inner
    return x.as_strided(size, (height * line, stride[0] * line, stride[1] * inner, line, 1))


def _row_blocks(result: Tensor, patches: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both [N, P, Q, ...] in blocks of whole images, or of rows of one, of about COLUMN_FLOATS of the patches."""
    images = COLUMN_FLOATS // patches[0].numel()
    if images > 0:
        yield from zip(result.split(images), patches.split(images), strict=True)
        return
    rows = max(COLUMN_FLOATS // patches[0, 0].numel(), 1)
    for one, seen in zip(result, patches, strict=True):
        yield from zip(one.split(rows), seen.split(rows), strict=True)


def _adjoint(g: _Geometry, x_shape, y_shape, kernel) -> _Geometry:
    """Geometry of the map from output gradients to input gradients (same weight tensor)."""
    if g.transposed:
        return g._replace(transposed=False, output_padding=(0, 0))
    extra = tuple(x_shape[2 + d] - ((y_shape[2 + d] - 1) * g.stride[d] - 2 * g.padding[d] + kernel[d]) for d in (0, 1))
    return g._replace(transposed=True, output_padding=extra)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, bias: Tensor | None, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry = geometry
        return _forward(x, w, bias, geometry)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, w = ctx.saved_tensors
        mask = tuple(ctx.needs_input_grad[:3])
        if not torch.is_grad_enabled():  # plain first order: one native call
            return *_first_order(grad, x, w, ctx.geometry, mask), None
        dx = dw = db = None
        if mask[0]:
            dx = _convolve(grad, w, None, _adjoint(ctx.geometry, x.shape, grad.shape, w.shape[2:]))
        if mask[1]:
            dw = _WeightGradient.apply(grad, x, ctx.geometry, w.shape)
        if mask[2]:
            db = grad.sum((0, 2, 3))
        return dx, dw, db, None


class _WeightGradient(torch.autograd.Function):
    """dw of a convolution as a bilinear function of the output gradient and the input."""

    @staticmethod
    def forward(ctx, grad: Tensor, x: Tensor, geometry: _Geometry, w_shape) -> Tensor:
        ctx.save_for_backward(grad, x)
        ctx.geometry = geometry
        return _first_order(grad, x, x.new_empty(w_shape), geometry, (False, True, False))[1]

    @staticmethod
    def backward(ctx, ddw: Tensor):
        grad, x = ctx.saved_tensors
        d_grad = _convolve(x, ddw, None, ctx.geometry) if ctx.needs_input_grad[0] else None
        adjoint = _adjoint(ctx.geometry, x.shape, grad.shape, ddw.shape[2:])
        d_x = _convolve(grad, ddw, None, adjoint) if ctx.needs_input_grad[1] else None
        return d_grad, d_x, None, None
