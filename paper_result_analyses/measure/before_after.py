"""The same held-out seeds before and after fine-tuning, judged by simulated annotators and by the reward.

Two annotators look, each a stand-in for a person and without noise: the one that ranked (`annotator`), and the one by
rules (`rules`) as a third opinion, which ranked nothing unless it is the same. Each prefers the shape with the higher
score; equal scores count against the tuned shape. Neither sees the reward. The truth of a seed's own head is another
measure, `truth`. `start` is the generator before tuning;
every other arm (`tuned`, `control`, `continuation`) is compared with it seed by seed, and with every arm after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

import pandas as pd
import torch

from eg3d.progress import Advance, ignore, progress_bar
from eg3d.representations.sigma_field import SigmaField
from eg3d.samples import sample_seed_batches
from paper_result_analyses.arms import CONTROL, START
from paper_result_analyses.figures import charts
from paper_result_analyses.measure.context import Context
from paper_result_analyses.measure.intervals import for_people, paired_share_difference
from paper_result_analyses.measure.protocol import Figure, Finding, Input, Measure, Section, Table
from paper_result_analyses.measure.tables import Tables
from reward_model_training.intervals import Share, mean_interval, wilson

if TYPE_CHECKING:
    from eg3d.generators.protocol import Generator
    from reward_model_training.bundle import BundledReward
    from reward_model_training.preferences.annotators.protocol import Annotator

REQUIRED_ROSE, REQUIRED_PREFERRED, REQUIRED_BY_RULES = 0.95, 0.90, 0.50
SHAPES_AT_ONCE = 8  # that the reward scores: one at a time takes three times as long on a CPU
REQUIRED_SEEDS = 200  # held-out seeds for the simulated annotator
SIMULATED = "The annotator is simulated: a program that judges surfaces and stands in for a person."
ANNOTATOR, RULES = "annotator", "rules"
SEEDS, FAULTS, SUMMARY, ARMS = "before_after", "before_after_faults", "before_after_summary", "before_after_arms"
COLUMNS = {
    "arm": "network: start (before), tuned, control, continuation",
    "seed": "seed of the latent, not used in ranking or tracking",
    "simulated_score": "score of the annotator that ranked (simulated, without its noise), 0 to 10, higher = better",
    "rules_score": "score of the annotator by rules (simulated), 0 to 10, higher = better",
    "reward": "scalar reward of the trained reward model, higher = better",
}
FAULT_COLUMNS = {
    "arm": "network",
    "seed": "seed of the latent",
    "judge": "annotator (that ranked) or rules; both simulated",
    "fault": "what costs points, in the judge's own words and units",
    "value": "0 = none",
}
SUMMARY_COLUMNS = {
    "arm": "network compared with start, same seeds",
    "n": "seeds",
    "preferred": "seeds whose shape the noise-free simulated annotator scores higher than at the start",
    "ties": "seeds with equal scores (not preferred)",
    "preferred_share": "preferred / n",
    "preferred_low": "Wilson 95 % interval",
    "preferred_high": "Wilson 95 % interval",
    "clearly": "seeds whose score rose by more than one standard deviation of the scores at the start",
    "clearly_share": "clearly / n",
    "clearly_low": "Wilson 95 % interval",
    "clearly_high": "Wilson 95 % interval",
    "rules_preferred": "seeds whose shape the annotator by rules scores higher than at the start",
    "rules_preferred_share": "rules_preferred / n",
    "rules_preferred_low": "Wilson 95 % interval",
    "rules_preferred_high": "Wilson 95 % interval",
    "reward_rose": "seeds whose reward rose",
    "reward_rose_share": "reward_rose / n",
    "reward_rose_low": "Wilson 95 % interval",
    "reward_rose_high": "Wilson 95 % interval",
    "simulated_score_change": "mean paired difference of the simulated score",
    "simulated_score_change_low": "Student 95 % interval",
    "simulated_score_change_high": "Student 95 % interval",
    "reward_change": "mean paired difference of the reward",
    "reward_change_low": "Student 95 % interval",
    "reward_change_high": "Student 95 % interval",
    "preferred_minus_control": "preferred_share minus that of the control, same seeds; empty without a control",
    "preferred_minus_control_low": "bootstrap 95 % interval over seeds",
    "preferred_minus_control_high": "bootstrap 95 % interval over seeds",
}
ARMS_COLUMNS = {
    "arm": "network",
    "other": "network that it is compared with, same seeds",
    "n": "seeds",
    "preferred": "seeds whose shape by `arm` the noise-free simulated annotator scores higher than that by `other`",
    "ties": "seeds with equal scores (not preferred)",
    "preferred_share": "preferred / n",
    "preferred_low": "Wilson 95 % interval",
    "preferred_high": "Wilson 95 % interval",
    "won_difference": "share of seeds preferred to their start, `arm` minus `other`",
    "won_difference_low": "bootstrap 95 % interval over seeds",
    "won_difference_high": "bootstrap 95 % interval over seeds",
    "simulated_score_difference": "mean paired difference of the simulated score, `arm` minus `other`",
    "simulated_score_difference_low": "Student 95 % interval",
    "simulated_score_difference_high": "Student 95 % interval",
    "reward_difference": "mean paired difference of the reward, `arm` minus `other`",
    "reward_difference_low": "Student 95 % interval",
    "reward_difference_high": "Student 95 % interval",
}


@dataclass
class BeforeAfterConfig:
    """Which held-out seeds are compared."""

    first_seed: int = 200000
    num_seeds: int = 200
    psi: float | None = None  # truncation strength; null = as the reward was trained

    def validate(self) -> list[str]:
        return [] if self.num_seeds >= 1 else [f"num_seeds: must be at least 1, got {self.num_seeds}"]


@torch.no_grad()
def before_after(
    networks: Mapping[str, Generator],
    reward: BundledReward,
    judges: Mapping[str, Annotator],
    cfg: BeforeAfterConfig,
    *,
    advance: Advance = ignore,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row an arm and seed (COLUMNS), and the judges' faults (FAULT_COLUMNS); all see the same slab.

    `networks` needs a key "start", `judges` the keys ANNOTATOR and RULES.

    Raises ValueError at the first score or reward that is not finite.
    """
    if START not in networks:
        raise ValueError(f"networks: expected one called {START!r}, found {', '.join(networks) or 'none'}")
    representation = reward.representation
    if not isinstance(representation, SigmaField):
        raise ValueError(f"before_after: the annotator judges density slabs, this reward reads a {representation.name}")
    shown = reward.sample if cfg.psi is None else replace(reward.sample, psi=cfg.psi)
    seeds = range(cfg.first_seed, cfg.first_seed + cfg.num_seeds)
    rows, faults = [], []
    for arm, G in networks.items():
        for part, sample in sample_seed_batches(G, seeds, shown, batch=SHAPES_AT_ONCE):
            slabs = representation.extract(G, sample)
            frame = representation.frame(sample.field.box_warp)
            for seed, slab, rewarded in zip(part, slabs, reward(slabs).tolist(), strict=True):
                judged = {name: judge.judge(slab, frame) for name, judge in judges.items()}
                scores = {"simulated_score": judged[ANNOTATOR].score, "rules_score": judged[RULES].score}
                scores["reward"] = rewarded
                rows.append({"arm": arm, "seed": seed, **scores})
                faults += [(arm, seed, name, *each) for name, found in judged.items() for each in found.faults.items()]
                for name, value in scores.items():
                    if not math.isfinite(value):
                        raise ValueError(f"{name} of seed {seed} by {arm} is {value}; check that network")
                advance()
    return pd.DataFrame(rows, columns=list(COLUMNS)), pd.DataFrame(faults, columns=list(FAULT_COLUMNS))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row an arm other than start (SUMMARY_COLUMNS). Raises ValueError when arms have different seeds."""
    scores, rewards = by_seed(table, "simulated_score"), by_seed(table, "reward")
    by_rules = by_seed(table, "rules_score")
    arms = [arm for arm in table["arm"].unique() if arm != START]
    is_better = {arm: (scores[arm] > scores[START]).to_numpy() for arm in arms}
    rows = []
    for arm in arms:
        preferred = wilson(int(is_better[arm].sum()), len(scores))
        rose = wilson(int((rewards[arm] > rewards[START]).sum()), len(scores))
        # A small change that all seeds share makes every one of them preferred; this counts the visible ones.
        clearly = wilson(int((scores[arm] - scores[START] > scores[START].std(ddof=0)).sum()), len(scores))
        row = {"arm": arm, "n": len(scores), "preferred": preferred.count, "reward_rose": rose.count}
        ruled = wilson(int((by_rules[arm] > by_rules[START]).sum()), len(scores))
        row |= {"clearly": clearly.count, "rules_preferred": ruled.count}
        row["ties"] = int((scores[arm] == scores[START]).sum())
        shares = {"preferred": preferred, "clearly": clearly, "rules_preferred": ruled, "reward_rose": rose}
        for name, share in shares.items():
            row |= {f"{name}_share": share.value, f"{name}_low": share.low, f"{name}_high": share.high}
        for name, values in (("simulated_score", scores), ("reward", rewards)):
            row |= mean_interval((values[arm] - values[START]).to_numpy()).columns(f"{name}_change")
        if CONTROL in arms and arm != CONTROL:
            row |= paired_share_difference(is_better[arm], is_better[CONTROL]).columns("preferred_minus_control")
        rows.append(row)
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def arms_compared(table: pd.DataFrame) -> pd.DataFrame:
    """One row a pair of arms other than start (ARMS_COLUMNS). Raises ValueError when arms have different seeds."""
    scores, rewards = by_seed(table, "simulated_score"), by_seed(table, "reward")
    rows = []
    for arm, other in combinations([arm for arm in table["arm"].unique() if arm != START], 2):
        preferred = wilson(int((scores[arm] > scores[other]).sum()), len(scores))
        won = [(scores[one] > scores[START]).to_numpy() for one in (arm, other)]
        row = {"arm": arm, "other": other, "n": len(scores), "preferred": preferred.count}
        row["ties"] = int((scores[arm] == scores[other]).sum())
        row |= {"preferred_share": preferred.value, "preferred_low": preferred.low, "preferred_high": preferred.high}
        row |= paired_share_difference(*won).columns("won_difference")
        for name, values in (("simulated_score", scores), ("reward", rewards)):
            row |= mean_interval((values[arm] - values[other]).to_numpy()).columns(f"{name}_difference")
        rows.append(row)
    return pd.DataFrame(rows, columns=list(ARMS_COLUMNS))


def by_seed(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of the table of seeds, one row a seed, one column an arm. Raises ValueError where a value is missing."""
    values = table.pivot(index="seed", columns="arm", values=column)
    if values.isna().any(axis=None):
        raise ValueError(f"{SEEDS}: every arm needs a finite {column} for every seed")
    return values


def findings(tables: Tables) -> list[Finding]:
    """What was asked of the tuned arm, and the same numbers of the others."""
    rows = tables[SUMMARY].set_index("arm")
    found = [finding for arm, row in rows.iterrows() for finding in _asked_of(str(arm), row)]
    for arm, row in rows.iterrows():
        what = f"{arm}: preferred by more than one standard deviation of the scores at the start (simulated)"
        found.append(Finding.of_share(what, _share(row, "clearly"), of="seeds"))
        by_rules, is_tuned = _share(row, "rules_preferred"), arm == "tuned"
        found.append(
            Finding.of_share(
                f"{arm}: held-out seeds that the annotator by rules (simulated) prefers to the shape before",
                by_rules,
                of="seeds",
                required="not below 50 %" if is_tuned else "for comparison",
                is_met=by_rules.value >= REQUIRED_BY_RULES if is_tuned else None,
            )
        )
    if {"tuned", CONTROL} <= set(rows.index):
        row = rows.loc["tuned"]
        low, high = row["preferred_minus_control_low"], row["preferred_minus_control_high"]
        measured = f"{row['preferred_minus_control']:+.1%} ({low:+.1%} to {high:+.1%})"
        what = "simulated preference, tuned minus control"
        found.append(Finding(what, "clearly above 0", measured, f"{int(row['n'])} seeds", bool(low > 0)))
    for arm, row in rows.iterrows():
        low, high = row["simulated_score_change_low"], row["simulated_score_change_high"]
        measured = f"{row['simulated_score_change']:+.3f} of 10 ({low:+.3f} to {high:+.3f})"
        what = f"{arm}: mean change of the simulated score"
        found.append(Finding(what, "for comparison", measured, f"{int(row['n'])} seeds"))
    return found


def _asked_of(arm: str, row: pd.Series) -> list[Finding]:
    """Reward and simulated preference of one arm; thresholds are for the tuned one."""
    rose, preferred, is_tuned = _share(row, "reward_rose"), _share(row, "preferred"), arm == "tuned"
    short = "" if preferred.total >= REQUIRED_SEEDS else f" (of {REQUIRED_SEEDS}; here {preferred.total})"
    wanted = f"90 % or more{short}" if is_tuned else "clearly fewer" if arm == CONTROL else "for comparison"
    return [
        Finding.of_share(
            f"{arm}: held-out seeds whose reward rose",
            rose,
            of="seeds",
            required="95 of 100 or more" if is_tuned else "for comparison",
            is_met=rose.value >= REQUIRED_ROSE if is_tuned else None,
        ),
        Finding.of_share(
            f"{arm}: held-out seeds that the simulated annotator prefers to the shape before",
            preferred,
            of="seeds",
            required=wanted,
            is_met=preferred.value >= REQUIRED_PREFERRED if is_tuned else None,
        ),
    ]


def _share(row: pd.Series, name: str) -> Share:
    return Share(int(row[name]), int(row["n"]), row[f"{name}_low"], row[f"{name}_high"])


def sections(tables: Tables) -> list[Section]:
    """Arms against each other."""
    table = tables[ARMS].rename(columns={"preferred_share": "preferred", "preferred": "count"})
    names = ["preferred", "won_difference", "simulated_score_difference", "reward_difference"]
    words = (
        "Same seeds, 95 % intervals. Preferred: share of seeds whose shape by the first arm the simulated annotator "
        "scores higher. Differences: first arm minus second; won = share preferred to the shape before."
    )
    return [] if table.empty else [Section("Arms against each other", [(words, for_people(table, names))])]


def run(context: Context) -> dict[str, pd.DataFrame]:
    from reward_model_training.preferences.annotators.rules import RulesAnnotator

    networks, cfg = context.networks, context.cfg
    with progress_bar("shapes judged (simulated)", len(networks) * cfg.num_seeds) as advance:
        judges = {ANNOTATOR: context.annotator, RULES: RulesAnnotator()}
        table, faults = before_after(networks, context.reward, judges, cfg, advance=advance)
    return {SEEDS: table, FAULTS: faults, SUMMARY: summary(table), ARMS: arms_compared(table)}


MEASURE = Measure(
    name="before_after",
    Config=BeforeAfterConfig,
    inputs=(Input.NETWORKS, Input.REWARD, Input.ANNOTATOR),
    tables=(
        Table(SEEDS, COLUMNS),
        Table(FAULTS, FAULT_COLUMNS, text=("arm", "judge", "fault")),
        Table(SUMMARY, SUMMARY_COLUMNS),
        Table(ARMS, ARMS_COLUMNS, text=("arm", "other")),
    ),
    run=run,
    figures=(
        Figure(
            "preferences",
            "Share of held-out seeds preferred after tuning by the simulated annotator, without its noise, and share "
            f"whose reward rose; Wilson 95 % intervals. Dashed: the share asked for. {SIMULATED}",
            tables=(SUMMARY,),
            draw=partial(charts.draw_preferences, wanted=REQUIRED_PREFERRED),
        ),
        Figure(
            "rewards",
            "Reward of held-out seeds before and after. The reward model learnt from simulated rankings.",
            tables=(SEEDS,),
            draw=charts.draw_rewards,
        ),
        Figure(
            "scores",
            "Score of the simulated annotator before and after, one point a seed; above the line = better. "
            f"{SIMULATED}",
            tables=(SEEDS,),
            draw=charts.draw_scores,
        ),
    ),
    findings=findings,
    sections=sections,
)
