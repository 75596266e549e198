"""Densities with a known shape, for tests: a head of a few ellipsoids in the cube, as raw density around level 10."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from eg3d.representations.sigma_field import SigmaField

SLAB = SigmaField(resolution=64, grid="exact")


def slab_axes(cfg: SigmaField = SLAB) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World coordinates x, y, z of the slab, each [X, Y, Z]."""
    axes = [np.arange(r.start, r.stop) / (cfg.resolution - 1) - 0.5 for r in cfg.slices()]
    return tuple(np.meshgrid(*axes, indexing="ij"))


def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...], cfg: SigmaField = SLAB) -> np.ndarray:
    """Signed distance (near the surface), world units, negative inside, [X, Y, Z]."""
    scaled = [(a - c) / r for a, c, r in zip(slab_axes(cfg), centre, radii)]
    gradient = [s / r for s, r in zip(scaled, radii)]
    length, slope = (np.sqrt(sum(v**2 for v in part)) for part in (scaled, gradient))
    return length * (length - 1) / np.maximum(slope, 1e-6)


def smooth_union(a: np.ndarray, b: np.ndarray, radius: float = 0.02) -> np.ndarray:
    share = np.clip(0.5 + 0.5 * (b - a) / radius, 0, 1)
    return b + (a - b) * share - radius * share * (1 - share)


def head(*, nose: float = 0.05, radius: float = 0.2, cfg: SigmaField = SLAB) -> np.ndarray:
    """Signed distance of skull, chin, neck, eye sockets and a nose of length `nose` (0 = none)."""
    skull = ellipsoid((0, 0.05, 0.05), (radius * 0.85, radius * 1.15, radius), cfg)
    chin = ellipsoid((0, -0.13, 0.1), (radius * 0.5, radius * 0.5, radius * 0.5), cfg)
    neck = ellipsoid((0, -0.3, -0.02), (radius * 0.5, radius * 1.2, radius * 0.5), cfg)
    shape = smooth_union(smooth_union(skull, chin, 0.05), neck, 0.05)
    if nose:
        shape = smooth_union(shape, ellipsoid((0, 0.0, 0.05 + radius), (0.025, 0.045, nose), cfg), 0.03)
        for x in (-0.07, 0.07):
            shape = -smooth_union(-shape, ellipsoid((x, 0.05, 0.08 + radius), (0.03, 0.02, 0.04), cfg), 0.03)
    return shape


def density(shape: np.ndarray, *, slope: float = 600.0) -> np.ndarray:
    """Raw density of a signed distance: 10 on the surface, rising inwards, bounded."""
    return (10 + np.clip(-slope * shape, -40, 60)).astype(np.float32)


def noise(amplitude: float, *, sigma: float = 0.7, seed: int = 0, cfg: SigmaField = SLAB) -> np.ndarray:
    """Small-scale noise of standard deviation `amplitude`, smoothed over `sigma` voxels, [X, Y, Z]."""
    shape = [r.stop - r.start for r in cfg.slices()]
    raw = ndimage.gaussian_filter(np.random.RandomState(seed).standard_normal(shape), sigma)
    return amplitude * raw / raw.std()
