"""Accuracy of a trained reward on held-out rankings, as its bundle reports it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from paper_result_analyses.measure.context import Context
from paper_result_analyses.measure.protocol import Finding, Input, Measure, Table
from paper_result_analyses.measure.tables import Tables
from reward_model_training.intervals import Share

REQUIRED = 0.85  # of the headline: best against worst of a batch
TABLE = "reward_accuracy"
COLUMNS = {
    "split": "val or test",
    "filter": "all_seeds (an anchor in front of each row) or no_goodseeds (regular samples only)",
    "pairs": "best_worst of a ranking, or all its pairs",
    "head": "pairs, scalar, BT; annotator = the noisy simulated rankings themselves",
    "reference": "rankings as given, or noise_free_simulated",
    "n_examples": "pairs",
    "n_correct": "pairs in the right order",
    "accuracy": "n_correct / n_examples",
    "ci_low": "Wilson 95 % interval, as if pairs were independent",
    "ci_high": "Wilson 95 % interval, as if pairs were independent",
    "n_clusters": "ranking batches that the pairs come from; empty in bundles of earlier versions",
    "design_effect": "variance of the accuracy over that of as many independent pairs",
    "clustered_low": "95 % interval that knows that pairs of a batch go together",
    "clustered_high": "95 % interval that knows that pairs of a batch go together",
}


def reward_accuracy(card_yaml: str | Path) -> pd.DataFrame:
    """The accuracy table (COLUMNS) of a bundle's reward.yaml; without rows where the bundle reports none."""
    from reward_model_training.card import read_card

    card, _ = read_card(card_yaml)
    return pd.DataFrame(card.metrics, columns=list(COLUMNS))


def held_out_row(table: pd.DataFrame, pairs: str = "best_worst") -> pd.Series | None:
    """The row of the test split, regular samples, scalar head, against the noise-free simulated order.

    pairs: "best_worst" of each ranking, the published reduction and the headline, or "all", close calls included.
    """
    rows = table[
        (table["split"] == "test")
        & (table["filter"] == "no_goodseeds")
        & (table["pairs"] == pairs)
        & (table["head"] == "scalar")
        & (table["reference"] == "noise_free_simulated")
    ]
    return None if rows.empty else rows.iloc[0]


def findings(tables: Tables) -> list[Finding]:
    """The headline, and all pairs for comparison."""
    what = "Held-out accuracy of the reward: scalar head, regular samples, noise-free simulated order, "
    found = []
    for pairs, words in (("best_worst", "best against worst of a batch"), ("all", "all pairs of a batch")):
        row, is_headline = held_out_row(tables[TABLE], pairs), pairs == "best_worst"
        asked = f"{REQUIRED:.2f} or more" if is_headline else "for comparison"
        if row is None:
            found += [Finding(what + words, asked, "not in the bundle", "0")] if is_headline else []
            continue
        share, of = share_of(row)
        is_met = share.value >= REQUIRED if is_headline else None
        found.append(Finding.of_share(what + words, share, of=of, required=asked, is_met=is_met))
    return found


def share_of(row: pd.Series) -> tuple[Share, str]:
    """A row's accuracy with the interval by batches where the bundle has one, and what was counted."""
    is_clustered = pd.notna(row["n_clusters"])
    low, high = ("clustered_low", "clustered_high") if is_clustered else ("ci_low", "ci_high")
    share = Share(int(row["n_correct"]), int(row["n_examples"]), float(row[low]), float(row[high]))
    return share, f"pairs of {int(row['n_clusters'])} batches" if is_clustered else "pairs, as if independent"


def run(context: Context) -> dict[str, pd.DataFrame]:
    return {TABLE: reward_accuracy(context.reward_folder / "reward.yaml")}


MEASURE = Measure(
    name="reward_accuracy",
    inputs=(Input.REWARD,),
    tables=(Table(TABLE, COLUMNS, text=("split", "filter", "pairs", "head", "reference")),),
    run=run,
    findings=findings,
)
