"""Reward models: `ModelConfig`, `SigmaRewardModel`, `build_model`."""

from reward_model_training.models.reward_model import ModelConfig, SigmaRewardModel, build_model

__all__ = ["ModelConfig", "SigmaRewardModel", "build_model"]
