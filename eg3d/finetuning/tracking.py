"""Trajectories: fixed seeds scored by the averaged generator at ticks, by the reward and by a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from eg3d.finetuning.config import TrackingConfig
from eg3d.finetuning.rewards import Reward, score_seeds
from eg3d.generators.protocol import Generator
from eg3d.one_line import one_line
from eg3d.safe_write import atomic_path

TRAJECTORIES, JUDGED = "trajectories.csv", "judge.csv"
COLUMNS = ("tick", "num_images", "seed")


class Trajectories:
    """A table of a run folder: one row a tick and seed; rows after the resumed tick are dropped.

    scorers: who scores, by column; `roles` says what messages call each where that is not "reward".
    """

    def __init__(
        self, path: Path, cfg: TrackingConfig, scorers: Mapping[str, Reward], *, roles: Mapping[str, str] | None = None
    ) -> None:
        self.path, self.cfg, self._scorers, self._roles = path, cfg, scorers, roles or {}
        self.seeds: Sequence[int] = list(cfg.all_seeds())
        self._kinds = {**dict.fromkeys(COLUMNS, int), **dict.fromkeys(scorers, str)}

    def record(self, generator: Generator, *, tick: int, num_images: int) -> dict[str, Tensor]:
        """Score all seeds and write the table anew with them; returns the scores [num_seeds] by column."""
        scores = {
            name: score_seeds(
                generator, scorer, self.seeds, self.cfg, batch=self.cfg.batch, role=self._roles.get(name, "reward")
            )
            for name, scorer in self._scorers.items()
        }
        # As text, so that rewriting the table changes no digit.
        texts = {name: [repr(score) for score in column.tolist()] for name, column in scores.items()}
        rows = pd.DataFrame({"tick": tick, "num_images": num_images, "seed": self.seeds, **texts})
        table = pd.concat([self._earlier(tick), rows]) if tick > 0 else rows
        with atomic_path(self.path) as temporary:
            table[list(self._kinds)].to_csv(temporary, index=False)
        return scores

    def _earlier(self, tick: int) -> pd.DataFrame:
        if not self.path.exists():
            return pd.DataFrame(columns=list(self._kinds))
        try:
            table = pd.read_csv(self.path, dtype=self._kinds)[list(self._kinds)]
        except (ValueError, LookupError) as error:
            reason = one_line(error)[:200]
            raise ValueError(f"{self.path}: not a table of trajectories ({reason}); delete it to go on") from None
        return table[table["tick"] < tick]
