"""Pictures of seeds that are the same at every call: what samples, films and the viewer share.

By default nothing is random: constant backbone noise, no jitter along rays. Where randomness is asked for it comes from
`noise_seed` afresh for every picture, so that views of one seed and frames of one film share their noise, and a picture
depends neither on its neighbours in a batch nor on what was rendered before it.

Shape letters: N pictures, R picture side.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eg3d.cameras import fov_to_intrinsics
from eg3d.networks.noise import NOISE_MODES
from eg3d.rendering.compositing import DEPTH_CLAMPS
from eg3d.seeds import latents

if TYPE_CHECKING:
    from eg3d.generator import CameraConfig, TriPlaneGenerator

POINTS_AT_ONCE = 2**20  # sample points of one pass over the rays: about 1 GB at 64 hidden units
MOST_AT_ONCE = 32  # pictures


@dataclass(frozen=True)
class ViewingConfig:
    """How the pictures of a trained generator are made."""

    psi: float = 1.0  # truncation strength, 1 = off
    truncation_cutoff: int | None = 14  # backbone layers that are truncated; None = all
    noise_mode: str = "const"  # of the backbone: const | none | random
    jitter: bool = False  # random distances along rays, and whatever other noise the network renders with
    noise_seed: int = 0  # of noise_mode random and of jitter
    depth_clamp: str = "sample"  # "batch" as published: a picture depends on its neighbours
    sample_multiplier: float = 1.0  # multiplies both numbers of samples along a ray
    neural_rendering_resolution: int | None = None  # px; None = the network's own

    def validate(self) -> list[str]:
        """All faults, one line each."""
        faults = [
            f"{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}"
            for name, choices in (("noise_mode", NOISE_MODES), ("depth_clamp", DEPTH_CLAMPS))
            if getattr(self, name) not in choices
        ]
        if not self.sample_multiplier > 0:
            faults.append(f"sample_multiplier: must be positive, got {self.sample_multiplier}")
        side = self.neural_rendering_resolution
        if side is not None and side < 1:
            faults.append(f"neural_rendering_resolution: must be at least 1, got {side}")
        return faults


def for_viewing(G: TriPlaneGenerator, cfg: ViewingConfig) -> TriPlaneGenerator:
    """A generator with the weights of `G` (shared, not copied) that renders as `cfg` says; `G` itself stays as it is.

    Noise on densities and in super-resolution, which some networks were trained with, is off unless cfg.jitter.
    """
    faults = cfg.validate()
    if faults:
        raise ValueError("; ".join(faults))
    rendering = replace(
        G.cfg.rendering,
        depth_clamp=cfg.depth_clamp,
        depth_resolution=_scaled(G.cfg.rendering.depth_resolution, cfg.sample_multiplier, least=4),
        depth_resolution_importance=_scaled(G.cfg.rendering.depth_resolution_importance, cfg.sample_multiplier),
        density_noise=G.cfg.rendering.density_noise if cfg.jitter else 0.0,
    )
    viewed = copy.copy(G)
    viewed.cfg = replace(
        G.cfg,
        rendering=rendering,
        superresolution_noise_mode=G.cfg.superresolution_noise_mode if cfg.jitter else "none",
    )
    viewed.neural_rendering_resolution = cfg.neural_rendering_resolution or G.neural_rendering_resolution
    return viewed


def with_fov(camera: CameraConfig, fov_deg: float | None) -> CameraConfig:
    """Cameras with another diagonal field of view; None leaves them alone."""
    if fov_deg is None:
        return camera
    if not 0 < fov_deg < 180:
        raise ValueError(f"fov_deg: must lie between 0 and 180, got {fov_deg}")
    return replace(camera, focal=float(fov_to_intrinsics(fov_deg)[0, 0]))


def device_of(G: TriPlaneGenerator) -> torch.device:
    """Where the weights are."""
    return next(G.parameters()).device


def style_codes(G: TriPlaneGenerator, seeds: Sequence[int], c: Tensor, cfg: ViewingConfig) -> Tensor:
    """Style codes [N, num_ws, w_dim] of seeds, all conditioned on the camera c [1, 25]."""
    device = device_of(G)
    z = latents(seeds, G.z_dim).to(device)
    labels = c.to(device).expand(len(z), -1)
    return G.mapping(z, labels, truncation_psi=cfg.psi, truncation_cutoff=cfg.truncation_cutoff)


def planes_of(G: TriPlaneGenerator, ws: Tensor, cfg: ViewingConfig) -> Tensor:
    """Tri-planes [N, 3, C, H, W] of style codes; random noise, if asked for, is the same for each."""
    if cfg.noise_mode != "random":
        return G.planes(ws, noise_mode=cfg.noise_mode)
    return torch.cat([G.planes(row, noise_mode="random", rng=_fresh(cfg)) for row in ws.split(1)])


def render(
    G: TriPlaneGenerator, planes: Tensor, ws: Tensor, c: Tensor, cfg: ViewingConfig, *, superresolve: bool = True
) -> dict[str, Tensor]:
    """What G.render gives for N planes, codes and cameras c [N, 25]; with jitter, each picture has the same draws."""
    c = c.to(device_of(G))
    if not cfg.jitter:
        return G.render(planes, ws, c, superresolve=superresolve)
    rows = [
        G.render(planes[i : i + 1], ws[i : i + 1], c[i : i + 1], rng=_fresh(cfg), superresolve=superresolve)
        for i in range(len(c))
    ]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def pictures_at_once(G: TriPlaneGenerator) -> int:
    """How many pictures one call may render before the points of their rays fill much memory; at least 1."""
    rendering = G.cfg.rendering
    per_ray = max(rendering.depth_resolution, rendering.depth_resolution_importance)
    return max(1, min(MOST_AT_ONCE, POINTS_AT_ONCE // (G.neural_rendering_resolution**2 * per_ray)))


def _scaled(count: int, multiplier: float, least: int = 0) -> int:
    return count if multiplier == 1 else max(least, int(count * multiplier))


def _fresh(cfg: ViewingConfig) -> torch.Generator:
    """Draws come from the CPU, so that they are the same on every device."""
    return torch.Generator().manual_seed(cfg.noise_seed)
