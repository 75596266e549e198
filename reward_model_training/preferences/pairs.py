"""Rankings -> (winner, loser) pairs, and the published split by batch. Source: the released system."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from reward_model_training.preferences.rankings import Ranking

SPLITS = ("train", "val", "test")
SPLIT_SEED = 42


@dataclass(frozen=True)
class Pair:
    """Two seeds of one batch, the preferred one first."""

    winner: int
    loser: int
    batch: int


def to_pairs(rankings: Sequence[Ranking], *, all_pairs: bool = False) -> list[Pair]:
    """Best against worst of each ranking (as published), or with `all_pairs` all n(n-1)/2 ordered pairs."""
    return [
        Pair(winner, loser, ranking.batch)
        for ranking in rankings
        for winner, loser in (combinations(ranking.seeds, 2) if all_pairs else [(ranking.seeds[0], ranking.seeds[-1])])
    ]


def split_by_batch(n: int, seed: int = SPLIT_SEED) -> dict[str, np.ndarray]:
    """Positions 0..n-1 of ranking batches as {"train", "val", "test"}: 70/15/15 in the published way.

    30 % are drawn out of the rows in file order, then halved with the same seed; 4,346 rows give 3,042/652/652. All
    pairs of a batch belong to its split. Raises ValueError below 4 batches.
    """
    if n < 4:  # a part would be empty
        raise ValueError(f"a split needs at least 4 ranking batches, got {n}")
    train, rest = shuffle_split(np.arange(n), math.floor(0.7 * n), math.ceil(0.3 * n), seed=seed)
    val, test = shuffle_split(rest, len(rest) // 2, math.ceil(0.5 * len(rest)), seed=seed)
    return {"train": train, "val": val, "test": test}


def shuffle_split(
    items: np.ndarray, num_first: int, num_second: int, *, seed: int = SPLIT_SEED
) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint draws from `items`, equal to sklearn's train_test_split(items, random_state=seed).

    scikit-learn documents a permutation by RandomState(seed): its first `num_second` entries are the second part, the
    next `num_first` the first part.
    """
    if num_first + num_second > len(items):
        raise ValueError(f"cannot draw {num_first} + {num_second} out of {len(items)} items")
    order = np.random.RandomState(seed).permutation(len(items))
    return items[order[num_second : num_second + num_first]], items[order[:num_second]]
