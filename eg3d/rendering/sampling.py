"""Where rays are sampled: stratified distances first, then distances drawn where the first pass saw matter.

Shape letters: N batch, R rays, S coarse samples, F fine samples. All randomness comes from `rng`; without one,
jitter is 0.5 and the importance draws are (k + 0.5) / F. No gradients flow through distances.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eg3d.random_streams import Rng, uniform

IMPORTANCE_BINS = ("published", "centred")


@torch.no_grad()
def stratified_depths(
    near: Tensor, far: Tensor, num_samples: int, *, rng: Rng | None, disparity: bool = False
) -> Tensor:
    """Rising distances [N, R, S], one in each of S cells; cell k starts at near + k (far - near) / (S - 1).

    near, far [N, R] world units. The jitter only pushes away from the camera, so samples span [near, far + cell).
    With `disparity` the cells are even in 1 / distance.
    """
    shape = (*near.shape, num_samples)
    steps = torch.linspace(0, 1, num_samples, dtype=near.dtype, device=near.device)
    jitter = 0.5 if rng is None else uniform((*shape, 1), rng).squeeze(-1).to(near)
    fraction = (steps + jitter / (num_samples - 1)).expand(shape)
    near, far = near.unsqueeze(-1), far.unsqueeze(-1)
    if disparity:
        return 1 / ((1 - fraction) / near + fraction / far)
    return near + fraction * (far - near)


@torch.no_grad()
def importance_depths(
    t: Tensor, weights: Tensor, num_samples: int, *, rng: Rng | None, bins: str = "published"
) -> Tensor:
    """Distances [N, R, F] drawn from the smoothed weights of a coarse pass, not sorted.

    t [N, R, S] rising, S >= 4; weights [N, R, S - 1] of the intervals. The first and last interval are left out.
    Source: NeRF (2020), section 5.2, with the weight filter of Mip-NeRF (2021), eq. 18.
    bins: "published" spends the weight of interval [t_k, t_k+1] half an interval nearer to the camera, between the
    midpoints around t_k, as the published generators were trained; "centred" spends it where it was measured.
    """
    if bins not in IMPORTANCE_BINS:
        raise ValueError(f"importance_bins: {bins!r} is not one of {', '.join(IMPORTANCE_BINS)}")
    if t.shape[-1] < 4:
        raise ValueError(f"importance sampling needs at least 4 coarse samples a ray, got {t.shape[-1]}")
    smooth = _blurred(weights) + 0.01
    pdf = smooth[..., 1:-1] + 1e-5
    pdf = pdf / pdf.sum(dim=-1, keepdim=True)
    cdf = torch.cat([torch.zeros_like(pdf[..., :1]), pdf.cumsum(dim=-1)], dim=-1)
    edges = 0.5 * (t[..., :-1] + t[..., 1:]) if bins == "published" else t[..., 1:]
    return _inverse_cdf(edges, cdf, _draws((t.shape[0], t.shape[1]), num_samples, rng, t))


def _blurred(weights: Tensor) -> Tensor:
    """Mean of the two neighbouring pairwise maxima of [N, R, K] weights; the ends have one neighbour."""
    pairwise = torch.maximum(weights[..., :-1], weights[..., 1:])
    padded = torch.cat([weights[..., :1], pairwise, weights[..., -1:]], dim=-1)
    return 0.5 * (padded[..., :-1] + padded[..., 1:])


def _draws(rays: tuple[int, int], num_samples: int, rng: Rng | None, like: Tensor) -> Tensor:
    if rng is not None:
        return uniform((*rays, num_samples), rng).to(like)
    steps = torch.arange(num_samples, dtype=like.dtype, device=like.device)
    return ((steps + 0.5) / num_samples).expand(*rays, num_samples).contiguous()


def _inverse_cdf(edges: Tensor, cdf: Tensor, u: Tensor) -> Tensor:
    """Distances whose cumulative weight is u: piecewise linear between `edges` (its tail beyond `cdf` is unused)."""
    last = cdf.shape[-1] - 1
    above = torch.searchsorted(cdf, u, right=True)
    low, high = (above - 1).clamp(min=0), above.clamp(max=last)
    cdf_low, cdf_high = cdf.gather(-1, low), cdf.gather(-1, high)
    edge_low, edge_high = edges.gather(-1, low), edges.gather(-1, high)
    mass = cdf_high - cdf_low
    mass = torch.where(mass < 1e-5, torch.ones_like(mass), mass)
    return edge_low + (u - cdf_low) / mass * (edge_high - edge_low)
