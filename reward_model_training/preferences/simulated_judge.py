"""A simulated annotator as a judge of fine-tuning.

    judge._target_=reward_model_training.preferences.simulated_judge.load

It is a program, not a person, and has no gradients. A reward that learnt from its rankings stands in for it, so that it
is what such a run is after; a report that asks it again, on other seeds, asks the one by whom the length was chosen.
Shape letters: N batch; X, Y, Z sides of the slab.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from eg3d.checkpoints.plain_configs import config_from_data
from eg3d.representations.sigma_field import SigmaField
from reward_model_training.preferences.annotators.protocol import Annotator, AnnotatorConfig
from reward_model_training.preferences.annotators.registry import annotator_from


class SimulatedJudge:
    """Slabs of raw density -> points of a simulated annotator, 0 to 10, without its noise."""

    def __init__(self, slab: SigmaField, annotator: Annotator, *, box_warp: float) -> None:
        self.representation, self._annotator, self._frame = slab, annotator, slab.frame(box_warp)

    def __call__(self, slabs: Tensor) -> Tensor:
        """Points [N] of slabs [N, X, Y, Z]; no gradients."""
        return torch.tensor([self._annotator.judge(slab.float(), self._frame).score for slab in slabs])


def load(
    resolution: int = 64, grid: str = "exact", box_warp: float = 1.0, annotator: Mapping[str, Any] | None = None
) -> SimulatedJudge:
    """The judge, as a config names it.

    resolution, grid: of the slab that it is shown. box_warp: side of the generator's box, world units. annotator: its
    `name` (likeness, unless given) and settings. Raises ValueError, in one line, for a setting that there is not.
    """
    cfg = config_from_data(AnnotatorConfig, {"name": "likeness", **(annotator or {})}, "judge.annotator")
    slab = SigmaField(resolution=resolution, grid=grid)
    faults = slab.validate()
    if faults:
        raise ValueError(f"judge: {'; '.join(faults)}")
    return SimulatedJudge(slab, annotator_from(cfg), box_warp=box_warp)
