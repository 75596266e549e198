"""Judge beside reward along a fine-tuning run, on the judge's own seeds, from the run's own judge.csv.

Where the reward rises and the judge falls, the reward is over-optimised. Runs without a judge have no rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import pandas as pd

from paper_result_analyses.figures import charts
from paper_result_analyses.measure.context import Context
from paper_result_analyses.measure.protocol import Figure, Finding, Input, Measure, Table
from paper_result_analyses.measure.tables import Tables, read_table

FILE = "judge.csv"  # in a run folder
RUN_COLUMNS = {"tick": "", "num_images": "", "seed": "", "score": ""}
TABLE = "judged"
COLUMNS = {
    "arm": "fine-tuning run",
    "tick": "tick of the run",
    "num_images": "images shown to the discriminator since the start of fine-tuning",
    "seeds": "seeds that the judge scored",
    "judge_mean": "mean score of the judge over seeds",
    "judge_error": "standard error of that mean",
    "reward_mean": "mean reward of the same seeds; empty where the run scored others",
    "is_best": "whether the judge liked this tick best of the run",
}


def judged(files: Mapping[str, Path]) -> pd.DataFrame:
    """One row an arm and tick (COLUMNS) from the judge.csv of runs, by arm; none without any.

    Raises ValueError (one line) for a damaged one.
    """
    found = [_arm(arm, Path(path)) for arm, path in files.items()]
    return pd.concat(found, ignore_index=True)[list(COLUMNS)] if found else pd.DataFrame(columns=list(COLUMNS))


def _arm(arm: str, path: Path) -> pd.DataFrame:
    table = read_table(path, columns=RUN_COLUMNS, remedy="do the run again")
    if "reward" not in table:
        table["reward"] = float("nan")
    rows = table.groupby(["tick", "num_images"]).agg(
        seeds=("seed", "size"),
        judge_mean=("score", lambda s: fmean(s)),  # as the run compares them
        judge_error=("score", "sem"),
        reward_mean=("reward", "mean"),
    )
    rows = rows.reset_index().assign(arm=arm)
    return rows.assign(is_best=rows.index == rows["judge_mean"].idxmax())


def run(context: Context) -> dict[str, pd.DataFrame]:
    return {TABLE: judged(context.run_files(FILE))}


def findings(tables: Tables) -> Sequence[Finding]:
    """What the judge of each run liked best, and how it was at the end."""
    found = []
    for arm, rows in tables[TABLE].groupby("arm", sort=False):
        best, last = rows[rows["is_best"]].iloc[0], rows.iloc[-1]
        measured = (
            f"after {int(best['num_images'])} of {int(last['num_images'])} images: {best['judge_mean']:.3g} +- "
            f"{best['judge_error']:.2g}, {last['judge_mean']:.3g} at the end"
        )
        what = f"{arm}: when the judge liked it best, mean score and standard error"
        found.append(Finding(what, "for comparison", measured, f"{int(best['seeds'])} seeds"))
    return found


MEASURE = Measure(
    name="judged",
    inputs=(Input.RUNS,),
    tables=(Table(TABLE, COLUMNS),),
    run=run,
    figures=(
        Figure(
            "judged",
            "Reward and judge along each fine-tuning run, on seeds of the judge's own; the band is one standard error.",
            tables=(TABLE,),
            draw=charts.draw_judged,
        ),
    ),
    findings=findings,
)
