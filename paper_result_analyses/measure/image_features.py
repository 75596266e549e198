"""Features of images from fixed random convolutions, and the kernel distance (KID) between two sets of images.

The features stand in for the Inception network, which this project does not ship: four 3x3 convolutions with stride 2,
Gaussian weights from a named seed, leaky ReLU 0.2, of 32, 64, 128 and 128 channels; of every layer the mean and the
standard deviation of each channel over the picture, 704 numbers in all. Numbers made with them compare sets of this
project with each other, and with nothing else.

Shape letters: N, M images, R image side, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FEATURES_NAME = "fixed random convolutions, seed 20240607 (a stand-in for Inception)"
FEATURES_SEED = 20240607
CHANNELS = (3, 32, 64, 128, 128)


def random_features(images: Tensor, *, batch: int = 64) -> Tensor:
    """uint8 images [N, 3, R, R] -> features [N, 704], float32. The same images always give the same features."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 [N, 3, R, R], got {images.dtype} {list(images.shape)}")
    weights = _weights()
    return torch.cat([_pooled(part.float() / 127.5 - 1, weights) for part in images.split(batch)])


def standardised(features: Tensor, reference: Tensor) -> Tensor:
    """Features [N, F] in units of the standard deviation of `reference` [M, F], around its mean."""
    return (features - reference.mean(0)) / reference.std(0).clamp_min(1e-6)


@dataclass(frozen=True)
class KernelDistance:
    """KID: mean and standard deviation over random subsets. Near 0 = alike; it may be slightly negative."""

    mean: float
    std: float
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
        _squared_mmd(first[_subset(rng, len(first), size)], second[_subset(rng, len(second), size)])
        for _ in range(num_subsets)
    ]
    return KernelDistance(float(np.mean(values)), float(np.std(values)), size)


def _subset(rng: np.random.Generator, total: int, size: int) -> Tensor:
    return torch.from_numpy(rng.choice(total, size, replace=False))


def _squared_mmd(x: Tensor, y: Tensor) -> float:
    x, y, n = x.double(), y.double(), len(x)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = sum((k.sum() - k.diagonal().sum()) / (n * (n - 1)) for k in (kernel(x, x), kernel(y, y)))
    return float(within - 2 * kernel(x, y).mean())


def _weights() -> list[Tensor]:
    rng = np.random.RandomState(FEATURES_SEED)
    shapes = [(out, into, 3, 3) for into, out in pairwise(CHANNELS)]
    return [torch.from_numpy((rng.randn(*s) * np.sqrt(2 / (9 * s[1]))).astype(np.float32)) for s in shapes]


def _pooled(x: Tensor, weights: list[Tensor]) -> Tensor:
    pooled = []
    for weight in weights:
        x = F.leaky_relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, stride=2), 0.2)
        pooled += [x.mean((2, 3)), x.std((2, 3), unbiased=False)]
    return torch.cat(pooled, dim=1)
