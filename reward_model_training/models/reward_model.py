"""A reward model: the chosen backbone, then the trunk and the heads that all reward models share."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from eg3d.config_checks import faults_of
from reward_model_training.models.backbones.registry import BackboneConfig, Encoding, backbones
from reward_model_training.models.backbones.sigma_unet3d import SigmaUNetConfig
from reward_model_training.models.heads import RewardHeads, ScoreHeadsConfig


@dataclass
class ModelConfig:
    """The backbone with its settings, and the sizes of trunk and heads."""

    backbone: BackboneConfig = field(default_factory=SigmaUNetConfig)
    heads: ScoreHeadsConfig = field(default_factory=ScoreHeadsConfig)


class RewardModel(RewardHeads):
    """Network input of the backbone's kind -> reward. Letters: N items, F feature length, D embedding width.

    With the density U-Net of the published size its state dict is the published one: 179 tensors, 12,686,699
    parameters, no prefix.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__(cfg.backbone.feature_size, cfg.heads)
        entry = backbones()[cfg.backbone.name]
        self.cfg, self._prefix = cfg, entry.state_prefix
        self.add_module(entry.state_prefix, entry.network(cfg.backbone))  # after the heads, as a seed's weights say

    def encode(self, x: Tensor) -> Encoding:
        """x [N, ...] of the backbone's kind -> feature [N, F], and the reconstruction of x where there is one."""
        return self.get_submodule(self._prefix)(x)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, ...] of the backbone's kind -> scalar reward [N]; differentiable."""
        return self.scalar(self.trunk(self.encode(x).feature))


def build_model(cfg: ModelConfig) -> RewardModel:
    """The model that a config names, with fresh weights. Raises ValueError naming every fault."""
    if faults := faults_of(cfg):
        raise ValueError("model config: " + "; ".join(faults))
    return RewardModel(cfg)
