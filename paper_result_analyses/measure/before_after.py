"""The same held-out seeds before and after fine-tuning, judged by the simulated annotator and by the reward.

The simulated annotator is a stand-in for a person and is used without its noise: it prefers the shape with the higher
score; equal scores count against the tuned shape. It never sees the reward. `start` is the generator before tuning;
every other arm (`tuned`, `control`, `continuation`) is compared with it seed by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd
import torch

from eg3d.samples import sample_seeds
from paper_result_analyses.measure.intervals import mean_interval, paired_share_difference, wilson

if TYPE_CHECKING:
    from eg3d.generators.protocol import Generator
    from reward_model_training.bundle import Reward
    from reward_model_training.preferences.simulated_annotator import SimulatedAnnotator

START = "start"
COLUMNS = {
    "arm": "network: start (before), tuned, control, continuation",
    "seed": "seed of the latent, not used in ranking or tracking",
    "simulated_score": "noise-free score of the simulated annotator, 0 to 10, higher = better",
    "roughness": "simulated annotator: roughness of the visible surface, world units",
    "stray": "simulated annotator: share of the surface outside the main piece",
    "holes": "simulated annotator: share of the face window without a surface, tunnels counted in",
    "relief": "simulated annotator: relief of the face window, world units",
    "asymmetry": "simulated annotator: mean difference between the halves of the face, world units",
    "reward": "scalar reward of the trained reward model, higher = better",
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
    reward: Reward,
    annotator: SimulatedAnnotator,
    cfg: BeforeAfterConfig,
    *,
    advance: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """One row an arm and seed (COLUMNS); both judges see the same slab. `networks` needs a key "start"."""
    if START not in networks:
        raise ValueError(f"networks: expected one called {START!r}, found {', '.join(networks) or 'none'}")
    shown = reward.sample if cfg.psi is None else replace(reward.sample, psi=cfg.psi)
    rows = []
    for arm, G in networks.items():
        for seed in range(cfg.first_seed, cfg.first_seed + cfg.num_seeds):
            sample = sample_seeds(G, [seed], shown)
            slab = reward.representation.extract(G, sample)
            voxel = reward.representation.voxel(sample.field.box_warp)
            judged = asdict(annotator.score(slab[0], voxel=voxel))
            judged["simulated_score"] = judged.pop("score")
            rows.append({"arm": arm, "seed": seed, **judged, "reward": float(reward(slab)[0])})
            advance()
    return pd.DataFrame(rows, columns=list(COLUMNS))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row an arm other than start (SUMMARY_COLUMNS). Raises ValueError when arms have different seeds."""
    scores = table.pivot(index="seed", columns="arm", values="simulated_score")
    rewards = table.pivot(index="seed", columns="arm", values="reward")
    if scores.isna().any(axis=None) or rewards.isna().any(axis=None):
        raise ValueError("before_after: every arm needs a finite score and reward for every seed")
    arms = [arm for arm in table["arm"].unique() if arm != START]
    is_better = {arm: (scores[arm] > scores[START]).to_numpy() for arm in arms}
    rows = []
    for arm in arms:
        preferred = wilson(int(is_better[arm].sum()), len(scores))
        rose = wilson(int((rewards[arm] > rewards[START]).sum()), len(scores))
        # A small change that all seeds share makes every one of them preferred; this counts the visible ones.
        clearly = wilson(int((scores[arm] - scores[START] > scores[START].std(ddof=0)).sum()), len(scores))
        row = {"arm": arm, "n": len(scores), "preferred": preferred.count, "reward_rose": rose.count}
        row["clearly"] = clearly.count
        row["ties"] = int((scores[arm] == scores[START]).sum())
        for name, share in (("preferred", preferred), ("clearly", clearly), ("reward_rose", rose)):
            row |= {f"{name}_share": share.value, f"{name}_low": share.low, f"{name}_high": share.high}
        for name, values in (("simulated_score", scores), ("reward", rewards)):
            change = mean_interval((values[arm] - values[START]).to_numpy())
            row |= {
                f"{name}_change": change.value,
                f"{name}_change_low": change.low,
                f"{name}_change_high": change.high,
            }
        if "control" in arms and arm != "control":
            gap = paired_share_difference(is_better[arm], is_better["control"])
            name = "preferred_minus_control"
            row |= {name: gap.value, f"{name}_low": gap.low, f"{name}_high": gap.high}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
