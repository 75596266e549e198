"""High-quality anchors: near-mean faces (psi 0.25) that stand above every ranked pair. Source: the released system."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reward_model_training.preferences.splits import shuffle_split


@dataclass
class AnchorConfig:
    """Which seeds are anchors. The defaults are the published ones; small data sets take fewer."""

    first_seed: int = 100000
    psi: float = 0.25  # truncation strength of an anchor
    # Whose shapes they are: the number, from 0, of one of the rankings' further generators (data.snapshots), where the
    # best shapes are known to be another's; null = of data.generator, as published.
    snapshot: int | None = None
    num_train: int = 700
    num_val: int = 150
    num_test: int = 150

    def validate(self) -> list[str]:
        faults = [
            f"{name}: expected 0 or more anchors, got {getattr(self, name)}"
            for name in ("num_train", "num_val", "num_test")
            if getattr(self, name) < 0
        ]
        if self.first_seed < 0:
            faults.append(f"first_seed: expected 0 or more, got {self.first_seed}")
        if self.snapshot is not None and self.snapshot < 0:
            faults.append(f"snapshot: expected a number from 0, got {self.snapshot}")
        return faults


def anchor_split(cfg: AnchorConfig) -> dict[str, np.ndarray]:
    """Anchor seeds as {"train", "val", "test"}: train against the rest, then the rest, each with the same seed."""
    num_rest = cfg.num_val + cfg.num_test
    seeds = np.arange(cfg.first_seed, cfg.first_seed + cfg.num_train + num_rest)
    train, rest = shuffle_split(seeds, cfg.num_train, num_rest)
    val, test = shuffle_split(rest, cfg.num_val, cfg.num_test)
    return {"train": train, "val": val, "test": test}


def draw_anchor(seeds: np.ndarray, rng: np.random.RandomState) -> int:
    """One of the anchor seeds, uniformly. Published loaders seed `rng` with the number of the loader's worker."""
    if len(seeds) == 0:
        raise ValueError("there is no anchor to draw from; give anchors a count above 0 or train without them")
    return int(seeds[rng.randint(len(seeds))])
