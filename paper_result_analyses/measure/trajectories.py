"""Reward of fixed seeds along a fine-tuning run, from the run's own trajectories.csv."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from paper_result_analyses.measure.tables import read_table

RUN_COLUMNS = {"tick": "", "num_images": "", "seed": "", "score": ""}
COLUMNS = {
    "arm": "fine-tuning run",
    "tick": "tick of the run",
    "num_images": "images shown to the discriminator since the start of fine-tuning",
    "seeds": "fixed seeds that were scored",
    "reward_mean": "mean reward of the seeds",
    "reward_low": "10th percentile of the reward over seeds",
    "reward_high": "90th percentile of the reward over seeds",
    "share_above_start": "share of seeds whose reward is above their own at tick 0",
}


def trajectories(runs: Mapping[str, Path]) -> pd.DataFrame:
    """One row an arm and tick (COLUMNS) from run folders by arm; runs without a trajectories.csv are left out."""
    tables = [_arm(arm, Path(folder)) for arm, folder in runs.items() if (Path(folder) / "trajectories.csv").is_file()]
    if not tables:
        raise FileNotFoundError(
            f"no trajectories.csv in {', '.join(map(str, runs.values()))}; give tracking.num_seeds > 0"
        )
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def _arm(arm: str, folder: Path) -> pd.DataFrame:
    table = read_table(folder / "trajectories.csv", columns=RUN_COLUMNS)
    first = table[table["tick"] == table["tick"].min()].set_index("seed")["score"]
    table["is_above"] = table["score"] > table["seed"].map(first)
    ticks = table.groupby(["tick", "num_images"])
    rows = ticks.agg(
        seeds=("seed", "size"),
        reward_mean=("score", "mean"),
        reward_low=("score", lambda s: s.quantile(0.1)),
        reward_high=("score", lambda s: s.quantile(0.9)),
        share_above_start=("is_above", "mean"),
    )
    return rows.reset_index().assign(arm=arm)
