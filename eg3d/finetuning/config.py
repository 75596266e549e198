"""What a fine-tuning run can be told: python -m eg3d.train_rlhf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eg3d.config_checks import at_least, batch_faults, faults_of, one_of
from eg3d.one_line import one_line
from eg3d.samples import SampleConfig
from eg3d.seeds import LARGEST_SEED, MOST_SEEDS
from eg3d.training.config import FREE, TrainConfig

MODES = ("separate", "joint")
AVERAGE_MOVES = ("once", "published")
WEIGHTINGS = ("fixed", "gradient_share")
PARTS = ("adversarial", "reward", "consistency")  # of the generator's loss
REWARD_SEEDS = ("judge", "tracking")
FREE_OF_FINETUNING = (*FREE, "judge.stop", "gradient_norms")


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

    def all_seeds(self) -> Sequence[int]:
        """The seeds, in the order in which they are scored."""
        return range(self.first_seed, self.first_seed + self.num_seeds)


@dataclass
class JudgeConfig(TrackingConfig):
    """When and on which seeds a judge looks, and when its fall counts.

    A judge is named in the config as a reward is: `judge._target_`, perhaps `judge.representation`, and its arguments
    lie beside these settings in one table. It has seeds of its own, so that what is chosen by it is chosen on shapes
    that nothing else has seen. The reward is over-optimised at a tick when, since the tick that the judge liked best,
    the reward rose and the judge fell, both seed by seed and by more than `standard_errors`.
    """

    first_seed: int = 350000
    num_seeds: int = 64
    seeds: list[int] = field(default_factory=list)  # these instead, where there are any
    every_ticks: int = 1  # looks at ticks 0, this many, twice as many ...
    one_at_a_time: bool = False  # the function takes one representation [...] and gives a number
    reward_seeds: str = "judge"  # on which the reward must have risen: judge = the judge's own | tracking
    standard_errors: float = 1.0  # of the mean change over seeds
    patience: int = 2  # looks in a row with the judge fallen, before it speaks
    stop: bool = False  # then the run ends; else it warns

    def validate(self) -> list[str]:
        faults = super().validate() + at_least(self, 1, "every_ticks", "patience")
        faults += at_least(self, 0, "standard_errors") + one_of("reward_seeds", self.reward_seeds, REWARD_SEEDS)
        if len(self.all_seeds()) < 2:
            faults.append(f"num_seeds: a standard error needs 2 seeds or more, got {len(self.all_seeds())}")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds, default=0) < 0:
            faults.append("seeds: give every seed once, from 0 on")
        if self.num_seeds > MOST_SEEDS or max(self.all_seeds(), default=0) > LARGEST_SEED:
            faults.append(f"num_seeds: at most {MOST_SEEDS} seeds up to {LARGEST_SEED}, got {self.num_seeds}")
        return faults

    def all_seeds(self) -> Sequence[int]:
        """The seeds, in the order in which they are scored."""
        return self.seeds or super().all_seeds()

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> JudgeConfig:
        """The settings in the table `judge` of a config. Raises ValueError in one line for a value of another kind."""
        own = {field.name for field in fields(cls)}
        try:
            given = {name: value for name, value in table.items() if name in own}
            return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), given))  # type: ignore[return-value]
        except OmegaConfBaseException as error:
            name = getattr(error, "full_key", None) or "judge"
            raise ValueError(f"{name}: {one_line(str(error).splitlines()[0])}") from None

    @classmethod
    def callable_in(cls, table: Mapping[str, Any]) -> dict[str, Any]:
        """What else is in the table: the judge, as a reward's config names one; empty = there is no judge."""
        own = {field.name for field in fields(cls)}
        named = {name: value for name, value in table.items() if name not in own}
        return {name: value for name, value in named.items() if name != "_target_" or value}


@dataclass
class GradientNormsConfig:
    """How often the gradients of the parts are shown beside each other; every step has their norms anyway."""

    every_ticks: int = 0  # 0 = never

    def validate(self) -> list[str]:
        return at_least(self, 0, "every_ticks")


@dataclass
class WeightingConfig:
    """Who decides about the weights of reward and consistency: you, or the gradients that they come to.

    With gradient_share, a part's weight is multiplied so that the norms of the parts' gradients go as `shares`, by
    running averages of the norms. The first part of a step keeps its weight: the adversarial one in mode joint; in
    mode separate, where the adversarial part has a step of its own, the reward.
    """

    mode: str = "fixed"  # fixed: the weights of reward_term and consistency (the paper) | gradient_share
    shares: dict[str, float] = field(default_factory=lambda: {"adversarial": 0.5, "reward": 0.4, "consistency": 0.1})
    half_life: float = 10.0  # of the running averages, in steps
    limit: float = 1000.0  # a weight is multiplied by this at most, and divided by it

    def validate(self) -> list[str]:
        faults = one_of("mode", self.mode, WEIGHTINGS)
        if set(self.shares) != set(PARTS):
            faults.append(f"shares: has {', '.join(self.shares) or 'none'}; give each of {', '.join(PARTS)}")
        if not all(value > 0 for value in self.shares.values()):
            faults.append(f"shares: must be above 0, got {', '.join(f'{value:g}' for value in self.shares.values())}")
        if not self.half_life > 0:
            faults.append(f"half_life: {self.half_life} is not positive")
        return faults + at_least(self, 1, "limit")


@dataclass
class DriftConfig:
    """A bound on how far densities move from the start's, held by a Lagrange multiplier in place of the consistency's
    weight: dual ascent on its logarithm, by `rate` a step times (drift / bound - 1), that at most 1 in size. The
    bound is passed for a while before the multiplier has risen; `boost` makes that shorter."""

    bound: float | None = None  # mean |sigma_raw_G - sigma_raw_G0| of a step's samples; null = consistency.weight alone
    rate: float = 0.2
    lowest: float | None = None  # of the multiplier; null = the consistency's weight, where it begins
    highest: float = 1000.0
    boost: float = 2.0  # above the bound the multiplier also counts (drift / bound)^boost times; 0 = ascent alone

    def validate(self) -> list[str]:
        given = {"rate": self.rate, "lowest": 1.0 if self.lowest is None else self.lowest, "highest": self.highest}
        faults = [f"{name}: {value} is not positive" for name, value in given.items() if not value > 0]
        if self.bound is not None and not self.bound > 0:
            faults.append(f"bound: {self.bound} is not positive; give null for none")
        if self.lowest is not None and self.highest < self.lowest:
            faults.append(f"highest: {self.highest} is below lowest {self.lowest}")
        return faults + at_least(self, 0, "boost")


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
    # `_target_` and its arguments, as for the reward, and the fields of JudgeConfig; no `_target_` = no judge
    judge: dict[str, Any] = field(default_factory=lambda: {"_target_": None, **asdict(JudgeConfig())})
    gradient_norms: GradientNormsConfig = field(default_factory=GradientNormsConfig)
    weighting: WeightingConfig = field(default_factory=WeightingConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)

    def validate(self) -> list[str]:
        faults = super().validate() + one_of("mode", self.mode, MODES)
        if not self.start:
            faults.append("start: fine-tuning needs networks to start from; give a network file or a manifest name")
        if not self.reward.get("_target_"):
            faults.append("reward._target_: give the dotted name of a function that loads a reward, or is one")
        if self.batch > 0:
            faults += batch_faults(self.batch, self.reward_term.micro_batch, name="reward_term.micro_batch")
        if self.drift.bound is not None and self.consistency.weight == 0:
            faults.append("drift.bound: bounds what the consistency term measures, whose weight is 0; give null")
        if self.drift.bound is not None and self.weighting.mode == "gradient_share":
            faults.append("drift.bound: weighting.mode=gradient_share sets the same weight; give one of them")
        return faults + at_least(self, 0, "reward_lr") + self._judge_faults()

    def _judge_faults(self) -> list[str]:
        try:
            judge = JudgeConfig.of(self.judge)
        except ValueError as error:
            return [f"judge.{error}"]
        faults = [f"judge.{fault}" for fault in faults_of(judge)]
        named = JudgeConfig.callable_in(self.judge)
        if not named:
            return faults
        if not named.get("_target_"):
            faults.append(f"judge._target_: give the dotted name of a judge that takes {', '.join(named)}")
        if faults:
            return faults
        tracked = self.tracking.all_seeds()
        both = sorted(seed for seed in judge.all_seeds() if seed in tracked)
        if both:
            faults.append(
                f"judge.first_seed: {len(both)} of the judge's {len(judge.all_seeds())} seeds are tracked too, "
                f"{both[0]} to {both[-1]}; give seeds of its own"
            )
        if judge.reward_seeds == "tracking" and len(tracked) < 2:
            faults.append("judge.reward_seeds: tracking has no seeds to be scored; give judge, or tracking.num_seeds")
        return faults
