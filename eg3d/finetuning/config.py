"""What a fine-tuning run can be told: python -m eg3d.train_rlhf."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from eg3d.config_checks import at_least, batch_faults, one_of
from eg3d.training.config import TrainConfig

MODES = ("separate", "joint")


@dataclass
class RewardSource:
    """The reward as a callable: `_target_` is called with the other fields and the device.

    It must take raw density [N, X, Y, Z] to scores [N], and say in its attribute `slab` which slab it reads.
    """

    _target_: str = MISSING  # dotted name of the function that loads it
    path: str = MISSING  # the bundle


@dataclass
class RewardTermConfig:
    """-lambda_r * clip(r, low, high), on slabs of fresh latents seen from the canonical camera."""

    weight: float = 10.0  # lambda_r; 0 = no reward term
    clip_low: float = -10.0
    clip_high: float = 10.0
    psi: float = 1.0  # truncation of the reward's slabs
    truncation_cutoff: int = 14
    camera_factor: float = 1.0  # multiplies the conditioning label; 0 = unconditioned
    update_w_average: bool = True  # published: reward sampling moves the truncation centre
    micro_batch: int = 1  # slabs a pass, 0 = as the other phases; the clip acts on their mean score

    def validate(self) -> list[str]:
        faults = []
        if self.weight < 0:
            faults.append(f"weight: {self.weight} is negative; a reward is maximised with a positive weight")
        if self.clip_low >= self.clip_high:
            faults.append(f"clip_low: {self.clip_low} is not below clip_high {self.clip_high}")
        return faults


@dataclass
class ConsistencyConfig:
    """lambda_c * mean |sigma_G - sigma_G0| on a whole grid, same latents as the reward, G0 the frozen start."""

    weight: float = 0.01  # lambda_c; 0 = no consistency term
    resolution: int = 64  # points a side
    grid: str = "skewed"  # exact | skewed (published)
    psi: float = 0.7  # published code: 0.7, whatever the reward's
    truncation_cutoff: int = 14

    def validate(self) -> list[str]:
        faults = at_least(self, 0, "weight") + at_least(self, 2, "resolution")
        return faults + one_of("grid", self.grid, ("exact", "skewed"))


@dataclass
class TrackingConfig:
    """Fixed seeds that the reward scores at every tick, with the averaged generator."""

    first_seed: int = 300000
    num_seeds: int = 200
    psi: float = 1.0
    batch: int = 4

    def validate(self) -> list[str]:
        return at_least(self, 0, "first_seed", "num_seeds") + at_least(self, 1, "batch")


@dataclass
class FinetuneConfig(TrainConfig):
    """One fine-tuning run: adversarial training plus reward and consistency."""

    out: str = "runs/finetune"
    batch: int = 16
    ema_rampup: float | None = None
    mode: str = "separate"  # own Adam and step for the reward (the reported run) | joint: one summed loss (the paper)
    reward_lr: float = 0.0025  # of the separate Adam
    reward: RewardSource = field(default_factory=RewardSource)
    reward_term: RewardTermConfig = field(default_factory=RewardTermConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def validate(self) -> list[str]:
        faults = super().validate() + one_of("mode", self.mode, MODES)
        if not self.start:
            faults.append("start: fine-tuning needs networks to start from; give a network file or a manifest name")
        if self.batch > 0:
            faults += batch_faults(self.batch, self.reward_term.micro_batch, name="reward_term.micro_batch")
        return faults + at_least(self, 0, "reward_lr")
