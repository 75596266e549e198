"""Settings of the optimiser of reward training, and how many items pass the encoder at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class OptimiserConfig:
    """Adam without schedule or clipping, as published."""

    lr: float = 1e-5
    weight_decay: float = 1e-4  # L2 in the gradient
    items_at_once: int = 1  # items per encoder pass (published 1): memory and speed, the same numbers

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = [] if self.lr > 0 else [f"lr: must be above 0, got {self.lr}"]
        if self.weight_decay < 0:
            faults.append(f"weight_decay: must be 0 or more, got {self.weight_decay}")
        if self.items_at_once < 1:
            faults.append(f"items_at_once: must be at least 1, got {self.items_at_once}")
        return faults
