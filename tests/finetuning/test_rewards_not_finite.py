"""A reward that gives no number ends fine-tuning, and says where."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from toy_reward import ToyReward

from eg3d.finetuning.config import FinetuneConfig
from eg3d.finetuning.loop import finetune


def test_a_reward_that_is_not_a_number_ends_fine_tuning(finetune_config: Callable[..., FinetuneConfig]) -> None:
    """Its loss is clamped, so that the gradient alone would not tell; seeds that are tracked say which one it was."""
    cfg = finetune_config(total_kimg=0.4, tick_kimg=0.4)
    with pytest.raises(ValueError, match=r"reward: the score of seed 300000 is not finite"):
        finetune(cfg, ToyReward(math.nan))
    cfg.tracking.num_seeds, cfg.out = 0, f"{cfg.out}-untracked"
    with pytest.raises(RuntimeError, match=r"Ggeometry at \d+ images: reward: loss nan.*10 times in a row"):
        finetune(cfg, ToyReward(math.nan))
