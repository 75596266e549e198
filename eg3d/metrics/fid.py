"""Frechet distance between two sets of features. Shape letters: N, M images, F features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features, float64."""

    mean: Tensor  # [F]
    covariance: Tensor  # [F, F], divided by N
    num: int


def moments(features: Tensor) -> Moments:
    """Moments of features [N, F], accumulated in float64; the covariance is divided by N, as published."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be [N, F] with N of 2 or more, got {list(features.shape)}")
    mean = torch.zeros(features.shape[1], dtype=torch.float64)
    for part in features.split(4096):
        mean += part.cpu().double().sum(0)
    mean /= len(features)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in features.split(4096):
        centred = part.cpu().double() - mean
        covariance += centred.T @ centred
    return Moments(mean, covariance / len(features), len(features))


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)), in units of the features squared. Source: FID (2017), eq. 6.

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which has those of C1 C2
    and is symmetric: no complex numbers, and singular covariances (fewer images than features) need no offset.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"moments of {len(first.mean)} and of {len(second.mean)} features cannot be compared")
    values, vectors = torch.linalg.eigh(first.covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = root @ second.covariance @ root
    trace_root = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    traces = first.covariance.trace() + second.covariance.trace() - 2 * trace_root
    return float((first.mean - second.mean).square().sum() + traces)
