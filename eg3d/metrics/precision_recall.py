"""Improved precision and recall: is an image in the other set's neighbourhoods. Letters: N, M images, F features."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 10_000  # rows and columns of distances held at once


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 3, block: int = BLOCK) -> tuple[float, float]:
    """Share of fakes near reals (precision) and of reals near fakes (recall), both 0 to 1.

    real [N, F], fake [M, F]. A point is near a set when it lies within the distance from some member to that member's
    k-th neighbour in its own set. Features are rounded to half precision first, as published; distances are float32.
    Source: Improved precision and recall (2019), eq. 1 and 2. Raises ValueError if a set has no k neighbours.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"precision and recall with k = {k} need more images than that, got {len(real)}, {len(fake)}")
    real, fake = real.half().float(), fake.half().float()
    return covered_share(real, fake, k=k, block=block), covered_share(fake, real, k=k, block=block)


def covered_share(manifold: Tensor, probes: Tensor, *, k: int, block: int = BLOCK) -> float:
    """Share of `probes` [M, F] within the k-th neighbour distance of some member of `manifold` [N, F]."""
    radii = torch.cat([_kth_distance(part, manifold, k, block) for part in manifold.split(block)])
    num_covered = 0
    for part in probes.split(block):
        is_covered = torch.zeros(len(part), dtype=torch.bool, device=part.device)
        for members, limits in zip(manifold.split(block), radii.split(block), strict=True):
            is_covered |= (torch.cdist(part, members) <= limits).any(dim=1)
        num_covered += int(is_covered.sum())
    return num_covered / len(probes)


def _kth_distance(part: Tensor, manifold: Tensor, k: int, block: int) -> Tensor:
    """Distance of each row to its k-th neighbour; the row itself is the nearest of all, hence k + 1."""
    nearest = torch.empty(len(part), 0, device=part.device)
    for members in manifold.split(block):
        distances = torch.cat([nearest, torch.cdist(part, members)], dim=1)
        nearest = distances.topk(min(k + 1, distances.shape[1]), dim=1, largest=False).values
    return nearest.amax(dim=1)
