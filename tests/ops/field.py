"""Planes and density weights of any size and type."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eg3d.ops.triplane import TriPlane


def field_tensors(
    batch: int = 1, channels: int = 5, side: int = 9, hidden: int = 7, *, dtype: torch.dtype, scale: float = 1.0
) -> list[Tensor]:
    """planes [N, 3, C, S, S] and w1, b1, w2, b2, all wanting gradients; `scale` stretches the planes."""
    rng = torch.Generator().manual_seed(channels * 1000 + side)

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return (std * torch.randn(shape, generator=rng, dtype=torch.float64)).to(dtype).requires_grad_()

    weights = [normal(hidden, channels, std=channels**-0.5), normal(hidden, std=0.3), normal(hidden, std=hidden**-0.5)]
    return [normal(batch, 3, channels, side, side, std=scale), *weights, normal()]


def field_of(inputs: Sequence[Tensor], *, box_warp: float = 1.0, plane_axes: str = "xy_xz_zx") -> TriPlane:
    """The field of planes, w1, b1, w2, b2; density weights w2 [H] and b2 [] become a decoder without features."""
    planes, w1, b1, w2, b2 = inputs
    second = (w2[None], b2[None]) if w2.ndim == 1 else (w2, b2)
    return TriPlane(planes, w1, b1, *second, box_warp=box_warp, plane_axes=plane_axes)


def largest_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest expected value."""
    if expected.numel() == 0:
        return float(found.shape != expected.shape)
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-30)).item()
