"""Features of images from fixed random convolutions: a detector that needs no weights.

They stand in for the Inception network, whose weights this project does not ship: four 3x3 convolutions with stride 2,
Gaussian weights from a named seed, leaky ReLU 0.2, of 32, 64, 128 and 128 channels; of every layer the mean and the
standard deviation of each channel over the picture, 704 numbers in all. Numbers made with them compare sets of this
project with each other, and with nothing else.

Shape letters: N, M images, R image side.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FEATURES_NAME = "fixed random convolutions, seed 20240607 (a stand-in for Inception)"
FEATURES_SEED = 20240607
CHANNELS = (3, 32, 64, 128, 128)
NUM_FEATURES = 2 * sum(CHANNELS[1:])
PASS = 64  # images a forward pass


def random_features(images: Tensor) -> Tensor:
    """uint8 images [N, 3, R, R] -> features [N, 704], float32. The same images always give the same features."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 [N, 3, R, R], got {images.dtype} {list(images.shape)}")
    weights = [weight.to(images.device) for weight in _weights()]
    parts = [pooled_activations(part.float() / 127.5 - 1, weights) for part in images.split(PASS)]
    return torch.cat(parts) if parts else torch.empty(0, NUM_FEATURES)


def random_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of the features of two batches of pictures [N, 3, R, R] in [-1, 1]: [N]."""
    weights = [weight.to(first.device) for weight in _weights()]
    return (pooled_activations(first, weights) - pooled_activations(second, weights)).square().mean(1)


def standardised(features: Tensor, reference: Tensor) -> Tensor:
    """Features [N, F] in units of the standard deviation of `reference` [M, F], around its mean."""
    return (features - reference.mean(0)) / reference.std(0).clamp_min(1e-6)


def _weights() -> list[Tensor]:
    rng = np.random.RandomState(FEATURES_SEED)
    shapes = [(out, into, 3, 3) for into, out in pairwise(CHANNELS)]
    return [torch.from_numpy((rng.randn(*s) * np.sqrt(2 / (9 * s[1]))).astype(np.float32)) for s in shapes]


def pooled_activations(x: Tensor, weights: list[Tensor]) -> Tensor:
    """Channel means and deviations of every layer, [N, 704], of pictures [N, 3, R, R] in [-1, 1]."""
    pooled = []
    for weight in weights:
        x = F.leaky_relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, stride=2), 0.2)
        pooled += [x.mean((2, 3)), x.std((2, 3), unbiased=False)]
    return torch.cat(pooled, dim=1)
