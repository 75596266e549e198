"""Reward models: an encoder of one representation, then the shared trunk and heads.

A backbone is named in `BACKBONES`; a new one adds its module, its config field and its model class here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from eg3d.config_checks import faults_of, one_of
from reward_model_training.models.backbones.sigma_unet3d import SigmaUNet3D, SigmaUNetConfig
from reward_model_training.models.heads import HeadsConfig, RewardHeads


@dataclass
class ModelConfig:
    """Which backbone, its sizes, and the sizes of trunk and heads."""

    backbone: str = "sigma_unet3d"  # a name of BACKBONES
    sigma_unet3d: SigmaUNetConfig = field(default_factory=SigmaUNetConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)

    def validate(self) -> list[str]:
        """Faults of this config itself; those of its parts are theirs."""
        return one_of("backbone", self.backbone, tuple(BACKBONES))


class SigmaRewardModel(RewardHeads):
    """Density slab -> reward. Published state dict: 179 tensors, 12,686,699 parameters, no prefix."""

    def __init__(self, cfg: ModelConfig | None = None) -> None:
        cfg = cfg or ModelConfig()
        super().__init__(cfg.sigma_unet3d.final_size_out, cfg.heads)
        self.cfg = cfg
        self.Conv3DModule = SigmaUNet3D(cfg.sigma_unet3d)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, 1, Z, Y, X] in [0, 100] -> feature [N, F], reconstruction [N, 1, Z, Y, X]."""
        return self.Conv3DModule(x)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, 1, Z, Y, X] in [0, 100] -> scalar reward [N]; differentiable."""
        return self.scalar(self.trunk(self.encode(x)[0]))


BACKBONES = {"sigma_unet3d": SigmaRewardModel}


def build_model(cfg: ModelConfig) -> SigmaRewardModel:
    """The model that a config names, with fresh weights. Raises ValueError naming every fault."""
    if faults := faults_of(cfg):
        raise ValueError("model config: " + "; ".join(faults))
    return BACKBONES[cfg.backbone](cfg)
