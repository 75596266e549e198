"""Raw density on a regular grid, whole or cropped, from tri-planes.

Shape letters: N batch, D grid side, X, Y, Z sides of the part, C plane channels, S plane side, H hidden width.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from eg3d.ops import extension
from eg3d.ops.checks import check_field, dense_planes
from eg3d.ops.density_grid import reference
from eg3d.ops.density_grid.reference import Slices

EXACT_FLOAT32_INDEX = 2**24  # above this many points the published float32 index rounds, and z is no longer a grid axis


def density_grid(
    planes: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    resolution: int,
    slices: Slices,
    grid: str,
    box_warp: float = 1.0,
    plane_axes: str = "xy_xz_zx",
    chunk: int = reference.CHUNK_POINTS,
) -> Tensor:
    """Raw density [N, X, Y, Z] (any real value) at the points `slices` of a D^3 grid over a cube of side `box_warp`.

    planes [N, 3, C, S, S]; the decoder's effective weights w1 [H, C], b1 [H], w2 [H], b2 []. grid: "exact" | "skewed",
    see reference.grid_points; plane_axes: see eg3d/rendering/planes.py. Computed in the type of planes if that is
    float32 or float64, else in float32. `chunk` bounds the points of one query where the reference runs.
    Gradients flow to planes and all weights. The native first derivative recomputes everything and stores nothing of
    hidden size; a second derivative is taken through the reference. Raises ValueError for shapes that do not fit.
    """
    reference.check_grid(resolution, grid)
    check_field(planes, w1, b1, w2, b2, plane_axes)
    if any(not 0 <= r.start < r.stop <= resolution for r in slices):
        raise ValueError(f"slices must lie in 0:{resolution} and hold points, got {slices}")
    if planes.dtype not in extension.NATIVE_TYPES:
        planes = planes.float()
    inputs = [planes, *(w.to(planes.dtype) for w in (w1, b1, w2, b2))]
    options = {
        "resolution": resolution,
        "slices": slices,
        "grid": grid,
        "box_warp": box_warp,
        "plane_axes": plane_axes,
        "chunk": chunk,
    }
    is_native_grid = grid == "exact" or resolution**3 <= EXACT_FLOAT32_INDEX
    if is_native_grid and extension.library(planes, "density_grid") is not None:
        return _DensityGrid.apply(*inputs, options)
    return _by_reference(inputs, options)


def _by_reference(inputs: list[Tensor], options: dict[str, Any]) -> Tensor:
    """The reference; where gradients are needed and there are several chunks, they are recomputed."""
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    x, y, z = (r.stop - r.start for r in options["slices"])
    return reference.density_grid(*inputs, **options, is_recomputed=needs_grad and x * y * z > options["chunk"])


class _GridSpec(ctypes.Structure):
    """Mirrors GridSpec of cpu.cpp and cuda.cu."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "batch", "channels", "hidden", "side", "stride_n", "stride_p", "stride_c", "stride_h", "stride_w",
            "resolution", "x0", "x1", "y0", "y1", "z0", "z1", "is_skewed", "is_corrected", "threads",
        )
    ]  # fmt: skip


def _spec(planes: Tensor, hidden: int, options: dict[str, Any]) -> _GridSpec:
    n, _, channels, side, _ = planes.shape
    bounds = [bound for r in options["slices"] for bound in (r.start, r.stop)]
    flags = (options["grid"] == "skewed", options["plane_axes"] == "xy_xz_zy")
    return _GridSpec(
        n, channels, hidden, side, *planes.stride(), options["resolution"], *bounds, *flags, torch.get_num_threads()
    )


class _DensityGrid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, planes: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, options: dict[str, Any]
    ) -> Tensor:
        ctx.save_for_backward(planes, w1, b1, w2, b2)
        ctx.options = options
        planes = dense_planes(planes)
        weights = [w.contiguous() for w in (w1, b1, w2, b2)]
        out = planes.new_empty(len(planes), *(r.stop - r.start for r in options["slices"]))
        _call("forward", planes, [*weights, out], len(w1), options)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative was asked for: let autograd see every step
            return (*_differentiable_gradients(inputs, ctx.options, grad, ctx.needs_input_grad), None)
        planes, w1, b1, w2, _ = inputs
        planes, grad = dense_planes(planes), grad.contiguous()
        weights = [w.contiguous() for w in (w1, b1, w2)]
        grads = [torch.empty_like(planes), *(torch.empty_like(w) for w in weights)]
        _call("backward", planes, [*weights, grad, *grads], len(w1), ctx.options)
        return (*grads, grad.sum(), None)


def _call(step: str, planes: Tensor, tensors: list[Tensor], hidden: int, options: dict[str, Any]) -> None:
    native = extension.library(planes, "density_grid")
    assert native is not None
    extension.call(native, "density_grid", step, _spec(planes, hidden, options), [planes, *tensors])


def _differentiable_gradients(
    inputs: tuple[Tensor, ...], options: dict[str, Any], grad: Tensor, needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients through the reference, themselves differentiable."""
    wanted = [tensor for tensor, flag in zip(inputs, needed) if flag]
    value = _by_reference(list(inputs), options)
    grads = iter(torch.autograd.grad(value, wanted, grad, create_graph=True))
    return [next(grads) if flag else None for flag in needed[: len(inputs)]]
