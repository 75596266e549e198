"""Raw density on a regular grid, whole or cropped, from tri-planes.

Shape letters: N batch, D grid side, X, Y, Z sides of the part.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from eg3d.ops import extension
from eg3d.ops.density_grid import reference
from eg3d.ops.density_grid.grid import GridSpec
from eg3d.ops.triplane import TriPlane, dense_planes

EXACT_FLOAT32_INDEX = 2**24  # above this many points the published float32 index rounds, and z is no longer a grid axis


def density_grid(field: TriPlane, spec: GridSpec) -> Tensor:
    """Raw density [N, X, Y, Z] (any real value) at the points of `spec` over the cube of the field.

    Computed in the type of the planes if that is float32 or float64, else in float32. Gradients flow to planes and all
    weights. The native first derivative recomputes everything and stores nothing of hidden size; a second derivative is
    taken through the reference. Raises ValueError for shapes that do not fit.
    """
    spec.check()
    field.check()
    field = field.in_one_type()
    is_native_grid = spec.grid == "exact" or spec.resolution**3 <= EXACT_FLOAT32_INDEX
    if is_native_grid and extension.library(field.planes, "density_grid") is not None:
        planes, w1, b1, w2, b2 = field.tensors
        return _DensityGrid.apply(planes, w1, b1, w2[0], b2[0], field, spec)
    return _by_reference(field, spec)


def _by_reference(field: TriPlane, spec: GridSpec) -> Tensor:
    """The reference; where gradients are needed and there are several chunks, they are recomputed."""
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in field.tensors)
    x, y, z = spec.shape
    return reference.density_grid(field, spec, is_recomputed=needs_grad and x * y * z > spec.chunk)


class _NativeSpec(ctypes.Structure):
    """Mirrors GridSpec of spec.h."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "batch", "channels", "hidden", "side", "stride_n", "stride_p", "stride_c", "stride_h", "stride_w",
            "resolution", "x0", "x1", "y0", "y1", "z0", "z1", "is_skewed", "is_corrected", "threads",
        )
    ]  # fmt: skip


def _native_spec(planes: Tensor, field: TriPlane, spec: GridSpec) -> _NativeSpec:
    n, _, channels, side, _ = planes.shape
    bounds = [bound for r in spec.ranges for bound in (r.start, r.stop)]
    flags = (spec.grid == "skewed", field.has_corrected_axes)
    sizes = (n, channels, len(field.w1), side, *planes.stride())
    return _NativeSpec(*sizes, spec.resolution, *bounds, *flags, torch.get_num_threads())


class _DensityGrid(torch.autograd.Function):
    """Inputs that gradients flow to: planes, w1, b1, the density rows w2 [H] and b2 []; `field` gives box and axes."""

    @staticmethod
    def forward(
        ctx: Any, planes: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, field: TriPlane, spec: GridSpec
    ) -> Tensor:
        ctx.save_for_backward(planes, w1, b1, w2, b2)
        ctx.field, ctx.spec = field, spec
        planes = dense_planes(planes)
        weights = [w.contiguous() for w in (w1, b1, w2, b2)]
        out = planes.new_empty(len(planes), *spec.shape)
        _call("forward", planes, [*weights, out], field, spec)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative was asked for: let autograd see every step
            return (*_differentiable_gradients(inputs, ctx, grad), None, None)
        planes, w1, b1, w2, _ = inputs
        planes, grad = dense_planes(planes), grad.contiguous()
        weights = [w.contiguous() for w in (w1, b1, w2)]
        grads = [torch.empty_like(planes), *(torch.empty_like(w) for w in weights)]
        _call("backward", planes, [*weights, grad, *grads], ctx.field, ctx.spec)
        return (*grads, grad.sum(), None, None)


def _call(step: str, planes: Tensor, tensors: list[Tensor], field: TriPlane, spec: GridSpec) -> None:
    native = extension.library(planes, "density_grid")
    assert native is not None
    extension.call(native, "density_grid", step, _native_spec(planes, field, spec), [planes, *tensors])


def _differentiable_gradients(inputs: tuple[Tensor, ...], ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """Gradients through the reference, themselves differentiable."""
    planes, w1, b1, w2, b2 = inputs
    value = _by_reference(ctx.field.with_tensors(planes, w1, b1, w2[None], b2[None]), ctx.spec)
    return extension.gradients(value, inputs, grad, ctx.needs_input_grad)
