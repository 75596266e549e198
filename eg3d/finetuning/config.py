"""What a fine-tuning run can be told: python -m eg3d.train_rlhf."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eg3d.config_checks import at_least, batch_faults, one_of
from eg3d.samples import SampleConfig
from eg3d.training.config import TrainConfig

MODES = ("separate", "joint")
AVERAGE_MOVES = ("once", "published")


@dataclass
class RewardTermConfig(SampleConfig):
    """lambda_r (-clip(r, low, high)), on fresh latents; the fields of SampleConfig say how they become samples.

    The samples of the reward also move the truncation centre (the mean style code), which every truncated sample of
    the run goes by. A control must see the same: its centre moves as that of the tuned run, though it scores nothing.
    """

    weight: float = 10.0  # lambda_r; 0 = no reward term
    clip_low: float = -10.0
    clip_high: float = 10.0
    update_w_average: bool = True  # published: reward sampling moves the truncation centre
    # Whether it does with weight 0 too, the matched control; null = where a consistency term is left, so that a run
    # without both terms is plain training | false = the published control.
    moves_average_without_weight: bool | None = None
    # How often a step moves the centre: once = once by the discriminator's batch and once by every pass of the reward,
    # 1 + 16 times at batch 16 and micro_batch 1 | published = by every pass of the discriminator and three times by
    # every pass of the reward, 16 + 48 times.
    average_moves: str = "once"
    allow_saturated: bool = False  # begin although all scores of the first step lie outside the clip
    micro_batch: int = 1  # samples a pass, 0 = as the other phases; the clip acts on their mean score

    def validate(self) -> list[str]:
        faults = super().validate() + one_of("average_moves", self.average_moves, AVERAGE_MOVES)
        if self.weight < 0:
            faults.append(f"weight: {self.weight} is negative; a reward is maximised with a positive weight")
        if self.clip_low >= self.clip_high:
            faults.append(f"clip_low: {self.clip_low} is not below clip_high {self.clip_high}")
        return faults


@dataclass
class ConsistencyConfig(SampleConfig):
    """lambda_c mean |sigma_raw_G - sigma_raw_G0| on a whole grid, same latents as the reward, G0 the frozen start."""

    psi: float = 0.7  # published code: 0.7, whatever the reward's
    weight: float = 0.01  # lambda_c; 0 = no consistency term
    resolution: int = 64  # points a side
    grid: str = "skewed"  # exact | skewed (published)

    def validate(self) -> list[str]:
        faults = super().validate() + at_least(self, 0, "weight") + at_least(self, 2, "resolution")
        return faults + one_of("grid", self.grid, ("exact", "skewed"))


@dataclass
class TrackingConfig(SampleConfig):
    """Fixed seeds that the reward scores at every tick, with the averaged generator."""

    first_seed: int = 300000
    num_seeds: int = 200
    batch: int = 4

    def validate(self) -> list[str]:
        return super().validate() + at_least(self, 0, "first_seed", "num_seeds") + at_least(self, 1, "batch")


@dataclass
class FinetuneConfig(TrainConfig):
    """One fine-tuning run: adversarial training plus reward and consistency."""

    out: str = "runs/finetune"
    batch: int = 16
    ema_rampup: float | None = None
    mode: str = "separate"  # own Adam and step for the reward (the reported run) | joint: one summed loss (the paper)
    reward_lr: float = 0.0025  # of the separate Adam
    reward: dict[str, Any] = field(default_factory=dict)  # `_target_` and its arguments, see finetuning/rewards.py
    reward_term: RewardTermConfig = field(default_factory=RewardTermConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def validate(self) -> list[str]:
        faults = super().validate() + one_of("mode", self.mode, MODES)
        if not self.start:
            faults.append("start: fine-tuning needs networks to start from; give a network file or a manifest name")
        if not self.reward.get("_target_"):
            faults.append("reward._target_: give the dotted name of a function that loads a reward, or is one")
        if self.batch > 0:
            faults += batch_faults(self.batch, self.reward_term.micro_batch, name="reward_term.micro_batch")
        return faults + at_least(self, 0, "reward_lr")
