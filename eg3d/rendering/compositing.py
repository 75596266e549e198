"""Volume rendering sums along rays (midpoint rule). Shape letters: N batch, R rays, S samples, C channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

DEPTH_CLAMPS = ("batch", "sample")


def interval_weights(sigma_raw: Tensor, t: Tensor) -> Tensor:
    """Share of light that each interval between two samples adds: [N, R, S - 1], in [0, 1], sum at most 1.

    sigma_raw [N, R, S] before its activation softplus(x - 1); t [N, R, S] rising, world units. The raw values at the
    ends are averaged before the activation. There is no last, infinite interval: what passes the last sample is
    background. Source: Mip-NeRF (2021), NeRF (2020), eq. 3. Differentiable in both.
    """
    if t.shape[-1] < 2:
        raise ValueError(f"compositing needs at least 2 samples a ray, got {t.shape[-1]}")
    sigma = F.softplus(0.5 * (sigma_raw[..., :-1] + sigma_raw[..., 1:]) - 1)
    alpha = 1 - torch.exp(-sigma * (t[..., 1:] - t[..., :-1]))
    passed = torch.cumprod(1 - alpha + 1e-10, dim=-1)
    return alpha * torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], dim=-1)


def sample_weights(weights: Tensor) -> Tensor:
    """Spread interval weights [N, R, S - 1] over their two ends: [N, R, S].

    A sum of midpoint colours times interval weights is a sum of sample colours times these, so that colours can stay
    where the field left them.
    """
    return 0.5 * (F.pad(weights, (1, 0)) + F.pad(weights, (0, 1)))


def expected_depth(weights: Tensor, t: Tensor, clamp: str = "batch") -> Tensor:
    """Mean distance [N, R] of the light of each ray; weights [N, R, S - 1]; t [N, R, S] rising. See limited_depth."""
    depth_sum = (weights * 0.5 * (t[..., :-1] + t[..., 1:])).sum(dim=-1)
    return limited_depth(depth_sum, weights.sum(dim=-1), t, clamp)


def limited_depth(depth_sum: Tensor, total: Tensor, t: Tensor, clamp: str) -> Tensor:
    """depth_sum / total, both [N, R], inside the sampled distances t [N, R, S] rising; an empty ray gets the largest.

    clamp: "batch", as published, limits depths to the distances of all samples of the call, so that an empty ray
    depends on its batch neighbours; "sample" limits each item by its own.
    """
    if clamp not in DEPTH_CLAMPS:
        raise ValueError(f"depth_clamp: {clamp!r} is not one of {', '.join(DEPTH_CLAMPS)}")
    if t.numel() == 0:
        return depth_sum
    dims = (0, 1) if clamp == "batch" else (1,)
    nearest, farthest = t[..., 0].amin(dims, keepdim=True), t[..., -1].amax(dims, keepdim=True)
    mean = depth_sum / torch.where(total > 0, total, 1)
    return torch.where(total > 0, mean, farthest.expand_as(mean)).clamp(nearest, farthest)


def depth_spread(weights: Tensor, t: Tensor) -> Tensor:
    """Variance of the stopping distance of each ray, [N, R], world units squared, times its opacity.

    0 for a hard surface and for an empty ray, large for fog. weights [N, R, S - 1]; t [N, R, S]. Differentiable in the
    weights. Source: the idea of the distortion loss, Mip-NeRF 360 (2022), eq. 15, as a second moment in closed form.
    """
    middle = 0.5 * (t[..., :-1] + t[..., 1:])
    total = weights.sum(dim=-1, keepdim=True)
    mean = (weights * middle).sum(dim=-1, keepdim=True) / total.clamp_min(1e-8)
    return (weights * (middle - mean).square()).sum(dim=-1)


def background(rgb: Tensor, total: Tensor, white_back: bool) -> Tensor:
    """Add what passed all samples and go from [0, 1] to [-1, 1]: rgb [N, C, R], total weight [N, R].

    Black background adds nothing; the published white one adds to every feature channel, not only to colours.
    """
    if white_back:
        rgb = rgb + (1 - total).unsqueeze(1)
    return 2 * rgb - 1
