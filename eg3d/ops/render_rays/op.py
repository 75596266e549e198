"""Rays through a tri-plane field: sampling, decoding and compositing in one pass over each ray.

Shape letters: N batch, R rays, C plane channels, S plane side, H hidden width, K features, n samples a ray.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eg3d.ops import extension
from eg3d.ops.render_rays import reference
from eg3d.ops.triplane import TriPlane, dense_planes
from eg3d.random_streams import Rng, uniform
from eg3d.rendering.compositing import background, limited_depth
from eg3d.rendering.rays import RayBundle
from eg3d.rendering.renderer import RenderedRays, RenderingConfig, ray_limits


def render_rays(field: TriPlane, rays: RayBundle, cfg: RenderingConfig, rng: Rng | None = None) -> RenderedRays:
    """Render rays through a tri-plane field. Source: EG3D (2022), section 4; NeRF (2020), section 5.2.

    rays [N, R, 3]. Returns features [N, K, R], and depth, opacity and spread [N, R], as eg3d/rendering/renderer.py.
    Without `rng` the samples are fixed; with one, draws are taken as the reference takes them (jitter, then
    importance). First-order gradients flow to planes and all weights; the backward pass computes the samples again,
    and only their distances are kept. Density noise, gradients to rays and second derivatives are the reference's.
    Raises ValueError for shapes that do not fit.
    """
    field.check()
    if cfg.box_warp != field.box_warp:
        raise ValueError(f"box_warp: the field covers {field.box_warp}, rendering is told {cfg.box_warp}; give one")
    if rays.rays_o.shape != rays.rays_d.shape or rays.rays_o.shape[::2] != (len(field), 3):
        raise ValueError(
            f"rays must be [{len(field)}, R, 3] for these planes, "
            f"got origins {list(rays.rays_o.shape)} and directions {list(rays.rays_d.shape)}"
        )
    field = field.in_one_type()
    planes = field.planes
    rays = RayBundle(rays.rays_o.to(planes.dtype), rays.rays_d.to(planes.dtype))
    is_native = not (cfg.density_noise > 0 or rays.rays_o.requires_grad or rays.rays_d.requires_grad)
    if is_native and extension.fits(planes, field.w2) and extension.library(planes, "render_rays") is not None:
        return _native(field, rays, cfg, rng)
    return reference.render_rays(field, rays, cfg, rng)


@dataclass(frozen=True)
class _Call:
    """What is no input of the gradient: box and axes, rays, their limits and draws, contiguous, and sizes."""

    field: TriPlane
    rays: RayBundle
    near: Tensor  # [N, R]
    far: Tensor
    jitter: Tensor | None  # [N, R, coarse]
    importance: Tensor | None  # [N, R, fine]
    cfg: RenderingConfig

    @property
    def samples(self) -> int:
        return self.cfg.depth_resolution + self.cfg.depth_resolution_importance


def _native(field: TriPlane, rays: RayBundle, cfg: RenderingConfig, rng: Rng | None) -> RenderedRays:
    call = _call(field, rays, cfg, rng)
    rgb, total, depth_sum, spread, t = _RenderRays.apply(*field.tensors, call)
    rgb = background(rgb.transpose(1, 2), total, cfg.white_back)
    return RenderedRays(rgb, limited_depth(depth_sum, total, t, cfg.depth_clamp), total, spread)


def _call(field: TriPlane, rays: RayBundle, cfg: RenderingConfig, rng: Rng | None) -> _Call:
    near, far = ray_limits(rays, cfg)
    jitter = importance = None
    if rng is not None:
        coarse, fine = cfg.depth_resolution, cfg.depth_resolution_importance
        jitter = uniform((*near.shape, coarse, 1), rng).to(near).contiguous()
        if fine > 0:
            importance = uniform((*near.shape, fine), rng).to(near).contiguous()
    rays = RayBundle(rays.rays_o.contiguous(), rays.rays_d.contiguous())
    return _Call(field, rays, near.contiguous(), far.contiguous(), jitter, importance, cfg)


class _RaySpec(ctypes.Structure):
    """Mirrors RaySpec of spec.h."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "batch", "rays", "coarse", "fine", "channels", "hidden", "features", "side", "stride_n", "stride_p",
                "stride_c", "stride_h", "stride_w", "is_corrected", "is_disparity", "is_centred", "threads",
            )
        ),
        ("box_warp", ctypes.c_double),
    ]  # fmt: skip


def _spec(planes: Tensor, w2: Tensor, call: _Call) -> _RaySpec:
    n, _, channels, side, _ = planes.shape
    cfg = call.cfg
    outputs, hidden = w2.shape
    flags = (call.field.has_corrected_axes, cfg.disparity_space_sampling, cfg.importance_bins == "centred")
    return _RaySpec(
        n, call.near.shape[1], cfg.depth_resolution, cfg.depth_resolution_importance, channels, hidden, outputs - 1,
        side, *planes.stride(), *flags, torch.get_num_threads(), call.field.box_warp,
    )  # fmt: skip


class _RenderRays(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, planes: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, call: _Call
    ) -> tuple[Tensor, ...]:
        n, r = call.near.shape
        inputs = _dense(planes, w1, b1, w2, b2)
        features = len(b2) - 1
        outputs = [planes.new_empty(n, r, features), *(planes.new_empty(n, r) for _ in range(3))]
        t = planes.new_empty(n, r, call.samples)
        _launch("forward", inputs, call, [*outputs, t])
        ctx.save_for_backward(planes, w1, b1, w2, b2, t)
        ctx.call = call
        ctx.mark_non_differentiable(t)
        return (*outputs, t)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, t = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (*_differentiable_gradients(inputs, ctx.call, t, grads[:4], ctx.needs_input_grad), None)
        inputs = _dense(*inputs)
        d_planes = torch.empty_like(inputs[0])
        sizes = [w.numel() for w in inputs[1:]]
        d_weights = torch.zeros(sum(sizes), dtype=torch.float64, device=t.device)
        _launch("backward", inputs, ctx.call, [t, *(g.contiguous() for g in grads[:4]), d_planes, d_weights])
        pieces = [d.reshape(w.shape).to(w.dtype) for d, w in zip(d_weights.split(sizes), inputs[1:])]
        return (d_planes, *pieces, None)


def _dense(planes: Tensor, *weights: Tensor) -> list[Tensor]:
    return [dense_planes(planes), *(w.contiguous() for w in weights)]


def _launch(step: str, inputs: list[Tensor], call: _Call, tensors: list[Tensor]) -> None:
    native = extension.library(inputs[0], "render_rays")
    assert native is not None
    read = [*inputs, call.rays.rays_o, call.rays.rays_d, call.near, call.far, call.jitter, call.importance]
    extension.call(native, "render_rays", step, _spec(inputs[0], inputs[3], call), [*read, *tensors])


def _differentiable_gradients(
    inputs: list[Tensor], call: _Call, t: Tensor, grads: tuple[Tensor, ...], needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients through the reference at the kept distances, themselves differentiable."""
    values = reference.sums_at(call.field.with_tensors(*inputs), call.rays, t)
    return extension.gradients(values, inputs, grads, needed)
