"""Rendering 128 x 128 rays with 48 + 48 samples at the size of published faces."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks import harness
from benchmarks.field import random_field, with_tensors
from eg3d.cameras import CameraConfig
from eg3d.ops.render_rays import reference
from eg3d.ops.render_rays.op import render_rays
from eg3d.rendering.rays import RayBundle, pixel_rays
from eg3d.rendering.renderer import RenderedRays, RenderingConfig


def cases(device: str) -> list[harness.Case]:
    """Forward, and forward + backward to planes and weights; fixed samples."""
    made = []
    for passes in ("forward", "forward_backward"):
        plain, native = (_runner(function, device, passes) for function in (reference.render_rays, render_rays))
        made.append(harness.Case("rays128", passes, plain, native))
    return made


def _runner(function: Callable[..., RenderedRays], device: str, passes: str) -> harness.Run:
    c = CameraConfig().label(pitch=0.1).to(device)
    rays = pixel_rays(c[:, :16].view(1, 4, 4), c[:, 16:].view(1, 3, 3), 128)

    def run(dtype: torch.dtype) -> harness.Outputs:
        moved, inputs = with_tensors(field, dtype)
        cast = RayBundle(rays.rays_o.to(dtype), rays.rays_d.to(dtype))
        with torch.set_grad_enabled(passes == "forward_backward"):
            rendered = function(moved, cast, RenderingConfig())
        values = [rendered.rgb, rendered.depth, rendered.opacity]
        if passes == "forward":
            return values
        upstream = [torch.ones_like(value) for value in values]
        return [*(value.detach() for value in values), *torch.autograd.grad(values, inputs, upstream)]

    field = random_field(device)
    return run


if __name__ == "__main__":
    harness.main("benchmarks.rays", cases, __doc__, operation="render_rays")
