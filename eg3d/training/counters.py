"""Where a training run stands: all that its schedules look at, and all of its state that is not a tensor."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Counters:
    """Counted since the start of the run."""

    num_images: int = 0  # real images shown
    iteration: int = 0
    tick: int = 0
    tick_images: int = 0  # images shown at the last tick
    skipped: int = 0  # steps of a phase with a number that is not finite; with nonfinite=published they were cleaned
    skips_in_row: dict[str, int] = field(default_factory=dict)  # by phase: those at the end of its steps
    real_signs: float = 0.0  # of the logits of real images since augmentation was last adapted: sum
    real_count: float = 0.0  # and number

    def forget_signs(self) -> None:
        """Begin a new sum of signs."""
        self.real_signs = self.real_count = 0.0

    def count_step(self, phase: str, *, is_finite: bool) -> int:
        """Count a step of a phase; returns how many steps in a row, up to this one, were not finite."""
        if is_finite:
            self.skips_in_row.pop(phase, None)
            return 0
        self.skipped += 1
        self.skips_in_row[phase] = self.skips_in_row.get(phase, 0) + 1
        return self.skips_in_row[phase]
