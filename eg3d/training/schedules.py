"""Schedules of EG3D training as pure functions of the number of images shown. Source: EG3D (2022), section 4.

`num_images` counts real images shown since the start of the run; durations are in kimg (1,000 images).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fade(num_images: float, fade_kimg: float) -> float:
    """0 at the start, 1 from `fade_kimg` on; 1 always when `fade_kimg` is 0."""
    return 1.0 if fade_kimg <= 0 else min(num_images / (1000 * fade_kimg), 1.0)


def blur_sigma(num_images: float, *, init_sigma: float, fade_kimg: float) -> float:
    """Standard deviation, in pixels, of the blur that the discriminator sees its images through."""
    return (1.0 - fade(num_images, fade_kimg)) * init_sigma


def blur_taps(sigma: float) -> Tensor:
    """Separable taps [2 r + 1], 2^-(t/sigma)^2 for t = -r ... r with r = floor(3 sigma), normalised; 61 at sigma 10."""
    radius = math.floor(3 * sigma)
    t = torch.arange(-radius, radius + 1, dtype=torch.float32)
    taps = torch.exp2(-((t / sigma) ** 2)) if radius > 0 else torch.ones(1)
    return taps / taps.sum()


def swap_probability(num_images: float, *, final: float | None, fade_kimg: float) -> float | None:
    """Chance that the generator is conditioned on another sample's camera; None = conditioned on zeros."""
    if final is None:
        return None
    return 1.0 + fade(num_images, fade_kimg) * (final - 1.0)


def neural_resolution(num_images: float, *, initial: int, final: int | None, fade_kimg: float) -> int:
    """Side of the neural rendering, rounded half to even; 64 to 128 is 96 half way."""
    if final is None:
        return initial
    a = fade(num_images, fade_kimg)
    return round(initial * (1 - a) + final * a)


def ema_beta(num_images: float, *, batch: int, ema_kimg: float, rampup: float | None) -> float:
    """Decay of the running average of the weights for one step of `batch` images; half-life `ema_kimg`."""
    horizon = ema_kimg * 1000
    if rampup is not None:
        horizon = min(horizon, num_images * rampup)
    return 0.5 ** (batch / max(horizon, 1e-8))


def lazy_ratio(interval: int | None) -> float:
    """Factor on learning rate (and power on betas) for an optimiser shared with a lazy regulariser."""
    return 1.0 if interval is None else interval / (interval + 1)
