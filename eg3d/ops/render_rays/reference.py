"""Rays through a tri-plane field in plain PyTorch: the definition of correct.

The steps are those of eg3d/rendering: stratified distances, the field, importance distances, the field, one sum.
Shape letters: N batch, R rays, n samples a ray, K features.
"""

from __future__ import annotations

from torch import Tensor

from eg3d.ops.density_points.reference import field_points
from eg3d.ops.triplane import TriPlane
from eg3d.random_streams import Rng
from eg3d.rendering import renderer
from eg3d.rendering.compositing import depth_spread, interval_weights, sample_weights
from eg3d.rendering.rays import RayBundle
from eg3d.rendering.renderer import RenderedRays, RenderingConfig


def render_rays(field: TriPlane, rays: RayBundle, cfg: RenderingConfig, rng: Rng | None = None) -> RenderedRays:
    """See op.render_rays."""
    return renderer.render_rays(lambda points: field_points(field, points), rays, cfg, rng)


def sums_at(field: TriPlane, rays: RayBundle, t: Tensor) -> tuple[Tensor, ...]:
    """Sums along rays at sorted distances t [N, R, n]: colour [N, R, K], weight, weighted depth and spread [N, R]."""
    points = rays.rays_o.unsqueeze(2) + t.unsqueeze(-1) * rays.rays_d.unsqueeze(2)
    sigma_raw, rgb = field_points(field, points.flatten(1, 2))
    weights = interval_weights(sigma_raw.view_as(t), t)
    shares = sample_weights(weights)
    colour = (rgb.unflatten(-1, t.shape[1:]) * shares.unsqueeze(1)).sum(-1).transpose(1, 2)
    middle = 0.5 * (t[..., :-1] + t[..., 1:])
    return colour, weights.sum(-1), (weights * middle).sum(-1), depth_spread(weights, t)
