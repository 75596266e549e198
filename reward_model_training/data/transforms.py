"""Transforms: from a stored representation to what a network takes, by name, for training and bundles alike.

A new one is its config, its function, and an entry of TRANSFORMS. Shapes: N items; X, Y, Z sides of a stored slab.
Source: the released system.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
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


def normalise_sigma_self(x: Tensor, low: float = 0.0, high: float = 100.0) -> Tensor:
    """Each volume of x [N, X, Y, Z] scaled linearly so that its own minimum and maximum become `low` and `high`.

    Differentiable through the minimum and the maximum, as published. A constant volume becomes `low` everywhere with
    zero gradient (the published formula divides by zero there).
    """
    if x.ndim != 4:
        raise ValueError(f"x must be [N, X, Y, Z], got {list(x.shape)}; add the batch axis with x[None]")
    smallest, largest = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    span = largest - smallest
    is_flat = span <= 0
    scaled = (x - smallest) / span.masked_fill(is_flat, 1.0) * (high - low) + low
    return torch.where(is_flat, torch.full_like(scaled, low), scaled)


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
    )
}


def to_network_input(x: Tensor, cfg: TransformConfig) -> Tensor:
    """Representations x [N, ...] of any float type as the network takes them, float32; differentiable."""
    return TRANSFORMS[cfg.name].apply(x.float(), cfg)


def upper_end(cfg: TransformConfig) -> float:
    """Upper end of the range of what the transform makes."""
    return float(TRANSFORMS[cfg.name].upper(cfg))
