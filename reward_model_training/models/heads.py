"""The perceptron block of the reward models and the three heads on its output.

Shapes: N items, P pairs, D trunk width. Source: Sculpting NeRF Geometry (2026) and its released behaviour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eg3d.config_checks import one_of

# The published block adds the input layer's output to the input of the last hidden layer. With two hidden
# sizes nothing lies in between, so the sum is the same vector twice. Released weights were trained so.
PUBLISHED_RESIDUAL = "doubled"
WIDEST = 2**16  # beyond it a width can only be a mistake
RESIDUALS = ("doubled", "none")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "relu": F.relu,
    "cos": torch.cos,  # the released point-cloud bundles
}


@dataclass
class ScoreHeadsConfig:
    """Sizes of the trunk and of the three heads; the defaults are the published ones."""

    trunk_hidden: list[int] = field(default_factory=lambda: [512, 512])  # widths
    trunk_out: int = 512  # width D of the shared embedding
    head_hidden: list[int] = field(default_factory=lambda: [256, 128])  # widths, all three heads
    activation: str = "softplus"  # softplus, relu or cos
    residual: str = PUBLISHED_RESIDUAL  # doubled (published) or none

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = []
        for name in ("trunk_hidden", "head_hidden"):
            widths = list(getattr(self, name))
            if len(widths) < 2 or min(widths) < 1 or max(widths) > WIDEST:
                faults.append(f"{name}: {widths} needs at least two widths from 1 to {WIDEST}")
            elif len(set(widths[:-1])) > 1:
                faults.append(f"{name}: {widths} must have equal widths before the last, for the residual sum")
        if not 1 <= self.trunk_out <= WIDEST:
            faults.append(f"trunk_out: {self.trunk_out} must be from 1 to {WIDEST}")
        faults += one_of("activation", self.activation, tuple(ACTIVATIONS))
        return faults + one_of("residual", self.residual, RESIDUALS)


class MLPBlock(nn.Module):
    """Linear in, hidden layers with a residual sum before the last of them, linear out.

    Keys: input_layer, hidden_layers.<i>.0, output_layer. The input layer has no activation.
    """

    def __init__(
        self,
        in_size: int,
        hidden: list[int],
        out_size: int,
        *,
        activation: str = "softplus",
        residual: str = PUBLISHED_RESIDUAL,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.residual = residual
        self.input_layer = nn.Linear(in_size, hidden[0])
        self.hidden_layers = nn.ModuleList(nn.Sequential(nn.Linear(a, b)) for a, b in pairwise(hidden))
        self.output_layer = nn.Linear(hidden[-1], out_size)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, in_size] -> [N, out_size]."""
        act = ACTIVATIONS[self.activation]
        start = self.input_layer(x)
        h = start
        for layer in self.hidden_layers[:-1]:
            h = act(layer(h))
        if self.residual == "doubled":
            h = h + start
        return self.output_layer(act(self.hidden_layers[-1](h)))


class RewardHeads(nn.Module):
    """Trunk and heads that every reward model shares; key names as published.

    `trunk` [N, F] -> f [N, D]; `scalar` f -> reward [N]; `bt` f -> log strength [N];
    `pairs` (f_i, f_j) [P, D] -> logits [P, 2], class 0 = the first is better.
    """

    def __init__(self, feature_size: int, cfg: ScoreHeadsConfig) -> None:
        super().__init__()
        options = {"activation": cfg.activation, "residual": cfg.residual}
        hidden, width = list(cfg.head_hidden), cfg.trunk_out
        self.MLP = MLPBlock(feature_size, list(cfg.trunk_hidden), width, **options)
        self.scalar_rwd_head_BT = MLPBlock(width, hidden, 1, **options)
        self.scalar_rwd_head = MLPBlock(width, hidden, 1, **options)
        self.scalar_rwd_head_pairs = MLPBlock(2 * width, hidden, 2, **options)

    def trunk(self, feature: Tensor) -> Tensor:
        return self.MLP(feature)

    def scalar(self, f: Tensor) -> Tensor:
        return self.scalar_rwd_head(f).squeeze(-1)

    def bt(self, f: Tensor) -> Tensor:
        return self.scalar_rwd_head_BT(f).squeeze(-1)

    def pairs(self, f_i: Tensor, f_j: Tensor) -> Tensor:
        return self.scalar_rwd_head_pairs(torch.cat([f_i, f_j], -1))
