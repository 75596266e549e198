"""A bound on how far densities move, held by a Lagrange multiplier: dual ascent on its logarithm.

    minimise L over the generator, subject to d = E mean |sigma_raw_G - sigma_raw_G0| <= bound:  L + mu d, mu > 0
    log m <- clip(log m + rate * clip(d / bound - 1, -1, 1), log lowest, log highest)    once a step
    mu = min(m max(1, d / bound)^boost, highest)                                         d of the step before

Source: multipliers by the (modified) differential method, Platt and Barr (1987); their logarithm keeps mu positive and
makes a step the same share of it at any size. The second line is their damping: at the bound it is nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from eg3d.finetuning.config import DriftConfig


class DriftBound:
    """The multiplier of a run, and the drifts of one step at a time, as a phase watches them."""

    def __init__(self, cfg: DriftConfig, weight: float) -> None:
        """weight: the multiplier to begin with, within the limits; also the lowest where the config says no other."""
        if cfg.bound is None:
            raise ValueError("drift.bound: is null; there is nothing to hold")
        self._cfg, self._bound = cfg, cfg.bound
        self._lowest = min(weight, cfg.highest) if cfg.lowest is None else cfg.lowest
        self._log = self._within(math.log(weight))
        self._drifts: list[Tensor] = []  # scalars, of every pass of the step
        self.seen = 0.0  # mean drift of the last step that was taken
        self._now = 0.0  # and of this one

    @property
    def multiplier(self) -> float:
        """mu, in the place of the consistency's weight."""
        above = self._cfg.boost * math.log(self.share) if self.share > 1 else 0.0
        return math.exp(self._within(self._log + above))

    @property
    def share(self) -> float:
        """The drift of the last step that was taken, over the bound."""
        return self.seen / self._bound

    def add(self, drift: Tensor) -> None:
        """The drift of one pass, a scalar; passes are equally large."""
        self._drifts.append(drift.detach())

    def take(self) -> Tensor:
        """Drifts [K] of all passes since the last call."""
        drifts, self._drifts = self._drifts, []
        return torch.stack(drifts)

    def check(self, values: list[float]) -> None:
        """Look at the drifts of a step; what is not finite is the loss's to tell."""
        self._now = sum(values) / len(values)

    def ascend(self) -> None:
        """Move the multiplier by the drift of a step that was taken."""
        if math.isfinite(self._now):
            self.seen = self._now
            self._log = self._within(self._log + self._cfg.rate * max(-1.0, min(1.0, self.share - 1)))

    def state(self) -> dict[str, Any]:
        """What the next step depends on."""
        return {"log_multiplier": self._log, "drift": self.seen}

    def restore(self, values: dict[str, Any]) -> None:
        """Go on from a state."""
        self._log, self.seen = self._within(float(values["log_multiplier"])), float(values["drift"])

    def _within(self, value: float) -> float:
        return max(math.log(self._lowest), min(math.log(self._cfg.highest), value))
