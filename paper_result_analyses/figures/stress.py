"""The chart of what a reward makes of known damage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paper_result_analyses.figures.drawing import canvas, plain, save

if TYPE_CHECKING:
    from paper_result_analyses.measure.tables import Tables

MILD, SEVERE, STILL = "#e0a458", "#a8380f", "#4a6fa5"


def draw_stress(tables: Tables, out: Path) -> Path:
    """Left: change of the reward by mild and severe damage. Right: size of its change by what must not matter."""
    table = tables["reward_stress"]
    damage, ties = table[table["group"] == "damage"], table[table["group"] == "tie"]
    figure, axes = canvas(8.6, 1.2 + 0.34 * max(len(damage), len(ties), 1), columns=2)
    left, right = axes[0]
    places = np.arange(len(damage))
    for name, colour, shift in (("mild", MILD, -0.2), ("severe", SEVERE, 0.2)):
        values = damage[f"{name}_change"]
        spread = [values - damage[f"{name}_change_low"], damage[f"{name}_change_high"] - values]
        left.barh(places + shift, values, xerr=spread, color=colour, height=0.36, label=name, capsize=2)
    left.axvline(0, color="black", linewidth=0.8)
    left.set_yticks(places, [_named(row) for row in damage.to_dict("records")], fontsize=8)
    left.set_xlabel("change of the reward, sd of clean scores", fontsize=8)
    left.set_title("damage: should be negative", fontsize=9)
    if len(damage):
        left.legend(fontsize=7, frameon=False, loc="best")
    places, values = np.arange(len(ties)), ties["size_of_change"]
    spread = [values - ties["size_of_change_low"], ties["size_of_change_high"] - values]
    right.barh(places, values, xerr=spread, color=STILL, height=0.5, capsize=2)
    right.set_yticks(places, [_named(row) for row in ties.to_dict("records")], fontsize=8)
    right.set_xlabel("size of change, sd of clean scores", fontsize=8)
    right.set_title("must not matter: should be 0", fontsize=9)
    for panel in (left, right):
        panel.invert_yaxis()
        plain(panel)
    return save(figure, out)


def _named(row: dict) -> str:
    """The kind, with a mark where reward training was not shown it."""
    return row["kind"].replace("_", " ") + ("" if row["trained"] == "yes" else " (unseen)")
