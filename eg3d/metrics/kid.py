"""Kernel distance (KID) between two sets of features. Shape letters: N, M images, F features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class KernelDistance:
    """KID: mean and standard deviation over random subsets. Near 0 = alike; it may be slightly negative."""

    mean: float
    subset_std: float  # how much one subset varies; not the error of the mean
    subset_size: int


def kernel_distance(
    first: Tensor, second: Tensor, *, subset_size: int = 100, num_subsets: int = 50, seed: int = 0
) -> KernelDistance:
    """Unbiased squared MMD of features [N, F] and [M, F] with the kernel (x.y / F + 1)^3. Source: KID (2018).

    Subsets are smaller where a set is. Raises ValueError with fewer than two images in a set.
    """
    size = min(subset_size, len(first), len(second))
    if size < 2:
        raise ValueError(f"a kernel distance needs two images in each set, got {len(first)} and {len(second)}")
    rng = np.random.default_rng(seed)
    values = [
        squared_mmd(first[_subset(rng, len(first), size)], second[_subset(rng, len(second), size)])
        for _ in range(num_subsets)
    ]
    return KernelDistance(float(np.mean(values)), float(np.std(values)), size)


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of the same size, [N, F] each, N of 2 or more."""
    x, y, n = x.double(), y.double(), len(x)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = sum((k.sum() - k.diagonal().sum()) / (n * (n - 1)) for k in (kernel(x, x), kernel(y, y)))
    return float(within - 2 * kernel(x, y).mean())


def _subset(rng: np.random.Generator, total: int, size: int) -> Tensor:
    return torch.from_numpy(rng.choice(total, size, replace=False))
