"""The published split by ranking batch, and what it must not separate. Source: the released system."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from reward_model_training.preferences.rankings import Ranking

SPLITS = ("train", "val", "test")
SPLIT_SEED = 42


def inseparable(rankings: Sequence[Ranking]) -> list[list[int]]:
    """Positions of rankings in groups, in file order: those of one batch, or with a shape in common, are together.

    Two annotators on the same batches so stand on the same side of a split. In the published table, whose seeds occur
    once each, every ranking is a group of its own.
    """
    group = list(range(len(rankings)))  # the first ranking of each one's group, found through chains

    def first(position: int) -> int:
        while group[position] != position:
            group[position] = position = group[group[position]]
        return position

    seen: dict[Hashable, int] = {}
    for position, ranking in enumerate(rankings):
        shapes = [(seed, *at) for seed, at in zip(ranking.seeds, ranking.origins(), strict=True)]
        for name in (("batch", ranking.batch), *shapes):
            one, other = sorted((first(seen.setdefault(name, position)), first(position)))
            group[other] = one
    members: dict[int, list[int]] = {}
    for position in range(len(rankings)):
        members.setdefault(first(position), []).append(position)
    return list(members.values())


def split_by_batch(n: int) -> dict[str, np.ndarray]:
    """Positions 0..n-1 of ranking batches, or inseparable groups, as {"train", "val", "test"}: 70/15/15 as published.

    30 % are drawn out of the rows in file order, then halved with the same seed; 4,346 rows give 3,042/652/652. All
    pairs of a batch belong to its split. Raises ValueError below 4 batches.
    """
    if n < 4:  # a part would be empty
        raise ValueError(f"a split needs at least 4 ranking batches without a shape in common, got {n}")
    train, rest = shuffle_split(np.arange(n), math.floor(0.7 * n), math.ceil(0.3 * n))
    val, test = shuffle_split(rest, len(rest) // 2, math.ceil(0.5 * len(rest)))
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
