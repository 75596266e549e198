"""Bootstrap intervals of differences of paired shares and of changes of medians.

Those of shares and of means: reward_model_training.intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from reward_model_training.intervals import CONFIDENCE, Estimate

RESAMPLES = 10_000  # of the bootstrap
BOOTSTRAP_SEED = 0


def paired_share_difference(first: np.ndarray, second: np.ndarray, *, confidence: float = CONFIDENCE) -> Estimate:
    """Share of `first` minus share of `second`, both bool [n] over the same items; percentile bootstrap over items."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if len(difference) == 0:
        return Estimate(math.nan, -1.0, 1.0)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    means = rng.choice(difference, size=(RESAMPLES, len(difference))).mean(1)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(difference.mean()), float(low), float(high))


def median_change(values: np.ndarray, start: np.ndarray, *, confidence: float = CONFIDENCE) -> Estimate:
    """Median of `values` / that of `start` - 1, both [n] of the same items; percentile bootstrap over items."""
    values, start = np.asarray(values, dtype=np.float64), np.asarray(start, dtype=np.float64)
    drawn = np.random.default_rng(BOOTSTRAP_SEED).integers(len(values), size=(RESAMPLES, len(values)))
    changes = np.median(values[drawn], axis=1) / np.median(start[drawn], axis=1) - 1
    low, high = np.quantile(changes, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(np.median(values) / np.median(start) - 1), float(low), float(high))


def for_people(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A table of pairs of arms to look at: columns arm, other, n, then `names` as "value (low to high)"."""
    shown = table[["arm", "other", "n"]].copy()
    for name in names:
        parts = table[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False, name=None)
        texts = [f"{value:.3f} ({low:.3f} to {high:.3f})" if value == value else "" for value, low, high in parts]
        shown[name.replace("_", " ")] = texts
    return shown
