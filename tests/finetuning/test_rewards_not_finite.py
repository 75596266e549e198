"""A reward that gives no number, or none with a gradient, ends fine-tuning, and says so."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from toy_reward import ToyReward

from eg3d.finetuning.config import FinetuneConfig, RewardTermConfig, TrackingConfig
from eg3d.finetuning.loop import finetune
from eg3d.finetuning.rewards import FunctionReward, name_of

Make = Callable[..., FinetuneConfig]


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_reward_that_is_not_a_number_ends_fine_tuning(finetune_config: Make, score: float) -> None:
    """Its loss is clamped, so that the gradient alone would not tell; seeds that are tracked say which one it was."""
    cfg = finetune_config(total_kimg=0.4, tick_kimg=0.4)
    with pytest.raises(ValueError, match=r"reward: toy_reward\.ToyReward gave .* \(first: seed 30000\d\)") as error:
        finetune(cfg, ToyReward(score))
    assert "\n" not in str(error.value)
    cfg.tracking.num_seeds, cfg.out = 0, f"{cfg.out}-untracked"
    with pytest.raises(ValueError, match=r"reward: toy_reward\.ToyReward gave .* samples; expected finite scores"):
        finetune(cfg, ToyReward(score))


def test_scores_outside_the_clip_are_told_at_the_first_step(finetune_config: Make) -> None:
    off = TrackingConfig(num_seeds=0)
    cfg = finetune_config(total_kimg=0.004, tracking=off, reward_term=RewardTermConfig(micro_batch=2))
    with pytest.raises(ValueError, match=r"all 4 scores of the first step, .* lie outside the clip from -10 to 10"):
        finetune(cfg, ToyReward(1e9))
    term = RewardTermConfig(micro_batch=2, allow_saturated=True)
    allowed = finetune_config(total_kimg=0.004, tracking=off, reward_term=term, out=f"{cfg.out} allowed")
    assert finetune(allowed, ToyReward(1e9)).num_images == 4


def test_a_run_that_rose_beyond_the_clip_continues(finetune_config: Make) -> None:
    settings = {"tracking": TrackingConfig(num_seeds=0), "reward_term": RewardTermConfig(micro_batch=2)}
    finetune(finetune_config(total_kimg=0.012, **settings), ToyReward())
    assert finetune(finetune_config(total_kimg=0.024, **settings), ToyReward(1e9)).num_images == 24


def test_what_a_reward_is_called() -> None:
    assert name_of(ToyReward()) == "toy_reward.ToyReward"
    assert name_of(FunctionReward(math.sqrt, ToyReward.representation)) == "math.sqrt"  # type: ignore[arg-type]
