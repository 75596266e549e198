"""Raw density (the decoder's first output, before softplus) on a regular grid, whole or cropped to a slab.

Shape letters: N batch, D grid side, X, Y, Z sides of the slab, C plane channels, H hidden width of the decoder.
A volume is stored in the order (x, y, z); x is image right, y up, z towards the camera. It is never mirrored.
Source: Sculpting NeRF Geometry (2026) and its released behaviour (the published slab and its grid).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eg3d.ops.density_grid.op import density_grid
from eg3d.ops.density_grid.reference import GRIDS, Slices, grid_points

if TYPE_CHECKING:
    from eg3d.generator import TriPlaneGenerator

__all__ = [
    "GRIDS", "SigmaFieldConfig", "Slices", "grid_points", "seed_slab", "sigma_field", "sigma_grid", "sigma_part",
    "slab_shape", "slab_slices",
]  # fmt: skip
CHUNK_POINTS = 2**16  # points of one query where native operations are missing: about 100 MB at 64 hidden units


@dataclass
class SigmaFieldConfig:
    """Which density grid, which part of it, and how the latent behind it is truncated."""

    resolution: int = 256  # grid points per side of the cube
    grid: str = "skewed"  # "skewed": the published grid (needed by released rewards) | "exact"
    psi: float = 1.0  # truncation strength of seed_slab, 1 = off
    truncation_cutoff: int | None = 14  # backbone layers that are truncated; null or -1 = all
    rhs: float = 0.25  # fraction trimmed at low x
    lhs: float = 0.25  # fraction trimmed at high x
    bot: float = 0.25  # fraction trimmed at low y
    top: float = 0.2  # fraction trimmed at high y
    rear: float = 0.4  # fraction trimmed at low z, the back of the head
    front: float = 0.1  # fraction trimmed at high z, the camera's side

    def validate(self) -> list[str]:
        faults = []
        if self.resolution < 2:
            faults.append(f"resolution: a grid needs at least 2 points per side, got {self.resolution}")
        if self.grid not in GRIDS:
            faults.append(f"grid: {self.grid!r} is not one of {', '.join(GRIDS)}")
        if self.truncation_cutoff is not None and self.truncation_cutoff < -1:
            faults.append(f"truncation_cutoff: expected null, -1 or a layer count, got {self.truncation_cutoff}")
        for low, high in (("rhs", "lhs"), ("bot", "top"), ("rear", "front")):
            ends = (getattr(self, low), getattr(self, high))
            if min(ends) < 0 or sum(ends) >= 1:
                faults.append(f"{low}, {high}: expected fractions >= 0 with a sum below 1, got {ends[0]}, {ends[1]}")
        return faults


def slab_slices(cfg: SigmaFieldConfig) -> Slices:
    """Index ranges (x, y, z) of the slab in the D^3 grid; int(fraction * D) points go at each end.

    At 256 with the default fractions: x 64:192, y 64:205, z 102:231. Raises ValueError if nothing is left.
    """
    d = cfg.resolution
    ends = ((cfg.rhs, cfg.lhs), (cfg.bot, cfg.top), (cfg.rear, cfg.front))
    x, y, z = (slice(int(low * d), d - int(high * d)) for low, high in ends)
    ranges = (x, y, z)
    if any(r.start < 0 or r.stop > d or r.start >= r.stop for r in ranges):
        raise ValueError(f"the crop fractions leave no grid points of {d} per side: {'; '.join(cfg.validate())}")
    return ranges


def slab_shape(cfg: SigmaFieldConfig) -> tuple[int, int, int]:
    """Number of grid points (X, Y, Z) of the slab: (128, 141, 129) at 256, (32, 36, 33) at 64."""
    x, y, z = slab_slices(cfg)
    return x.stop - x.start, y.stop - y.start, z.stop - z.start


def sigma_field(
    G: TriPlaneGenerator,
    planes: Tensor,
    cfg: SigmaFieldConfig,
    *,
    whole: bool = False,
    chunk: int = CHUNK_POINTS,
) -> Tensor:
    """Raw density of the slab [N, X, Y, Z], or with `whole` of the cube [N, D, D, D]; any real value.

    planes [N, 3, C, H, W] from G.planes. Only the points of the slab are queried. Differentiable in the planes and in
    the decoder's weights. `chunk` bounds the points of one query where native operations are missing.
    """
    slices = (slice(0, cfg.resolution),) * 3 if whole else slab_slices(cfg)
    return sigma_part(G, planes, cfg.resolution, slices, grid=cfg.grid, chunk=chunk)


def sigma_grid(
    G: TriPlaneGenerator, planes: Tensor, resolution: int, *, grid: str, chunk: int = CHUNK_POINTS
) -> Tensor:
    """Raw density of the whole cube, [N, D, D, D] in the order (x, y, z); differentiable as sigma_field is."""
    return sigma_part(G, planes, resolution, (slice(0, resolution),) * 3, grid=grid, chunk=chunk)


def sigma_part(
    G: TriPlaneGenerator, planes: Tensor, resolution: int, slices: Slices, *, grid: str, chunk: int = CHUNK_POINTS
) -> Tensor:
    """Raw density [N, X, Y, Z] on the part `slices` of the grid, float32 (float64 for planes of that type).

    Differentiable as sigma_field is. Raises ValueError for planes of another rank, an unknown grid or no points.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 point, got {chunk}")
    rendering = G.cfg.rendering
    return density_grid(
        planes,
        *G.decoder.density_weights(),
        resolution=resolution,
        slices=slices,
        grid=grid,
        box_warp=rendering.box_warp,
        plane_axes=rendering.plane_axes,
        chunk=chunk,
    )


@torch.no_grad()
def seed_slab(G: TriPlaneGenerator, seed: int, cfg: SigmaFieldConfig) -> Tensor:
    """The slab [X, Y, Z], float32, of the shape that `seed` names: canonical camera, constant noise, no gradients."""
    from eg3d.cameras import canonical_label
    from eg3d.seeds import latent

    device = next(G.decoder.parameters()).device
    cutoff = None if cfg.truncation_cutoff in (None, -1) else cfg.truncation_cutoff
    z = latent(seed, G.cfg.z_dim).to(device)
    camera = G.cfg.camera
    c = canonical_label(1, radius=camera.radius, lookat=camera.pivot).to(device)
    ws = G.mapping(z, c, truncation_psi=cfg.psi, truncation_cutoff=cutoff)
    return sigma_field(G, G.planes(ws, noise_mode="const"), cfg)[0].float()
