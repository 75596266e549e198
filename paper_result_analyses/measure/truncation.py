"""Shapes of a generator at several truncation strengths, by every judge and against the true heads behind the seeds.

In the paper a lower psi makes better, more average shapes, which its anchors rest on; whether that holds for another
generator is to be seen. All that looks at a shape looks at the same sample, and nothing is tuned by it. The errors
against true heads are those of `truth`, of psi times the code that the generator's own latent holds; they mean
something only for a generator that learnt from the head model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd
import torch

from eg3d.config_checks import at_least, one_of
from eg3d.finetuning.rewards import scores_of
from eg3d.progress import Advance, ignore, progress_bar
from eg3d.representations.sigma_field import SigmaField
from eg3d.samples import CONDITIONINGS, SampleConfig, sample_seeds
from paper_result_analyses.arms import START
from paper_result_analyses.measure import truth
from paper_result_analyses.measure.context import Context
from paper_result_analyses.measure.protocol import Finding, Input, Measure, Section, Table
from paper_result_analyses.measure.tables import Tables
from paper_result_analyses.measure.truth import SurfaceConfig
from reward_model_training.intervals import Share, wilson
from reward_model_training.preferences.annotators.likeness import LikenessAnnotator, LikenessConfig
from reward_model_training.preferences.annotators.rules import RulesAnnotator

if TYPE_CHECKING:
    from eg3d.finetuning.rewards import Reward
    from eg3d.generators.protocol import Generator

JUDGES = {
    "likeness": "score by the annotator that knows heads (simulated, without noise), 0 to 10, higher = better",
    "rules": "score by the annotator by rules (simulated), 0 to 10, higher = better",
    "reward": "reward, higher = better; empty = no reward was given",
}
ERRORS = ("normal_deg", "depth", "iou")
NO_HEADS = "empty = no true head is known"
SEED_COLUMNS = {
    "arm": "network",
    "psi": "truncation strength, 1 = off",
    "seed": "seed of the latent",
    **{name: f"{truth.COLUMNS[name]}; {NO_HEADS}" for name in (*ERRORS, "seen")},
    **JUDGES,
}
COLUMNS = {
    "arm": "network",
    "psi": "truncation strength, 1 = off",
    "n": "seeds",
    **{name: f"median over seeds: {truth.COLUMNS[name]}; {NO_HEADS}" for name in ERRORS},
}
for _judge, _meaning in JUDGES.items():
    COLUMNS |= {
        _judge: f"mean over seeds: {_meaning}",
        f"{_judge}_error": "standard error of that mean",
        f"{_judge}_preferred": "share of seeds scored higher than the same seed at the largest psi; empty there",
        f"{_judge}_preferred_low": "Wilson 95 % interval",
        f"{_judge}_preferred_high": "Wilson 95 % interval",
    }
SUMMARY, SEEDS = Table("truncation", COLUMNS), Table("truncation_seeds", SEED_COLUMNS)


@dataclass
class TruncationConfig(SurfaceConfig):
    """Which seeds at which strengths, and what judges are shown."""

    first_seed: int = 600000
    num_seeds: int = 100
    psis: list[float] = field(default_factory=lambda: [1.0, 0.7, 0.25])
    conditioning: str = "published"  # as rankings have it; see SampleConfig
    slab: SigmaField = field(default_factory=lambda: SigmaField(resolution=64, grid="exact"))  # of the annotators

    def validate(self) -> list[str]:
        faults = super().validate() + at_least(self, 2, "num_seeds")
        faults += one_of("conditioning", self.conditioning, CONDITIONINGS)
        if len(set(self.psis)) < len(self.psis):
            faults.append(f"psis: give every strength once, got {self.psis}")
        return faults


@torch.no_grad()
def shapes_by_psi(
    arm: str,
    G: Generator,
    cfg: TruncationConfig,
    *,
    num_codes: int | None,
    reward: Reward | None = None,
    advance: Advance = ignore,
) -> pd.DataFrame:
    """One row a strength and seed (SEED_COLUMNS).

    num_codes: as for `truth.codes_behind`; where nobody knows the heads behind seeds, errors are empty.
    """
    judges = {"likeness": LikenessAnnotator(LikenessConfig()), "rules": RulesAnnotator()}
    seeds = range(cfg.first_seed, cfg.first_seed + cfg.num_seeds)
    codes = truth.codes_behind(arm, G, seeds, num_codes)
    rows = []
    for psi in cfg.psis:
        for seed in seeds:
            sample = sample_seeds(G, [seed], SampleConfig(psi=psi, conditioning=cfg.conditioning))
            row: dict[str, object] = {"arm": arm, "psi": psi, "seed": seed}
            if codes is not None:
                known = truth.head_behind(G, psi * codes[seed - cfg.first_seed], cfg)
                row |= truth.sample_errors(G, sample, known, cfg)
            slab, frame = cfg.slab.extract(G, sample)[0], cfg.slab.frame(sample.field.box_warp)
            row |= {name: judge.judge(slab, frame).score for name, judge in judges.items()}
            if reward is not None:
                row["reward"] = float(scores_of(reward, G, sample)[0])
            rows.append(row)
            advance()
    return pd.DataFrame(rows, columns=list(SEED_COLUMNS))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row (COLUMNS) a network and strength, in the order of the table of seeds."""
    largest = table["psi"].max()
    rows = []
    for (arm, psi), part in table.groupby(["arm", "psi"], sort=False):
        row: dict[str, object] = {"arm": arm, "psi": psi, "n": len(part)}
        row |= {name: part[name].median() for name in ERRORS}
        full = table[(table["arm"] == arm) & (table["psi"] == largest)].set_index("seed")
        for judge in JUDGES:
            scores = part.set_index("seed")[judge]
            row |= {judge: scores.mean(), f"{judge}_error": scores.sem()}
            if psi != largest and scores.notna().all():
                share = wilson(int((scores > full.loc[scores.index, judge]).sum()), len(scores))
                row[f"{judge}_preferred"] = share.value
                row |= {f"{judge}_preferred_low": share.low, f"{judge}_preferred_high": share.high}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def for_people(table: pd.DataFrame) -> pd.DataFrame:
    """The summary to look at: what is empty throughout is left out, errors and intervals stand beside their values."""
    table = table.dropna(axis="columns", how="all")
    shown = table[["arm", "psi", "n", *(name for name in ERRORS if name in table)]].round(4)
    for judge in JUDGES:
        if judge not in table:
            continue
        means = table[[judge, f"{judge}_error"]].itertuples(index=False, name=None)
        shown[judge] = [f"{mean:.2f} +- {error:.2f}" for mean, error in means]
        names = [f"{judge}_preferred{end}" for end in ("", "_low", "_high")]
        if names[0] in table:
            shares = table[names].itertuples(index=False, name=None)
            shown[f"{judge} prefers"] = [f"{v:.0%} ({a:.0%} to {b:.0%})" if v == v else "" for v, a, b in shares]
    return shown


def findings(tables: Tables) -> list[Finding]:
    """What every judge prefers to the shapes without truncation."""
    found = []
    for row in tables[SUMMARY.name].to_dict("records"):
        for judge in JUDGES:
            value, n = row[f"{judge}_preferred"], int(row["n"])
            if value != value:
                continue
            share = Share(round(value * n), n, row[f"{judge}_preferred_low"], row[f"{judge}_preferred_high"])
            what = f"generator at psi {row['psi']:g}: seeds whose shape {judge} prefers to that at the largest psi"
            wanted = "more than half, as in the paper"
            found.append(Finding.of_share(what, share, of="seeds", required=wanted, is_met=bool(value > 0.5)))
    return found


def sections(tables: Tables) -> list[Section]:
    """The summary in words."""
    words = (
        "The generator before fine-tuning, same seeds at every strength. Errors against true heads are medians, where "
        "the data set says the heads; scores are means with standard errors; prefers: share of seeds whose shape the "
        "judge scores higher than the same seed's at the largest psi, 95 % intervals. Both annotators are simulated."
    )
    return [] if tables[SUMMARY.name].empty else [Section("Truncation", [(words, for_people(tables[SUMMARY.name]))])]


def run(context: Context) -> dict[str, pd.DataFrame]:
    cfg: TruncationConfig = context.cfg
    num_codes = truth.num_codes(context.dataset)
    with progress_bar("shapes judged by psi (simulated)", len(cfg.psis) * cfg.num_seeds) as advance:
        made = shapes_by_psi(START, context.start, cfg, num_codes=num_codes, reward=context.reward, advance=advance)
    return {SEEDS.name: made, SUMMARY.name: summary(made)}


MEASURE = Measure(
    name="truncation",
    Config=TruncationConfig,
    inputs=(Input.START, Input.REWARD, Input.DATA),
    tables=(SUMMARY, SEEDS),
    run=run,
    findings=findings,
    sections=sections,
)
