"""Steps whose numbers were not finite: counted, told once, and the end of a run when there are too many in a row."""

from __future__ import annotations

import logging

from eg3d.training.config import TrainConfig
from eg3d.training.counters import Counters
from eg3d.training.phases import Phase

log = logging.getLogger(__name__)


def count_step(phase: Phase, counters: Counters, cfg: TrainConfig, *, is_first: bool) -> None:
    """Count the step that `phase` just took by whether its numbers were finite; `is_first`: this process speaks.

    Raises RuntimeError after cfg.max_skips skipped steps in a row.
    """
    in_row = counters.count_step(phase.name, is_finite=not phase.faults)
    said = f"{phase.name}: {'; '.join(phase.faults)}"
    if cfg.nonfinite == "skip" and in_row >= cfg.max_skips:
        raise RuntimeError(
            f"{cfg.out}: after {counters.num_images} images the last {in_row} steps of {said}: not finite, the run "
            "ends; its last snapshot and state are whole: go on from them with lower learning rates"
        )
    if in_row == 1 and is_first:  # how many follow, the next tick says
        done = "skipped" if cfg.nonfinite == "skip" else "cleaned, as published"
        log.warning("after %d images %s: not finite, %s", counters.num_images, said, done)
