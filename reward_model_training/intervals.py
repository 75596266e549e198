"""Intervals of shares, Wilson for independent answers and one that knows that pairs of a ranking batch go together;
and of means (Student).

Shapes: n answers (pairs), G clusters (ranking batches).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2  # of each side


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
class ClusteredShare(Share):
    """A share of answers that come in clusters."""

    num_clusters: int
    design_effect: float  # variance of the share over that of as many independent answers


def wilson(count: int, total: int) -> Share:
    """Wilson score interval of `count` out of `total` independent answers; without any it is 0 to 1.

    Source: Wilson (1927). Raises ValueError if count does not lie in 0 to total.
    """
    if not 0 <= count <= total:
        raise ValueError(f"count must lie in 0 to total {total}, got {count}")
    return Share(count, total, *_wilson_ends(count, total))


def clustered_interval(correct: np.ndarray, cluster: np.ndarray) -> ClusteredShare:
    """Interval of the share of `correct` (bool [n]) where answers of the same `cluster` (ids [n]) may depend.

    Wilson's interval for as many independent answers as these are worth: n / design effect, the variance of the share
    coming from the totals of the clusters (linearised ratio), and Student's factor for G - 1 of them; an effect below 1
    is taken as 1, since it is chance more often than not. Source: Korn and Graubard (1998). A bootstrap over clusters
    would be as simple, but is too short near 1 and for few clusters (it covers 87 % for a share of 0.97 in 120 clusters
    of one), and empty where all are right. Where the answers are all the same there is no spread to estimate, and a
    cluster counts as one answer.
    """
    from scipy.stats import norm, t

    correct = np.asarray(correct, dtype=bool)
    if correct.shape != np.shape(cluster) or correct.ndim != 1:
        raise ValueError(f"expected a cluster for each of {correct.shape} answers, got {np.shape(cluster)}")
    total, count = len(correct), int(correct.sum())
    _, index = np.unique(cluster, return_inverse=True)
    sizes = np.bincount(index).astype(float)
    num = len(sizes)
    if num < 2:  # nothing to see a spread by
        return ClusteredShare(count, total, 0.0, 1.0, num, float(max(total, 1)))
    share = count / total
    if 0 < count < total:
        residuals = np.bincount(index, weights=correct) - share * sizes
        variance = num / (num - 1) * float(residuals @ residuals) / total**2
        effect = variance * total / (share * (1 - share))
    else:
        effect = total / num
    factor = float(norm.isf(TAIL) / t.isf(TAIL, num - 1)) ** 2
    worth = total * factor / max(effect, 1.0)
    return ClusteredShare(count, total, *_wilson_ends(share * worth, worth), num, effect)


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, in the unit of the value."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """The three numbers as columns `name`, `name`_low and `name`_high of a table."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def mean_interval(values: np.ndarray, *, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of independent `values` [n] with Student's interval; without spread to estimate (n < 2) it is unbounded."""
    from scipy.stats import t

    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return Estimate(float(values.mean()) if len(values) else math.nan, -math.inf, math.inf)
    half = float(t.ppf(0.5 + confidence / 2, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(float(values.mean()), float(values.mean()) - half, float(values.mean()) + half)


def _wilson_ends(count: float, total: float) -> tuple[float, float]:
    from statsmodels.stats.proportion import proportion_confint

    if total == 0:
        return 0.0, 1.0
    low, high = proportion_confint(count, total, alpha=1 - CONFIDENCE, method="wilson")
    share = count / total
    return min(max(float(low), 0.0), share), max(min(float(high), 1.0), share)  # rounding puts the ends inside
