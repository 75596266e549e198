"""Raw density, and colour features on request, at arbitrary points.

Shape letters: N batch, P points, C plane channels, S plane side, H hidden width, F feature channels.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from eg3d.ops import extension
from eg3d.ops.checks import check_field, dense_planes
from eg3d.ops.density_points import reference

# Fewer points than this share of the texels of a plane do not pay for merging the planes first.
FEWEST_POINTS_PER_TEXEL = 0.25


def density_points(
    planes: Tensor,
    points: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    box_warp: float = 1.0,
    plane_axes: str = "xy_xz_zx",
) -> Tensor:
    """Raw density [N, P] (any real value) at points [N, P, 3], world units; points outside the box read zero features.

    planes [N, 3, C, S, S]; the decoder's effective weights w1 [H, C], b1 [H], w2 [H], b2 []. First-order gradients flow
    to planes and weights, and hidden values are computed again for them. Gradients to points (where points require
    them) and second derivatives are taken through the reference, which also serves few points, where it is as fast.
    Raises ValueError for shapes that do not fit.
    """
    return _field(planes, points, w1, b1, w2[None], b2[None], box_warp, plane_axes)[0]


def field_points(
    planes: Tensor,
    points: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    box_warp: float = 1.0,
    plane_axes: str = "xy_xz_zx",
) -> tuple[Tensor, Tensor]:
    """Raw density [N, P] and colour features [N, F, P] in (-0.001, 1.001); w2 [1 + F, H], b2 [1 + F].

    Otherwise as density_points.
    """
    return _field(planes, points, w1, b1, w2, b2, box_warp, plane_axes)


def _field(
    planes: Tensor, points: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, box_warp: float, plane_axes: str
) -> tuple[Tensor, Tensor]:
    check_field(planes, w1, b1, w2, b2, plane_axes)
    if points.ndim != 3 or points.shape[::2] != (len(planes), 3):
        raise ValueError(f"points must be [{len(planes)}, P, 3] for these planes, got {list(points.shape)}")
    if planes.dtype not in extension.NATIVE_TYPES:
        planes = planes.float()
    kind = planes.dtype
    inputs, points = [planes, *(w.to(kind) for w in (w1, b1, w2, b2))], points.to(kind)
    options: dict[str, Any] = {"box_warp": box_warp, "plane_axes": plane_axes}
    is_worth_it = points.shape[1] >= FEWEST_POINTS_PER_TEXEL * planes.shape[-1] ** 2
    if (
        is_worth_it
        and not points.requires_grad
        and extension.fits(planes, w2)
        and extension.library(planes, "field_points") is not None
    ):
        sigma, rgb = _FieldPoints.apply(*inputs, points, options)
        return sigma, rgb.transpose(1, 2)
    return reference.field_points(planes, points, *inputs[1:], **options)


class _PointSpec(ctypes.Structure):
    """Mirrors PointSpec of cpu.cpp and cuda.cu."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "batch", "points", "channels", "hidden", "features", "side", "stride_n", "stride_p", "stride_c",
                "stride_h", "stride_w", "is_corrected", "threads",
            )
        ),
        ("box_warp", ctypes.c_double),
    ]  # fmt: skip


class _FieldPoints(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        planes: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        points: Tensor,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(planes, w1, b1, w2, b2, points)
        ctx.options = options
        n, p, _ = points.shape
        sigma, rgb = planes.new_empty(n, p), planes.new_empty(n, p, len(b2) - 1)
        inputs = [dense_planes(planes), *(t.contiguous() for t in (w1, b1, w2, b2, points))]
        _launch("forward", inputs, options, [sigma, rgb])
        return sigma, rgb

    @staticmethod
    def backward(ctx: Any, d_sigma: Tensor, d_rgb: Tensor) -> tuple[Tensor | None, ...]:
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad
        if torch.is_grad_enabled():  # a second derivative was asked for: let autograd see every step
            wanted = [tensor for tensor, flag in zip(saved, needed) if flag]
            sigma, rgb = reference.field_points(saved[0], saved[5], *saved[1:5], **ctx.options)
            values = (sigma, rgb.transpose(1, 2))
            found = iter(torch.autograd.grad(values, wanted, (d_sigma, d_rgb), create_graph=True))
            return (*(next(found) if flag else None for flag in needed[:6]), None)
        inputs = [dense_planes(saved[0]), *(t.contiguous() for t in saved[1:])]
        d_planes = torch.empty_like(inputs[0])
        sizes = [w.numel() for w in inputs[1:5]]
        d_weights = torch.zeros(sum(sizes), dtype=torch.float64, device=d_sigma.device)
        _launch("backward", inputs, ctx.options, [d_sigma.contiguous(), d_rgb.contiguous(), d_planes, d_weights])
        pieces = [d.reshape(w.shape).to(w.dtype) for d, w in zip(d_weights.split(sizes), inputs[1:5])]
        return (d_planes, *pieces, None, None)


def _launch(step: str, inputs: list[Tensor], options: dict[str, Any], tensors: list[Tensor]) -> None:
    planes, w2, points = inputs[0], inputs[3], inputs[5]
    native = extension.library(planes, "field_points")
    assert native is not None
    n, _, channels, side, _ = planes.shape
    sizes = (n, points.shape[1], channels, w2.shape[1], len(w2) - 1, side, *planes.stride())
    is_corrected = options["plane_axes"] == "xy_xz_zy"
    spec = _PointSpec(*sizes, is_corrected, torch.get_num_threads(), options["box_warp"])
    extension.call(native, "field_points", step, spec, [*inputs, *tensors])
