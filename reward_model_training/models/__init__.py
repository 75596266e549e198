"""Reward models: `ModelConfig`, `RewardModel`, `build_model`."""

from reward_model_training.models.reward_model import ModelConfig, RewardModel, build_model

__all__ = ["ModelConfig", "RewardModel", "build_model"]
