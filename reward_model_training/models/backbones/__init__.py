"""Encoders of the reward models, one module each; `models.reward_model.BACKBONES` lists them by name."""
