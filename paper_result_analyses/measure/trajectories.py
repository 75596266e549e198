"""Reward of fixed seeds along a fine-tuning run, from the run's own trajectories.csv."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from paper_result_analyses.figures import charts
from paper_result_analyses.measure.context import Context
from paper_result_analyses.measure.protocol import Figure, Input, Measure, Table
from paper_result_analyses.measure.tables import read_table

FILE = "trajectories.csv"  # in a run folder
RUN_COLUMNS = {"tick": "", "num_images": "", "seed": "", "score": ""}
TABLE = "trajectories"
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


def trajectories(files: Mapping[str, Path]) -> pd.DataFrame:
    """One row an arm and tick (COLUMNS) from the trajectories.csv of runs, by arm.

    Raises FileNotFoundError without any, ValueError (one line) for a damaged one.
    """
    if not files:
        raise FileNotFoundError(f"no fine-tuning run has a {FILE}; give tracking.num_seeds > 0")
    return pd.concat([_arm(arm, Path(path)) for arm, path in files.items()], ignore_index=True)[list(COLUMNS)]


def _arm(arm: str, path: Path) -> pd.DataFrame:
    table = read_table(path, columns=RUN_COLUMNS, remedy="do the run again")
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


def run(context: Context) -> dict[str, pd.DataFrame]:
    return {TABLE: trajectories(context.run_files(FILE))}


MEASURE = Measure(
    name="trajectories",
    inputs=(Input.RUNS,),
    tables=(Table(TABLE, COLUMNS),),
    run=run,
    figures=(
        Figure(
            "trajectories",
            "Reward of fixed seeds along each fine-tuning run.",
            tables=(TABLE,),
            draw=charts.draw_trajectories,
        ),
    ),
)
