"""Where a training run stands: all that its schedules look at, and all of its state that is not a tensor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """Counted since the start of the run."""

    num_images: int = 0  # real images shown
    iteration: int = 0
    tick: int = 0
    real_signs: float = 0.0  # of the logits of real images since augmentation was last adapted: sum
    real_count: float = 0.0  # and number

    def forget_signs(self) -> None:
        """Begin a new sum of signs."""
        self.real_signs = self.real_count = 0.0
