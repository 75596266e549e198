"""The two-pass renderer: coarse samples, fine samples where they matter, one sum over both.

Shape letters: N batch, R rays, S coarse and F fine samples a ray, C feature channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eg3d.random_streams import Rng, normal
from eg3d.rendering.compositing import (
    DEPTH_CLAMPS,
    background,
    depth_spread,
    expected_depth,
    interval_weights,
    sample_weights,
)
from eg3d.rendering.planes import PLANE_AXES
from eg3d.rendering.rays import RayBundle, box_limits
from eg3d.rendering.sampling import IMPORTANCE_BINS, importance_depths, stratified_depths

# Points [N, P, 3] -> raw density [N, P] and colours in [0, 1] [N, C, P].
PointQuery = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass
class RenderingConfig:
    """Where rays are sampled and how samples become pixels. Defaults are those of FFHQ."""

    ray_start: float | str = 2.25  # world units from the camera, or "auto" (with ray_end): where rays meet the box
    ray_end: float | str = 3.3  # world units from the camera, or "auto"
    box_warp: float = 1.0  # side of the cube that the planes cover, world units
    depth_resolution: int = 48  # stratified samples per ray
    depth_resolution_importance: int = 48  # further samples where the first ones saw matter, 0 = none
    disparity_space_sampling: bool = False  # stratify 1 / distance instead of distance
    white_back: bool = False  # white instead of black behind everything
    density_noise: float = 0.0  # standard deviation of noise on the raw density, needs an rng
    plane_axes: str = "xy_xz_zx"  # "xy_xz_zx" as published | "xy_xz_zy" so that one plane sees (y, z)
    importance_bins: str = "published"  # "published" half an interval too near | "centred"
    depth_clamp: str = "batch"  # limits of depths, and of rays that miss the box: "batch" as published | "sample"

    def validate(self) -> list[str]:
        """All faults, one line each; empty when the configuration is fine."""
        faults = _limit_faults(self.ray_start, self.ray_end, self.disparity_space_sampling)
        if self.box_warp <= 0:
            faults.append(f"box_warp: must be positive, got {self.box_warp}")
        fewest = 4 if self.depth_resolution_importance > 0 else 2
        if self.depth_resolution < fewest:
            faults.append(f"depth_resolution: must be at least {fewest}, got {self.depth_resolution}")
        if self.depth_resolution_importance < 0:
            faults.append(f"depth_resolution_importance: must be 0 or more, got {self.depth_resolution_importance}")
        if self.density_noise < 0:
            faults.append(f"density_noise: must be 0 or more, got {self.density_noise}")
        for name, choices in (
            ("plane_axes", tuple(PLANE_AXES)),
            ("importance_bins", IMPORTANCE_BINS),
            ("depth_clamp", DEPTH_CLAMPS),
        ):
            if getattr(self, name) not in choices:
                faults.append(f"{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}")
        return faults


def _limit_faults(start: float | str, end: float | str, disparity: bool) -> list[str]:
    if isinstance(start, str) or isinstance(end, str):
        if start == end == "auto":
            return []
        return [f"ray_start, ray_end: two numbers or both auto, got {start!r} and {end!r}"]
    faults = []
    if not start < end:
        faults.append(f"ray_start: must be below ray_end, got {start} and {end}")
    if start < 0 or (disparity and start == 0):
        faults.append(f"ray_start: must be {'above' if disparity else 'at least'} 0, got {start}")
    return faults


@dataclass(frozen=True)
class RenderedRays:
    """What a render call returns, per ray."""

    rgb: Tensor  # [N, C, R] -1 to 1 for colours in [0, 1]
    depth: Tensor  # [N, R] world units along the ray
    opacity: Tensor  # [N, R] share of light stopped by matter, 0 to 1
    spread: Tensor  # [N, R] variance of the stopping distance times opacity, world units squared


def ray_limits(rays: RayBundle, cfg: RenderingConfig) -> tuple[Tensor, Tensor]:
    """Near and far distances [N, R] of each ray, world units."""
    if cfg.ray_start == "auto":
        return box_limits(rays, cfg.box_warp, cfg.depth_clamp)
    like = rays.rays_o[..., 0]
    return torch.full_like(like, float(cfg.ray_start)), torch.full_like(like, float(cfg.ray_end))


def render_rays(field: PointQuery, rays: RayBundle, cfg: RenderingConfig, rng: Rng | None = None) -> RenderedRays:
    """Render rays through a field. Source: EG3D (2022), section 4; NeRF (2020), section 5.2.

    Gradients flow to the field and to the rays, never through the choice of fine distances. With `rng` the draws
    are, in order: jitter, density noise, importance, density noise; without one the samples are fixed.
    """
    near, far = ray_limits(rays, cfg)
    t = stratified_depths(near, far, cfg.depth_resolution, rng=rng, disparity=cfg.disparity_space_sampling)
    sigma_raw, rgb = _evaluate(field, rays, t, cfg.density_noise, rng)
    if cfg.depth_resolution_importance == 0:
        return _composite([rgb], sigma_raw, t, cfg)
    with torch.no_grad():
        coarse = interval_weights(sigma_raw, t)
        t_fine = importance_depths(t, coarse, cfg.depth_resolution_importance, rng=rng, bins=cfg.importance_bins)
    sigma_raw_fine, rgb_fine = _evaluate(field, rays, t_fine, cfg.density_noise, rng)
    return _composite([rgb, rgb_fine], torch.cat([sigma_raw, sigma_raw_fine], -1), torch.cat([t, t_fine], -1), cfg)


def _evaluate(
    field: PointQuery, rays: RayBundle, t: Tensor, density_noise: float, rng: Rng | None
) -> tuple[Tensor, Tensor]:
    """Raw densities [N, R, S] and colours [N, C, R, S] at distances [N, R, S]."""
    points = rays.rays_o.unsqueeze(2) + t.unsqueeze(-1) * rays.rays_d.unsqueeze(2)
    sigma_raw, rgb = field(points.flatten(1, 2))
    sigma_raw, rgb = sigma_raw.view_as(t), rgb.unflatten(-1, t.shape[1:])
    if density_noise > 0:
        if rng is None:
            raise ValueError("rendering.density_noise is above 0: pass an rng, deterministic rendering has no noise")
        noise = normal((*t.shape, 1), rng).to(sigma_raw.device)
        sigma_raw = sigma_raw + density_noise * noise.flatten(1).view_as(sigma_raw)
    return sigma_raw, rgb


def _composite(colours: list[Tensor], sigma_raw: Tensor, t: Tensor, cfg: RenderingConfig) -> RenderedRays:
    """Sum over all samples of all passes; sigma_raw and t are the passes joined, not yet in order.

    Only distances and densities are sorted. Colours stay where they are: their weights go back to them instead.
    """
    if len(colours) > 1:
        t, order = t.sort(dim=-1)
        weights = interval_weights(sigma_raw.gather(-1, order), t)
        per_sample = torch.zeros_like(sigma_raw).scatter(-1, order, sample_weights(weights))
    else:
        weights = interval_weights(sigma_raw, t)
        per_sample = sample_weights(weights)
    shares = per_sample.split([rgb.shape[-1] for rgb in colours], dim=-1)
    rgb = sum((rgb * share.unsqueeze(1)).sum(dim=-1) for rgb, share in zip(colours, shares, strict=True))
    total = weights.sum(dim=-1)
    depth = expected_depth(weights, t, cfg.depth_clamp)
    return RenderedRays(background(rgb, total, cfg.white_back), depth, total, depth_spread(weights, t))
