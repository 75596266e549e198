"""Raw density, and colour features on request, at arbitrary points.

Shape letters: N batch, P points, C plane channels, S plane side, H hidden width, F feature channels.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from eg3d.ops import extension
from eg3d.ops.density_points import reference
from eg3d.ops.triplane import TriPlane, dense_planes

# Fewer points than this share of the texels of a plane do not pay for merging the planes first.
FEWEST_POINTS_PER_TEXEL = 0.25


def density_points(field: TriPlane, points: Tensor) -> Tensor:
    """Raw density [N, P] (any real value) at points [N, P, 3], world units; points outside the box read zero features.

    First-order gradients flow to planes and weights, and hidden values are computed again for them. Gradients to points
    (where points require them) and second derivatives are taken through the reference, which also serves few points,
    where it is as fast. Raises ValueError for shapes that do not fit.
    """
    field.check()
    return field_points(replace(field, w2=field.w2[:1], b2=field.b2[:1]), points)[0]


def field_points(field: TriPlane, points: Tensor) -> tuple[Tensor, Tensor]:
    """Raw density [N, P] and colour features [N, F, P] in (-0.001, 1.001). Otherwise as density_points."""
    field.check()
    if points.ndim != 3 or points.shape[::2] != (len(field), 3):
        raise ValueError(f"points must be [{len(field)}, P, 3] for these planes, got {list(points.shape)}")
    field = field.in_one_type()
    planes, points = field.planes, points.to(field.planes.dtype)
    is_worth_it = points.shape[1] >= FEWEST_POINTS_PER_TEXEL * planes.shape[-1] ** 2
    if (
        is_worth_it
        and not points.requires_grad
        and extension.fits(planes, field.w2)
        and extension.library(planes, "field_points") is not None
    ):
        sigma_raw, rgb = _FieldPoints.apply(*field.tensors, points, field)
        return sigma_raw, rgb.transpose(1, 2)
    return reference.field_points(field, points)


class _PointSpec(ctypes.Structure):
    """Mirrors PointSpec of spec.h."""

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
        field: TriPlane,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(planes, w1, b1, w2, b2, points)
        ctx.field = field
        n, p, _ = points.shape
        sigma_raw, rgb = planes.new_empty(n, p), planes.new_empty(n, p, len(b2) - 1)
        inputs = [dense_planes(planes), *(t.contiguous() for t in (w1, b1, w2, b2, points))]
        _launch("forward", inputs, field, [sigma_raw, rgb])
        return sigma_raw, rgb

    @staticmethod
    def backward(ctx: Any, d_sigma_raw: Tensor, d_rgb: Tensor) -> tuple[Tensor | None, ...]:
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad
        if torch.is_grad_enabled():  # a second derivative was asked for: let autograd see every step
            sigma_raw, rgb = reference.field_points(ctx.field.with_tensors(*saved[:5]), saved[5])
            values = (sigma_raw, rgb.transpose(1, 2))
            return (*extension.gradients(values, saved, (d_sigma_raw, d_rgb), needed), None)
        inputs = [dense_planes(saved[0]), *(t.contiguous() for t in saved[1:])]
        d_planes = torch.empty_like(inputs[0])
        sizes = [w.numel() for w in inputs[1:5]]
        d_weights = torch.zeros(sum(sizes), dtype=torch.float64, device=d_sigma_raw.device)
        _launch("backward", inputs, ctx.field, [d_sigma_raw.contiguous(), d_rgb.contiguous(), d_planes, d_weights])
        pieces = [d.reshape(w.shape).to(w.dtype) for d, w in zip(d_weights.split(sizes), inputs[1:5])]
        return (d_planes, *pieces, None, None)


def _launch(step: str, inputs: list[Tensor], field: TriPlane, tensors: list[Tensor]) -> None:
    planes, w2, points = inputs[0], inputs[3], inputs[5]
    native = extension.library(planes, "field_points")
    assert native is not None
    n, _, channels, side, _ = planes.shape
    sizes = (n, points.shape[1], channels, w2.shape[1], len(w2) - 1, side, *planes.stride())
    spec = _PointSpec(*sizes, field.has_corrected_axes, torch.get_num_threads(), field.box_warp)
    extension.call(native, "field_points", step, spec, [*inputs, *tensors])
