"""Accuracy of a trained reward on held-out rankings, as its bundle reports it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

COLUMNS = {
    "split": "val or test",
    "filter": "all_seeds (an anchor in front of each row) or no_goodseeds (regular samples only)",
    "pairs": "best_worst of a ranking, or all its pairs",
    "head": "pairs, scalar, BT; annotator = the noisy simulated rankings themselves",
    "reference": "rankings as given, or noise_free_simulated",
    "n_examples": "pairs",
    "n_correct": "pairs in the right order",
    "accuracy": "n_correct / n_examples",
    "ci_low": "Wilson 95 % interval",
    "ci_high": "Wilson 95 % interval",
}


def reward_accuracy(card_yaml: str | Path) -> pd.DataFrame:
    """The accuracy table (COLUMNS) of a bundle's reward.yaml; without rows where the bundle reports none."""
    from reward_model_training.bundle import read_card

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
