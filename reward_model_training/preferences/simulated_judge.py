"""The simulated annotator as a judge of fine-tuning.

    judge._target_=reward_model_training.preferences.simulated_judge.load

It is a rule, not a person, and has no gradients. A reward that learnt from its rankings stands in for it, so that it is
what such a run is after; a report that asks it again, on other seeds, then asks the one by whom the length was chosen.
Shape letters: N batch; X, Y, Z sides of the slab.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from eg3d.representations.sigma_field import SigmaField
from reward_model_training.preferences.simulated_annotator import AnnotatorConfig, SimulatedAnnotator


class SimulatedJudge:
    """Slabs of raw density -> points of the simulated annotator, 0 to 10, without its noise."""

    def __init__(self, slab: SigmaField, annotator: SimulatedAnnotator, *, box_warp: float) -> None:
        self.representation, self._annotator, self._voxel = slab, annotator, slab.voxel(box_warp)

    def __call__(self, slabs: Tensor) -> Tensor:
        """Points [N] of slabs [N, X, Y, Z]; no gradients."""
        return torch.tensor([self._annotator.score(slab.float(), voxel=self._voxel).score for slab in slabs])


def load(
    resolution: int = 64, grid: str = "exact", box_warp: float = 1.0, annotator: Mapping[str, Any] | None = None
) -> SimulatedJudge:
    """The judge, as a config names it.

    resolution, grid: of the slab that it is shown. box_warp: side of the generator's box, world units. annotator:
    fields of AnnotatorConfig. Raises ValueError, in one line, for a setting that there is not.
    """
    try:
        cfg = AnnotatorConfig(**(annotator or {}))
    except TypeError as error:
        raise ValueError(f"judge.annotator: {error}") from None
    slab = SigmaField(resolution=resolution, grid=grid)
    faults = slab.validate()
    if faults:
        raise ValueError(f"judge: {'; '.join(faults)}")
    return SimulatedJudge(slab, SimulatedAnnotator(cfg), box_warp=box_warp)
