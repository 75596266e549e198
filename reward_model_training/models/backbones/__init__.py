"""Encoders of the reward models, one module each; importing this package fills the table `registry.BACKBONES`."""

from reward_model_training.models.backbones import sigma_unet3d  # noqa: F401
