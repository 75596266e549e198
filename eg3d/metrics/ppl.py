"""Perceptual path length: how much an image changes a small step along a path in latent space. N paths."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-4  # length of the step, as a part of the path
MAX_SIDE = 256  # px; larger images are averaged down to it first, as published


def path_length(distances: np.ndarray) -> float:
    """Mean of distances [N] (already over EPSILON squared) between their 1st and 99th percentile, both included.

    The percentiles are observed values, the lower one rounded down and the higher one up. Source: StyleGAN (2018),
    section 4.1. Raises ValueError for no distances.
    """
    if len(distances) == 0:
        raise ValueError("a path length needs at least one path, got none")
    low = np.percentile(distances, 1, method="lower")
    high = np.percentile(distances, 99, method="higher")
    return float(distances[(distances >= low) & (distances <= high)].mean())


def step_ends(ws: Tensor) -> tuple[Tensor, Tensor]:
    """Start of each path and the point one step along it: ws [2 N, num_ws, w_dim], paths are neighbours in it.

    "wend" of the metric's name: the step is at the start of a straight path in w.
    """
    start, end = ws[0::2], ws[1::2]
    return start, torch.lerp(start, end, EPSILON)


def shrunk(images: Tensor) -> Tensor:
    """Images [N, 3, R, R] with whole blocks of pixels averaged so that no side exceeds MAX_SIDE."""
    factor = images.shape[-1] // MAX_SIDE
    return F.avg_pool2d(images, factor) if factor > 1 else images
