"""Settings of the optimiser of reward training, and how many items pass the encoder at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEAST_LR = 0.01  # share of the learning rate that is left at the end of its decay


@dataclass
class OptimiserConfig:
    """Adam without clipping; the defaults, without a schedule either, are as published."""

    lr: float = 1e-5
    weight_decay: float = 1e-4  # L2 in the gradient
    decay_epochs: float = 0  # over which lr falls, by half a cosine, to a hundredth; then it stays there. 0 = constant
    items_at_once: int = 1  # items per encoder pass (published 1): memory and speed, the same numbers

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = [] if self.lr > 0 else [f"lr: must be above 0, got {self.lr}"]
        if self.weight_decay < 0:
            faults.append(f"weight_decay: must be 0 or more, got {self.weight_decay}")
        if not 0 <= self.decay_epochs < math.inf:
            faults.append(f"decay_epochs: must be 0 (constant) or more, got {self.decay_epochs}")
        if self.items_at_once < 1:
            faults.append(f"items_at_once: must be at least 1, got {self.items_at_once}")
        return faults

    def lr_at(self, epoch: float) -> float:
        """The learning rate after `epoch` epochs, whole ones or parts."""
        if self.decay_epochs == 0:
            return self.lr
        left = (1 + math.cos(math.pi * min(1.0, epoch / self.decay_epochs))) / 2
        return self.lr * (LEAST_LR + (1 - LEAST_LR) * left)
