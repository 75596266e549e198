"""Intervals of the reported numbers: shares (Wilson), means (Student), differences of paired shares (bootstrap)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000  # of the bootstrap
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Share:
    """A count out of a total with its interval; all of it 0 to 1 but the counts."""

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.count / self.total if self.total else math.nan


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, in the unit of the value."""

    value: float
    low: float
    high: float


def wilson(count: int, total: int, *, confidence: float = CONFIDENCE) -> Share:
    """Wilson score interval of `count` out of `total`; without observations it is 0 to 1. Source: Wilson (1927)."""
    from scipy.stats import norm

    if not 0 <= count <= total:
        raise ValueError(f"count must lie in 0 to total {total}, got {count}")
    if total == 0:
        return Share(0, 0, 0.0, 1.0)
    z = float(norm.ppf(0.5 + confidence / 2))
    share, shrink = count / total, 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Share(count, total, max(0.0, centre - half), min(1.0, centre + half))


def mean_interval(values: np.ndarray, *, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of independent `values` [n] with Student's interval; without spread to estimate (n < 2) it is unbounded."""
    from scipy.stats import t

    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return Estimate(float(values.mean()) if len(values) else math.nan, -math.inf, math.inf)
    half = float(t.ppf(0.5 + confidence / 2, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(float(values.mean()), float(values.mean()) - half, float(values.mean()) + half)


def paired_share_difference(first: np.ndarray, second: np.ndarray, *, confidence: float = CONFIDENCE) -> Estimate:
    """Share of `first` minus share of `second`, both bool [n] over the same items; percentile bootstrap over items."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if len(difference) == 0:
        return Estimate(math.nan, -1.0, 1.0)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    means = rng.choice(difference, size=(RESAMPLES, len(difference))).mean(1)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(difference.mean()), float(low), float(high))
