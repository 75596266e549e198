"""Charts of the before/after tables. Every one says where the simulated annotator stands in for a person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paper_result_analyses.arms import START
from paper_result_analyses.figures.drawing import COLOURS, NAMES, canvas, plain, save

if TYPE_CHECKING:
    from paper_result_analyses.measure.tables import Tables


def draw_rewards(tables: Tables, out: Path) -> Path:
    """Distribution of the reward over held-out seeds, before and after, one panel an arm."""
    table = tables["before_after"]
    arms = [arm for arm in table["arm"].unique() if arm != START]
    bins = np.linspace(table["reward"].min(), table["reward"].max() + 1e-9, 31)
    figure, axes = canvas(4.2 * len(arms), 2.9, columns=len(arms))
    start = table.loc[table["arm"] == START, "reward"]
    for panel, arm in zip(axes[0], arms, strict=True):
        after = table.loc[table["arm"] == arm, "reward"]
        for values, name in ((start, START), (after, arm)):
            label = f"{NAMES[name]}, mean {values.mean():.2f}"
            panel.hist(values, bins=bins, color=COLOURS[name], alpha=0.6, label=label)
        panel.set_xlabel("reward (scalar head)")
        panel.set_ylabel("held-out seeds")
        panel.set_title(f"{NAMES[arm]}, n = {len(after)}", fontsize=9)
        panel.set_ylim(0, 1.28 * panel.get_ylim()[1])  # room for the legend
        panel.legend(fontsize=7, frameon=False, loc="upper left")
        plain(panel)
    return save(figure, out)


def draw_trajectories(tables: Tables, out: Path) -> Path:
    """Mean reward of fixed seeds along each fine-tuning run, with the band from the 10th to the 90th percentile."""
    table = tables["trajectories"]
    figure, axes = canvas(5.6, 3.2)
    panel = axes[0, 0]
    for arm, rows in table.groupby("arm", sort=False):
        kimg = rows["num_images"] / 1000
        panel.plot(kimg, rows["reward_mean"], color=COLOURS[arm], marker="o", markersize=3, label=NAMES[arm])
        panel.fill_between(kimg, rows["reward_low"], rows["reward_high"], color=COLOURS[arm], alpha=0.15, linewidth=0)
    panel.set_xlabel("images since the start of fine-tuning, thousands")
    panel.set_ylabel("reward of fixed seeds")
    panel.set_title(f"mean of {int(table['seeds'].max())} fixed seeds; band: 10th to 90th percentile", fontsize=9)
    panel.legend(fontsize=8, frameon=False)
    plain(panel)
    return save(figure, out)


def draw_judged(tables: Tables, out: Path) -> Path:
    """Reward and judge on the judge's seeds along each run, one above the other; a ring where the judge liked it best.

    The band is the standard error of the judge's mean over seeds.
    """
    table = tables["judged"]
    figure, axes = canvas(5.6, 4.6, rows=2)
    above, below = axes[:, 0]
    for arm, rows in table.groupby("arm", sort=False):
        kimg, best = rows["num_images"] / 1000, rows[rows["is_best"]]
        look = {"color": COLOURS[arm], "marker": "o", "markersize": 3}
        above.plot(kimg, rows["reward_mean"], label=NAMES[arm], **look)
        below.plot(kimg, rows["judge_mean"], **look)
        low, high = (rows["judge_mean"] + sign * rows["judge_error"] for sign in (-1, 1))
        below.fill_between(kimg, low, high, color=COLOURS[arm], alpha=0.15, linewidth=0)
        ring = {"facecolors": "none", "edgecolors": COLOURS[arm], "s": 70, "linewidths": 1.2}
        below.scatter(best["num_images"] / 1000, best["judge_mean"], **ring)
    above.set_ylabel("reward")
    below.set_ylabel("judge")
    below.set_xlabel("images since the start of fine-tuning, thousands")
    words = f"mean of {int(table['seeds'].max())} seeds that only the judge sees; ring: what it likes best"
    above.set_title(words, fontsize=9)
    above.legend(fontsize=8, frameon=False)
    for panel in (above, below):
        plain(panel)
    return save(figure, out)


def draw_preferences(tables: Tables, out: Path, *, wanted: float) -> Path:
    """Share of held-out seeds that the simulated annotator prefers after tuning, and whose reward rose, by arm.

    wanted: the share of preferred seeds that was asked for.
    """
    table = tables["before_after_summary"]
    panels = (
        ("preferred", "preferred by the simulated annotator\nto the shape before"),
        ("reward_rose", "reward rose"),
    )
    figure, axes = canvas(4.0 * len(panels), 0.9 + 0.62 * len(table), columns=len(panels))
    for panel, (name, label) in zip(axes[0], panels, strict=True):
        share = table[f"{name}_share"]
        spread = [(share - table[f"{name}_low"]).clip(lower=0), (table[f"{name}_high"] - share).clip(lower=0)]
        names = [NAMES[arm] for arm in table["arm"]]
        panel.barh(names, share, xerr=spread, color=[COLOURS[arm] for arm in table["arm"]], capsize=4, height=0.6)
        panel.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
        if name == "preferred":
            panel.axvline(wanted, color="black", linewidth=0.8, linestyle="--")
        panel.set_xlim(0, 1.02)
        panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"], fontsize=8)
        panel.invert_yaxis()
        panel.set_xlabel(f"share of {int(table['n'].max())} held-out seeds, 95 % interval", fontsize=8)
        panel.set_title(label, fontsize=9)
        plain(panel)
    axes[0, 1].set_yticklabels([])
    return save(figure, out)


def draw_scores(tables: Tables, out: Path) -> Path:
    """Score of the simulated annotator before (across) and after (up), one point a held-out seed."""
    table = tables["before_after"]
    scores = table.pivot(index="seed", columns="arm", values="simulated_score")
    arms = [arm for arm in table["arm"].unique() if arm != START]
    figure, axes = canvas(3.2 * len(arms), 3.5, columns=len(arms))
    low, high = float(scores.min().min()), float(scores.max().max())
    for panel, arm in zip(axes[0], arms, strict=True):
        panel.plot([low, high], [low, high], color="black", linewidth=0.8, linestyle=":")
        panel.scatter(scores[START], scores[arm], s=9, color=COLOURS[arm], alpha=0.7, linewidths=0)
        panel.set_xlabel("simulated score before")
        panel.set_ylabel("simulated score after")
        panel.set_title(NAMES[arm], fontsize=9)
        panel.set(xlim=(low - 0.2, high + 0.2), ylim=(low - 0.2, high + 0.2), box_aspect=1)
        plain(panel)
    return save(figure, out)


def draw_truth(tables: Tables, out: Path) -> Path:
    """Errors against the true heads before (across) and after (up), one point a held-out seed; normals above depth."""
    table = tables["truth"]
    arms = [arm for arm in table["arm"].unique() if arm != START]
    kinds = (("normal_deg", "normal error, degrees"), ("depth", "depth error, world units"))
    figure, axes = canvas(3.2 * len(arms), 6.6, columns=len(arms), rows=2)
    for row, (name, label) in enumerate(kinds):
        values = table.pivot(index="seed", columns="arm", values=name)
        low, high = float(values.min().min()), float(values.max().max())
        edge = 0.03 * (high - low) or 1e-3
        for panel, arm in zip(axes[row], arms, strict=True):
            panel.plot([low, high], [low, high], color="black", linewidth=0.8, linestyle=":")
            panel.scatter(values[START], values[arm], s=9, color=COLOURS[arm], alpha=0.7, linewidths=0)
            panel.set_xlabel(f"{label}: before", fontsize=8)
            panel.set_ylabel("after", fontsize=8)
            panel.set_title(NAMES[arm], fontsize=9)
            panel.set(xlim=(low - edge, high + edge), ylim=(low - edge, high + edge), box_aspect=1)
            plain(panel)
    return save(figure, out)
