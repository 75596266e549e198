"""From a seed to a latent: the one definition used by training reports, rankings, slabs and figures."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def latent(seed: int, z_dim: int = 512) -> Tensor:
    """The latent of a seed, [1, z_dim] float32 on the CPU: a legacy Mersenne draw in float64, then rounded."""
    draw = np.random.RandomState(int(seed)).randn(1, z_dim)
    return torch.from_numpy(draw.astype(np.float32))


def latents(seeds: Iterable[int], z_dim: int = 512) -> Tensor:
    """Latents [N, z_dim] of several seeds, each the same as `latent` gives alone."""
    rows = [latent(seed, z_dim) for seed in seeds]
    return torch.cat(rows) if rows else torch.empty(0, z_dim)
