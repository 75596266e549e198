"""Transforms: from a stored representation to what a network takes, by name, for training and bundles alike.

`normalise_sigma_self` is the published one: every voxel of a slab is measured against the slab's own extremes, so that
one voxel moves them all, and the gradient of all of them runs through those two. The others see each voxel by itself,
or at least keep the extremes out of the gradient. A new one is its config, its function, and an entry of TRANSFORMS.
Shapes: N items; X, Y, Z sides of a stored slab. Source: the released system, but for what is said to be new.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d.config_families import FamilyConfig


@dataclass
class TransformConfig(FamilyConfig):
    """Settings of a transform; each has its own."""

    @classmethod
    def members(cls) -> dict[str, type[FamilyConfig]]:
        return {name: entry.config for name, entry in TRANSFORMS.items()}


@dataclass
class NormaliseSigmaSelfConfig(TransformConfig):
    """Each slab is scaled so that its own minimum and maximum become `low` and `high`."""

    name: str = "normalise_sigma_self"
    low: float = 0.0
    high: float = 100.0

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = super().validate()
        if not -float("inf") < self.low < self.high < float("inf"):
            faults.append(f"low, high: expected finite numbers, low below high, got {self.low}, {self.high}")
        return faults


@dataclass
class DetachedSigmaSelfConfig(NormaliseSigmaSelfConfig):
    """As normalise_sigma_self, to the same numbers, but no gradient runs through the minimum and the maximum (new)."""

    name: str = "normalise_sigma_self_detached"


@dataclass
class FixedRangeConfig(TransformConfig):
    """Raw density from `raw_low` to `raw_high` becomes 0 to `high`, linearly; what lies outside goes on (new)."""

    name: str = "fixed_range"
    raw_low: float = -1000.0
    raw_high: float = 1000.0
    high: float = 100.0
    clamps: bool = True  # what lies outside the range becomes its end, and has no gradient

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = super().validate()
        if not self.raw_low < self.raw_high:
            faults.append(f"raw_low, raw_high: expected raw_low below raw_high, got {self.raw_low}, {self.raw_high}")
        return faults + _upper_faults(self.high)


@dataclass
class SurfaceLogisticConfig(TransformConfig):
    """Raw density around the surface's level by a logistic function: 0 far outside, `high` far inside (new)."""

    name: str = "surface_logistic"
    level: float = 10.0  # raw density of the surface: half of `high`
    width: float = 100.0  # raw density from the level to 0.73 of `high`; a voxel of the twin's surface is about 150
    high: float = 100.0

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = [] if self.width > 0 else [f"width: must be above 0, got {self.width}"]
        return super().validate() + faults + _upper_faults(self.high)


@dataclass
class SurfaceDistanceConfig(TransformConfig):
    """Distance to the surface, to first order, by a logistic function: 0 far outside, `high` far inside (new)."""

    name: str = "surface_distance"
    level: float = 10.0  # raw density of the surface: half of `high`
    width: float = 1.0  # voxels from the surface to 0.73 of `high`
    least_slope: float = 5.0  # raw density a voxel: what is flatter counts as so steep
    # What lies behind the first surface from the front counts as solid, so that nothing is read but what can be seen.
    seen_from_front: bool = False
    high: float = 100.0

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        names = [name for name in ("width", "least_slope") if not getattr(self, name) > 0]
        faults = [f"{name}: must be above 0, got {getattr(self, name)}" for name in names]
        return super().validate() + faults + _upper_faults(self.high)


@dataclass
class OpacityConfig(TransformConfig):
    """Share of light stopped over `length`: 1 - exp(-softplus(raw density - 1) length), times `high` (new)."""

    name: str = "opacity"
    length: float = 1 / 63  # world units
    high: float = 100.0

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = [] if self.length > 0 else [f"length: must be above 0 world units, got {self.length}"]
        return super().validate() + faults + _upper_faults(self.high)


def _upper_faults(high: float) -> list[str]:
    return [] if high > 0 else [f"high: must be above 0, got {high}"]


def normalise_sigma_self(x: Tensor, low: float = 0.0, high: float = 100.0, *, through_ends: bool = True) -> Tensor:
    """Each volume of x [N, X, Y, Z] scaled linearly so that its own minimum and maximum become `low` and `high`.

    Differentiable through the minimum and the maximum, as published; without `through_ends` these are constants to the
    gradient. A constant volume becomes `low` everywhere with zero gradient (the published formula divides by zero).
    """
    if x.ndim != 4:
        raise ValueError(f"x must be [N, X, Y, Z], got {list(x.shape)}; add the batch axis with x[None]")
    smallest, largest = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    if not through_ends:
        smallest, largest = smallest.detach(), largest.detach()
    span = largest - smallest
    is_flat = span <= 0
    scaled = (x - smallest) / span.masked_fill(is_flat, 1.0) * (high - low) + low
    return torch.where(is_flat, torch.full_like(scaled, low), scaled)


def fixed_range(x: Tensor, cfg: FixedRangeConfig) -> Tensor:
    """Raw density x [N, X, Y, Z] on a fixed linear scale, each voxel by itself; differentiable where not clamped."""
    share = (x - cfg.raw_low) / (cfg.raw_high - cfg.raw_low)
    return cfg.high * (share.clamp(0, 1) if cfg.clamps else share)


def surface_logistic(x: Tensor, cfg: SurfaceLogisticConfig) -> Tensor:
    """Raw density x [N, X, Y, Z] by a logistic around the surface's level, 0 to `high`, each voxel by itself.

    Differentiable; the gradient is largest at the surface and fades on both sides.
    """
    return cfg.high * torch.sigmoid((x - cfg.level) / cfg.width)


def surface_distance(x: Tensor, cfg: SurfaceDistanceConfig) -> Tensor:
    """Raw density x [N, X, Y, Z], two voxels or more a side, to a logistic of its distance to the surface, 0 to `high`.

    The distance is (x - level) / |grad x| in voxels, differences central: Taubin, Distance approximations for
    rasterizing implicit curves (1994), eq. 2. However steep a generator's densities are, the same surface looks the
    same, so that a reward cannot be pleased by contrast; with `seen_from_front` it cannot be pleased by what no one
    sees either: a value becomes the largest between it and the front, the high end of Z. Differentiable.
    """
    if cfg.seen_from_front:
        x = x.flip(3).cummax(3).values.flip(3)
    squares = [slope.square() for slope in torch.gradient(x, dim=(1, 2, 3))]
    slope = (sum(squares, torch.zeros_like(x)) + cfg.least_slope**2).sqrt()
    return cfg.high * torch.sigmoid((x - cfg.level) / (slope * cfg.width))


def opacity(x: Tensor, cfg: OpacityConfig) -> Tensor:
    """Raw density x [N, X, Y, Z] to the share of light stopped, 0 to `high`, each voxel by itself.

    Source: NeRF (2020), eq. 3, with the density activation of EG3D (2022). Differentiable; air has next to no gradient.
    """
    return -cfg.high * torch.expm1(-F.softplus(x - 1) * cfg.length)


def to_network_axes(x: Tensor) -> Tensor:
    """A stored volume [N, X, Y, Z] as the network takes it, [N, 1, Z, Y, X]; a view, so gradients flow."""
    return x.permute(0, 3, 2, 1).unsqueeze(1)


class Transform(NamedTuple):
    """One transform of the table."""

    config: type[TransformConfig]
    input_kind: str  # of representations.protocol: of what it reads, and of what it makes for a network
    apply: Callable[[Tensor, Any], Tensor]  # (representation [N, ...], config) -> network input; differentiable
    upper: Callable[[Any], float]  # config -> upper end of the range of what it makes


TRANSFORMS: dict[str, Transform] = {
    "normalise_sigma_self": Transform(
        NormaliseSigmaSelfConfig,
        input_kind="volume",
        apply=lambda x, cfg: to_network_axes(normalise_sigma_self(x, cfg.low, cfg.high)),
        upper=lambda cfg: cfg.high,
    ),
    "normalise_sigma_self_detached": Transform(
        DetachedSigmaSelfConfig,
        input_kind="volume",
        apply=lambda x, cfg: to_network_axes(normalise_sigma_self(x, cfg.low, cfg.high, through_ends=False)),
        upper=lambda cfg: cfg.high,
    ),
    "fixed_range": Transform(
        FixedRangeConfig,
        input_kind="volume",
        apply=lambda x, cfg: to_network_axes(fixed_range(x, cfg)),
        upper=lambda cfg: cfg.high,
    ),
    "surface_logistic": Transform(
        SurfaceLogisticConfig,
        input_kind="volume",
        apply=lambda x, cfg: to_network_axes(surface_logistic(x, cfg)),
        upper=lambda cfg: cfg.high,
    ),
    "surface_distance": Transform(
        SurfaceDistanceConfig,
        input_kind="volume",
        apply=lambda x, cfg: to_network_axes(surface_distance(x, cfg)),
        upper=lambda cfg: cfg.high,
    ),
    "opacity": Transform(
        OpacityConfig,
        input_kind="volume",
        apply=lambda x, cfg: to_network_axes(opacity(x, cfg)),
        upper=lambda cfg: cfg.high,
    ),
}


def to_network_input(x: Tensor, cfg: TransformConfig) -> Tensor:
    """Representations x [N, ...] of any float type as the network takes them, float32; differentiable."""
    return TRANSFORMS[cfg.name].apply(x.float(), cfg)


def upper_end(cfg: TransformConfig) -> float:
    """Upper end of the range of what the transform makes."""
    return float(TRANSFORMS[cfg.name].upper(cfg))
