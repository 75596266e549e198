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
from typing import Any

import torch
from torch import Tensor

from eg3d.cameras import CameraConfig, fov_to_intrinsics
from eg3d.fields.protocol import Field, join_fields
from eg3d.generators.protocol import Generator, Rendered, device_of
from eg3d.networks.noise import NOISE_MODES
from eg3d.rendering.compositing import DEPTH_CLAMPS
from eg3d.samples import Sample, SampleConfig, seed_latents, style_codes

POINTS_AT_ONCE = 2**20  # sample points of one pass over the rays: about 1 GB at 64 hidden units
MOST_AT_ONCE = 32  # pictures


@dataclass
class ViewingConfig(SampleConfig):
    """How the pictures of a trained generator are made."""

    noise_mode: str = "const"  # of the backbone: const | none | random
    jitter: bool = False  # random distances along rays, and whatever other noise the network renders with
    noise_seed: int = 0  # of noise_mode random and of jitter
    depth_clamp: str = "sample"  # "batch" as published: a picture depends on its neighbours
    sample_multiplier: float = 1.0  # multiplies both numbers of samples along a ray
    neural_rendering_resolution: int | None = None  # px; None = the network's own

    def validate(self) -> list[str]:
        """All faults, one line each."""
        faults = super().validate() + [
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


def for_viewing(G: Generator, cfg: ViewingConfig) -> Generator:
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
    changes: dict[str, Any] = {"rendering": rendering}
    if not cfg.jitter and hasattr(G.cfg, "superresolution_noise_mode"):
        changes["superresolution_noise_mode"] = "none"
    viewed = copy.copy(G)
    viewed.cfg = replace(G.cfg, **changes)
    viewed.neural_rendering_resolution = cfg.neural_rendering_resolution or G.neural_rendering_resolution
    return viewed


def with_fov(camera: CameraConfig, fov_deg: float | None) -> CameraConfig:
    """Cameras with another diagonal field of view; None leaves them alone."""
    if fov_deg is None:
        return camera
    if not 0 < fov_deg < 180:
        raise ValueError(f"fov_deg: must lie between 0 and 180, got {fov_deg}")
    return replace(camera, focal=float(fov_to_intrinsics(fov_deg)[0, 0]))


def viewed_seeds(G: Generator, seeds: Sequence[int], cfg: ViewingConfig, *, c: Tensor | None = None) -> Sample:
    """Samples of seeds, all conditioned on the camera c [1, 25] (None = the canonical one), with the noise of `cfg`."""
    ws = style_codes(G, seed_latents(G, seeds), cfg, c=c)
    return Sample(ws, field_of(G, ws, cfg))


def field_of(G: Generator, ws: Tensor, cfg: ViewingConfig) -> Field:
    """The field of style codes [N, num_ws, w_dim]; random noise, if asked for, is the same for each."""
    if cfg.noise_mode != "random":
        return G.field(ws, noise_mode=cfg.noise_mode)
    return join_fields([G.field(row, noise_mode="random", rng=_fresh(cfg)) for row in ws.split(1)])


def render(G: Generator, sample: Sample, c: Tensor, cfg: ViewingConfig, *, superresolve: bool = True) -> Rendered:
    """What G.render gives for N samples and cameras c [N, 25]; with jitter, each picture has the same draws."""
    c = c.to(device_of(G))
    if not cfg.jitter:
        return G.render(sample.field, sample.ws, c, superresolve=superresolve)
    rows = [sample.rows(slice(i, i + 1)) for i in range(len(c))]
    return Rendered.joined(
        [
            G.render(row.field, row.ws, c[i : i + 1], rng=_fresh(cfg), superresolve=superresolve)
            for i, row in enumerate(rows)
        ]
    )


def pictures_at_once(G: Generator) -> int:
    """How many pictures one call may render before the points of their rays fill much memory; at least 1."""
    rendering = G.cfg.rendering
    per_ray = max(rendering.depth_resolution, rendering.depth_resolution_importance)
    return max(1, min(MOST_AT_ONCE, POINTS_AT_ONCE // (G.neural_rendering_resolution**2 * per_ray)))


def _scaled(count: int, multiplier: float, least: int = 0) -> int:
    return count if multiplier == 1 else max(least, int(count * multiplier))


def _fresh(cfg: ViewingConfig) -> torch.Generator:
    """Draws come from the CPU, so that they are the same on every device."""
    return torch.Generator().manual_seed(cfg.noise_seed)
