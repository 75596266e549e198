"""From a seed to a latent: the one definition used by training reports, rankings, slabs and figures."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

LARGEST_SEED = 2**32 - 1
MOST_SEEDS = 1_000_000


def latent(seed: int, z_dim: int = 512) -> Tensor:
    """The latent of a seed, [1, z_dim] float32 on the CPU: a legacy Mersenne draw in float64, then rounded."""
    draw = np.random.RandomState(int(seed)).randn(1, z_dim)
    return torch.from_numpy(draw.astype(np.float32))


def latents(seeds: Iterable[int], z_dim: int = 512) -> Tensor:
    """Latents [N, z_dim] of several seeds, each the same as `latent` gives alone."""
    rows = [latent(seed, z_dim) for seed in seeds]
    return torch.cat(rows) if rows else torch.empty(0, z_dim)


def parse_seeds(text: str) -> list[int]:
    """Seeds of "0,1,4-6": numbers and ranges (both ends included) in the order given.

    Raises ValueError for anything else, for seeds above 2^32 - 1 (the draw takes no more) and for a million or more.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise ValueError(f"seeds: {part.strip()!r} is neither a number nor a range; write 0,1,4-6")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last > LARGEST_SEED or last - first >= MOST_SEEDS:
            raise ValueError(
                f"seeds: {part.strip()!r} must rise, end by {LARGEST_SEED} and name fewer than {MOST_SEEDS} seeds"
            )
        seeds += range(first, last + 1)
    return seeds
