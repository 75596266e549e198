"""Rewards named by a config: loaders, plain functions, their arguments, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_generator_config
from toy_reward import ToyReward

from eg3d.finetuning.rewards import reward_from, scores_of
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.samples import SampleConfig, sample_seeds

SLAB = {"name": "sigma_field", "resolution": 8, "grid": "exact"}


@pytest.fixture(scope="module")
def generator() -> TriPlaneGenerator:
    torch.manual_seed(0)
    return TriPlaneGenerator(tiny_generator_config()).eval()


def test_a_loader_gets_its_own_arguments_and_the_device() -> None:
    reward = reward_from({"_target_": "toy_reward.load", "gain": 3.0}, device="cpu")
    assert isinstance(reward, ToyReward)
    assert float(reward.scale) == 3.0
    assert not reward.training and not reward.scale.requires_grad


def test_a_plain_function_and_a_representation_are_a_reward(generator: TriPlaneGenerator) -> None:
    sample = sample_seeds(generator, [1, 2], SampleConfig())
    wanted = scores_of(ToyReward(2.0), generator, sample)
    reward = reward_from({"_target_": "toy_reward.mean_density", "representation": SLAB, "gain": 2.0}, device="cpu")
    assert torch.equal(scores_of(reward, generator, sample), wanted)


def test_scores_of_another_shape_are_refused(generator: TriPlaneGenerator) -> None:
    reward = reward_from({"_target_": "toy_reward.of_another_shape", "representation": SLAB}, device="cpu")
    with pytest.raises(ValueError, match=r"reward: expected scores \[2\], one a sample, got \[2, \d+\]"):
        scores_of(reward, generator, sample_seeds(generator, [1, 2], SampleConfig()))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_target_": "toy_reward.load", "gian": 2}, r"unexpected keyword argument 'gian'; load takes device, gain"),
        ({"_target_": "toy_reward.nothing_here"}, "reward._target_"),
        ({"_target_": "builtins.dict"}, "reward._target_: cannot be called"),
        ({"_target_": "toy_reward.SigmaField"}, "expected a callable with a `representation`"),
        ({"_target_": "toy_reward.mean_density", "representation": {"name": "smell"}}, "representation 'smell'"),
        ({"_target_": "toy_reward.mean_density", "representation": SLAB | {"side": 3}}, "unknown settings side"),
        ({"_target_": "toy_reward.mean_density", "representation": SLAB | {"resolution": 1}}, "at least 2 points"),
    ],
)
def test_what_is_no_reward_is_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        reward_from(config, device="cpu")
    assert "\n" not in str(caught.value)
