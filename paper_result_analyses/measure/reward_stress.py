"""What the reward makes of known damage to shapes that no stage has seen; see reward_model_training.stress.

Damage is made by rules, so that the order asked for needs no annotator. Changes that must not matter (ties) are beside
it. `trained` says whether the training of the reward was shown the kind.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from eg3d.progress import progress_bar
from paper_result_analyses.figures.stress import draw_stress
from paper_result_analyses.measure.context import Context
from paper_result_analyses.measure.protocol import Figure, Finding, Input, Measure, Section, Table
from paper_result_analyses.measure.tables import Tables
from reward_model_training.intervals import ClusteredShare, clustered_interval
from reward_model_training.stress import (
    COLUMNS,
    DAMAGE,
    SCORE_COLUMNS,
    TIE,
    ProbeConfig,
    stress_scores,
    stress_table,
    trained_kinds,
)

TABLE, SCORES = "reward_stress", "reward_stress_scores"
REQUIRED_ORDERED = 0.9  # of clean above severe, over all damage
REQUIRED_STILL = 0.5  # standard deviations of the clean scores that a tie may move the reward


def share_ordered(scores: pd.DataFrame) -> ClusteredShare:
    """Share of all damage with clean strictly above severe, its interval clustered by seed."""
    rows = scores[scores["group"] == DAMAGE]
    return clustered_interval((rows["clean"] > rows["severe"]).to_numpy(), rows["seed"].to_numpy())


def findings(tables: Tables) -> list[Finding]:
    """How much damage is noticed in all, and the tie that moves the reward most."""
    found, table = [], tables[TABLE]
    if DAMAGE in set(table["group"]):
        share = share_ordered(tables[SCORES])
        what = "Reward: clean shapes above severely damaged ones, all kinds of damage"
        wanted = f"{REQUIRED_ORDERED:.0%} or more"
        of = f"pairs of {share.num_clusters} seeds"
        found.append(
            Finding.of_share(what, share, of=of, required=wanted, is_met=bool(share.value >= REQUIRED_ORDERED))
        )
    ties = table[table["group"] == TIE]
    if len(ties):
        row = ties.loc[ties["size_of_change"].idxmax()]
        low, high = row["size_of_change_low"], row["size_of_change_high"]
        measured = f"{row['size_of_change']:.2f} sd ({low:.2f} to {high:.2f})"
        what = f"Reward: change by what must not matter, at most ({row['kind']})"
        is_met = bool(row["size_of_change"] <= REQUIRED_STILL)
        found.append(Finding(what, f"{REQUIRED_STILL} sd or less", measured, f"{int(row['n_seeds'])} seeds", is_met))
    return found


def sections(tables: Tables) -> list[Section]:
    """The damage table in words."""
    table = tables[TABLE]
    damage, ties = ([row for row in table.to_dict("records") if row["group"] == group] for group in (DAMAGE, TIE))
    parts = []
    if damage:
        words = (
            "Share of held-out shapes in the right order, 95 % intervals clustered by seed, and mean change of the "
            "reward in standard deviations of the clean scores. Trained: whether reward training was shown this kind."
        )
        parts.append((words, pd.DataFrame([_ordered(row) for row in damage])))
    if ties:
        words = "Changes that must not matter: mean size of the reward's change, in the same unit."
        parts.append((words, pd.DataFrame([_still(row) for row in ties])))
    return [Section("What the reward makes of known damage", parts)]


def _ordered(row: Mapping) -> dict[str, str]:
    shown = {"damage": row["kind"], "trained": row["trained"]}
    for better, worse in (("clean", "mild"), ("mild", "severe"), ("clean", "severe")):
        share, low, high = (row[f"{better}_{worse}_{name}"] for name in ("share", "low", "high"))
        shown[f"{better} above {worse}"] = f"{share:.2f} ({low:.2f} to {high:.2f})"
    return shown | {"mild, sd": f"{row['mild_change']:+.2f}", "severe, sd": f"{row['severe_change']:+.2f}"}


def _still(row: Mapping) -> dict[str, str]:
    size, low, high = (row[f"size_of_change{name}"] for name in ("", "_low", "_high"))
    return {"change": row["kind"], "trained": row["trained"], "size, sd": f"{size:.2f} ({low:.2f} to {high:.2f})"}


def run(context: Context) -> dict[str, pd.DataFrame]:
    cfg: ProbeConfig = context.cfg
    with progress_bar("seeds damaged", cfg.num_seeds) as advance:
        scores = stress_scores(context.start, context.reward, cfg, advance=advance)
    return {TABLE: stress_table(scores, trained_kinds(context.reward)), SCORES: scores}


MEASURE = Measure(
    name="reward_stress",
    Config=ProbeConfig,
    inputs=(Input.START, Input.REWARD),
    tables=(
        Table(TABLE, COLUMNS, text=("kind", "group", "trained")),
        Table(SCORES, SCORE_COLUMNS, text=("kind", "group")),
    ),
    run=run,
    figures=(
        Figure(
            "stress",
            "Change of the reward by known damage to held-out shapes, mild and severe, and by changes that must not "
            "matter (size); standard deviations of the clean scores, 95 % intervals over seeds. Damage should be "
            "clearly negative, and more so when severe; what must not matter should stay near 0.",
            tables=(TABLE,),
            draw=draw_stress,
        ),
    ),
    findings=findings,
    sections=sections,
)
