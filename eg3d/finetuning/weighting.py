"""The weights of reward and consistency at every step: fixed as in the paper, by gradient share, or by a drift bound.

Gradient shares: with n_k the running average of the norm of part k's gradient at its own weight, that weight is
multiplied by (share_k / share_0) (n_0 / n_k); part 0 is the first of the step, and keeps its weight. Source: the
balancing of GradNorm (2018) without its learning rates, since every part's norm is known at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from eg3d.finetuning.config import PARTS, FinetuneConfig, GradientNormsConfig, WeightingConfig
from eg3d.finetuning.drift import DriftBound
from eg3d.training.counters import Counters
from eg3d.training.state import Kept
from eg3d.training.stats import Stats

Norms = Mapping[str, float]  # of the gradients of a step, by part


class GradientShares:
    """Running averages of the norms of gradients, and the factors on the weights that follow."""

    def __init__(self, cfg: WeightingConfig) -> None:
        self._cfg, self._decay = cfg, 0.5 ** (1 / cfg.half_life)
        self._sums: dict[str, list[float]] = {}  # by part, in the order of the step: decayed sum of norms, and of ones

    def factor(self, part: str) -> float:
        """What the weight of a part is multiplied by; 1 until its gradient and that of the first part are known."""
        first = next(iter(self._sums), part)
        own, other = self._average(part), self._average(first)
        if part == first or not (own > 0 and other > 0):
            return 1.0
        factor = self._cfg.shares[part] / self._cfg.shares[first] * other / own
        return max(1 / self._cfg.limit, min(self._cfg.limit, factor))

    def update(self, norms: Norms) -> None:
        """The norms of a step that was taken, with the factors of that step in them."""
        own = {part: norm / self.factor(part) for part, norm in norms.items() if part in PARTS}
        if not all(map(math.isfinite, own.values())):
            return
        for part, norm in own.items():
            total, mass = self._sums.setdefault(part, [0.0, 0.0])  # also to keep the order
            if norm > 0:  # none at all (the first step's consistency, a reward outside its clip) has no size to learn
                self._sums[part] = [self._decay * total + norm, self._decay * mass + 1]

    def state(self) -> dict[str, Any]:
        """What the next step depends on."""
        return {"sums": self._sums}

    def restore(self, values: dict[str, Any]) -> None:
        """Go on from a state. Raises ValueError for parts that there are not."""
        sums = {part: [float(total), float(mass)] for part, (total, mass) in values["sums"].items()}
        if not set(sums) <= set(PARTS):
            raise ValueError(f"has norms of {', '.join(sums)}, expected some of {', '.join(PARTS)}")
        self._sums = sums

    def _average(self, part: str) -> float:
        total, mass = self._sums.get(part, [0.0, 0.0])
        return total / mass if mass > 0 else 0.0


class Weights:
    """The weights of one run, and what moves them after every step."""

    def __init__(self, cfg: FinetuneConfig) -> None:
        self._fixed = {"reward": cfg.reward_term.weight, "consistency": cfg.consistency.weight}
        self.shares = GradientShares(cfg.weighting) if cfg.weighting.mode == "gradient_share" else None
        self.drift = DriftBound(cfg.drift, cfg.consistency.weight) if cfg.drift.bound is not None else None

    def of(self, part: str) -> float:
        """The weight of a part at this step."""
        if part == "consistency" and self.drift is not None:
            return self.drift.multiplier
        return self._fixed[part] * self.shares.factor(part) if self.shares else self._fixed[part]

    def kept(self) -> dict[str, Kept]:
        """What of them belongs to the state of the run."""
        kept: dict[str, Kept | None] = {"weighting": self.shares, "drift": self.drift}
        return {name: part for name, part in kept.items() if part is not None}

    def mover(self, stats: Stats) -> Callable[[Norms], None] | None:
        """What a phase calls after its step: reports the weights of that step and moves them; None where all is fixed.

        The drift alone is reported over its bound: its mean is among the statistics of every run.
        """

        def move(norms: Norms) -> None:
            if self.shares is not None:
                for part in (part for part in self._fixed if part in norms):
                    stats.report(f"Weight/{part}", self.of(part))
                self.shares.update(norms)
            if self.drift is not None:
                stats.report("Drift/multiplier", self.drift.multiplier)
                self.drift.ascend()
                stats.report("Drift/share_of_bound", self.drift.share)

        return move if self.kept() else None


def norm_reporter(cfg: GradientNormsConfig, stats: Stats, counters: Counters) -> Callable[[Norms], None]:
    """Reports the parts' norms beside each other, for the steps before every `every_ticks`-th tick.

    Every step has the norms, since it looks whether they are finite: they cost nothing here.
    """

    def report(norms: Norms) -> None:
        if counters.tick % cfg.every_ticks:
            return
        for part in (part for part in PARTS if part in norms):
            stats.report(f"Gradient/{part}", norms[part])
        if "reward" in norms and norms.get("consistency", 0.0) > 0:
            stats.report("Gradient/reward_over_consistency", norms["reward"] / norms["consistency"])

    return report
