"""Reward trajectories: fixed seeds scored by the averaged generator at every tick."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from torch import Tensor

from eg3d.finetuning.config import TrackingConfig
from eg3d.finetuning.rewards import Reward, score_seeds
from eg3d.generators.protocol import Generator
from eg3d.one_line import one_line
from eg3d.safe_write import atomic_path

COLUMNS = ["tick", "num_images", "seed", "score"]


class Trajectories:
    """`trajectories.csv` of a run folder: one row a tick and seed; rows after the resumed tick are dropped."""

    def __init__(self, folder: Path, cfg: TrackingConfig) -> None:
        self.path, self.cfg = folder / "trajectories.csv", cfg
        self.seeds = list(range(cfg.first_seed, cfg.first_seed + cfg.num_seeds))

    def record(self, generator: Generator, reward: Reward, *, tick: int, num_images: int) -> Tensor:
        """Score all seeds and write the table anew with them; returns the scores [num_seeds]."""
        scores = score_seeds(generator, reward, self.seeds, self.cfg, batch=self.cfg.batch)
        texts = [repr(score) for score in scores.tolist()]  # as text, so that rewriting the table changes no digit
        rows = pd.DataFrame({"tick": tick, "num_images": num_images, "seed": self.seeds, "score": texts})
        table = pd.concat([self._earlier(tick), rows]) if tick > 0 else rows
        with atomic_path(self.path) as temporary:
            table[COLUMNS].to_csv(temporary, index=False)
        return scores

    def _earlier(self, tick: int) -> pd.DataFrame:
        if not self.path.exists():
            return pd.DataFrame(columns=COLUMNS)
        kinds = {"tick": int, "num_images": int, "seed": int, "score": str}
        try:
            table = pd.read_csv(self.path, dtype=kinds)[COLUMNS]
        except (ValueError, LookupError) as error:
            reason = one_line(error)[:200]
            raise ValueError(f"{self.path}: not a table of trajectories ({reason}); delete it to go on") from None
        return table[table["tick"] < tick]
