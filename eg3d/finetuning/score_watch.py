"""What training looks at in the scores of a reward: that they are finite, and that the clip leaves them a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from eg3d.finetuning.config import RewardTermConfig
from eg3d.finetuning.rewards import require_finite_scores
from eg3d.training.counters import Counters


class ScoreWatch:
    """Scores of one step at a time, as a phase watches them; `source` is what the reward is called."""

    def __init__(self, term: RewardTermConfig, source: str, counters: Counters) -> None:
        self._term, self._source, self._counters = term, source, counters
        self._scores: list[Tensor] = []  # [N] of every pass of the step
        self._sizes: list[int] = []

    def add(self, scores: Tensor) -> None:
        """Scores [N] of one pass."""
        self._scores.append(scores.detach())

    def take(self) -> Tensor:
        """Scores [K] of all passes since the last call."""
        scores, self._scores = self._scores, []
        self._sizes = [len(part) for part in scores]
        return torch.cat(scores)

    def check(self, values: list[float]) -> None:
        """Raise ValueError for scores that are not finite, or when all passes of the first step have no gradient."""
        require_finite_scores(values, self._source)
        passes = torch.tensor(values).split(self._sizes)
        low, high = self._term.clip_low, self._term.clip_high
        is_outside = all(not low <= float(part.mean()) <= high for part in passes)
        if self._counters.iteration == 0 and is_outside and not self._term.allow_saturated:
            raise ValueError(
                f"reward_term: all {len(values)} scores of the first step, {min(values):.3g} to {max(values):.3g}, lie "
                f"outside the clip from {low:g} to {high:g}, where they give no gradient; centre or standardise the "
                "reward, move clip_low and clip_high, or give reward_term.allow_saturated=true"
            )
