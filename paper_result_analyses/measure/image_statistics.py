"""Statistics of sets of images, and of the same seeds before and after. Shape letters: N seeds, M images of the data
set, R image side, r rendering side, F features.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reward_model_training.intervals import CONFIDENCE, Estimate

SMALLEST_SQUARE = 1e-6  # grey levels squared; below it two pictures count as equal
LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue, Rec. 601


class Sharpness(NamedTuple):
    """How sharp N pictures are, each by itself; noise counts as sharpness."""

    gradient: Tensor  # [N] grey levels per pixel
    laplacian_rms: Tensor  # [N] grey levels per pixel squared


def sharpness(images: Tensor) -> Sharpness:
    """Mean length of the gradient (central differences) and root mean square of the Laplacian (four neighbours) of the
    luma of uint8 images [N, 3, R, R], over all pixels but the border.

    Sources: energy of the Laplacian, Subbarao, Choi and Nikzad (1993), and gradient measures of focus; compared by
    Pertuz, Puig and Garcia (2013). Raises ValueError for pictures of less than 3 pixels a side.
    """
    if min(images.shape[2:]) < 3:
        raise ValueError(f"images must have 3 pixels a side or more, got {list(images.shape)}")
    luma = torch.einsum("nchw,c->nhw", images.double(), torch.tensor(LUMA, dtype=torch.float64))
    inner, up, down = luma[:, 1:-1, 1:-1], luma[:, :-2, 1:-1], luma[:, 2:, 1:-1]
    left, right = luma[:, 1:-1, :-2], luma[:, 1:-1, 2:]
    gradient = torch.hypot((right - left) / 2, (down - up) / 2)
    laplacian = up + down + left + right - 4 * inner
    return Sharpness(gradient.mean((1, 2)), laplacian.square().mean((1, 2)).sqrt())


def psnr_db(before: Tensor, after: Tensor, is_counted: Tensor | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio [N] in dB of uint8 images [N, 3, R, R], over the pixels where `is_counted` [N, R, R].

    NaN where no pixel counts.
    """
    squared = (after.double() - before.double()).square().mean(1)
    weights = torch.ones_like(squared) if is_counted is None else is_counted.double()
    mean = (squared * weights).sum((1, 2)) / weights.sum((1, 2))
    return (20 * math.log10(255) - 10 * mean.clamp_min(SMALLEST_SQUARE).log10()).numpy()


def covered(opacity: Tensor, side: int, threshold: float) -> Tensor:
    """bool [N, R, R]: pixels of images of side R where a rendered opacity [N, 1, r, r] is at `threshold` or above."""
    return F.interpolate(opacity.float(), size=(side, side), mode="bilinear", antialias=True)[:, 0] >= threshold


def identity_ranks(after: Tensor, before: Tensor) -> np.ndarray:
    """Rank of row i of `before` [N, F] among all its rows by distance to row i of `after` [N, F]; 1 = closest.

    The distance is Euclidean. Another row that is exactly as close does not push a row back.
    """
    distance = torch.cdist(after.double(), before.double())
    return (distance < distance.diagonal()[:, None]).sum(1).numpy() + 1


def kernel_distance_difference(
    first: Tensor, second: Tensor, data: Tensor, *, confidence: float = CONFIDENCE
) -> Estimate:
    """Kernel distance of `first` [N, F] to `data` [M, F] minus that of `second` [N, F], the same seeds row by row.

    The squared distances are the unbiased ones of eg3d.metrics.kid over all rows at once; their common term, inside
    `data`, drops out. The interval is Student's with variances by the jackknife over seeds and over rows of `data`; it
    is too wide where both sets are distributed as `data` is, since the distance is degenerate there.
    Raises ValueError below three seeds or two rows of `data`.
    """
    from scipy.stats import t

    n, m = len(first), len(data)
    if n < 3 or m < 2 or len(second) != n:
        raise ValueError(f"need three seeds in both sets and two images of the data set, got {n}, {len(second)}, {m}")
    within = _kernel(first, first) - _kernel(second, second)
    within.fill_diagonal_(0)
    across = _kernel(first, data) - _kernel(second, data)
    value = within.sum() / (n * (n - 1)) - 2 * across.mean()
    seed_left_out = (within.sum() - 2 * within.sum(1)) / ((n - 1) * (n - 2))
    seed_left_out -= 2 * (across.sum() - across.sum(1)) / ((n - 1) * m)
    image_left_out = -2 * (across.sum() - across.sum(0)) / (n * (m - 1))
    variance = sum((k - 1) * float(left.var(unbiased=False)) for k, left in ((n, seed_left_out), (m, image_left_out)))
    half = float(t.ppf(0.5 + confidence / 2, min(n, m) - 1)) * math.sqrt(variance)
    return Estimate(float(value), float(value) - half, float(value) + half)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3
