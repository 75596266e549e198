"""Made pairs: training samples against damaged copies of themselves, whose order nobody needs to be asked for.

A row of ranked samples brings along triples clean, mild, severe of one of its samples, best first, and ties: a sample
and a copy that is the same shape to a person. What is drawn is named by (seed, epoch, row); the places of damage by
seeds below `STRESS_SEEDS`, which the stress test never uses. Shapes: X, Y, Z sides of a slab.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eg3d.config_checks import at_least, one_of
from reward_model_training.damage import LEVEL, damaged, damages, ties
from reward_model_training.data.representation_store import SampleKey

STRESS_SEEDS = 2**30  # seeds of damage from here on are for the stress test alone
_SALT = 0x6D61  # apart from the draws of anchors, which (seed, epoch, row) names as well


@dataclass
class MadePairsConfig:
    """Which damage a reward is shown, how much and how often. Published: none of it."""

    triples_per_row: float = 0.0  # clean, mild, severe a row of rankings, on average; 0 = none
    ties_per_row: float = 0.0  # pairs that must be judged the same a row of rankings, on average; 0 = none
    # Kinds of damage.py; those left out are held out, and the stress test says how well they are ordered unseen.
    kinds: list[str] = field(default_factory=lambda: list(damages()))
    ties: list[str] = field(default_factory=lambda: list(ties()))
    mild: tuple[float, float] = (0.15, 0.5)  # severities that are drawn from
    severe: tuple[float, float] = (0.6, 1.0)
    tie: tuple[float, float] = (0.3, 1.0)  # extent of changes that must not matter
    level: float = LEVEL  # raw density of the surface
    seed: int = 0  # of the draws, besides the seed of the run

    @property
    def is_on(self) -> bool:
        return self.triples_per_row > 0 or self.ties_per_row > 0

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = at_least(self, 0, "triples_per_row", "ties_per_row", "seed")
        for name, known in (("kinds", damages()), ("ties", ties())):
            given = list(getattr(self, name))
            faults += [fault for each in given for fault in one_of(name, each, known)]
            if len(set(given)) < len(given):
                faults.append(f"{name}: one is there twice in {', '.join(given)}")
        for name, per_row in (("kinds", self.triples_per_row), ("ties", self.ties_per_row)):
            if per_row > 0 and not getattr(self, name):
                faults.append(f"{name}: none to make them of; name some, or give 0 a row")
        for name in ("mild", "severe", "tie"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                faults.append(f"{name}: expected two severities above 0 and up to 1, rising, got {low}, {high}")
        if self.mild[1] >= self.severe[0]:
            faults.append(f"mild, severe: {self.mild[1]} of mild is not below {self.severe[0]} of severe")
        return faults


class Change(NamedTuple):
    """One change of a sample: the key of the changed slab."""

    sample: SampleKey
    kind: str
    severity: float
    seed: int


class MadeRow(NamedTuple):
    """Slabs whose order is known: best first, or, of a tie, equal."""

    items: tuple[Hashable, ...]  # a SampleKey, then Changes of it
    tensors: list[Tensor]  # [X, Y, Z], one an item, of the stored type
    is_tie: bool


def planned(
    cfg: MadePairsConfig, samples: Sequence[SampleKey], *, seed: int, epoch: int, row: int
) -> list[tuple[Change, ...]]:
    """The changes that go with a row of samples: two of the same kind and seed a triple, mild first; one a tie."""
    rng = np.random.default_rng([_SALT, cfg.seed, seed, epoch, row])

    def one(severities: Sequence[tuple[float, float]], kinds: Sequence[str]) -> tuple[Change, ...]:
        sample, kind = samples[int(rng.integers(len(samples)))], kinds[int(rng.integers(len(kinds)))]
        where = int(rng.integers(STRESS_SEEDS))
        return tuple(Change(sample, kind, float(rng.uniform(*span)), where) for span in severities)

    def count(mean: float) -> int:
        return int(mean) + int(rng.random() < mean % 1)

    made = [one((cfg.mild, cfg.severe), cfg.kinds) for _ in range(count(cfg.triples_per_row))]
    return made + [one((cfg.tie,), cfg.ties) for _ in range(count(cfg.ties_per_row))]


def make(changes: Sequence[Change], clean: Tensor, *, voxel: float, level: float) -> MadeRow:
    """The row that changes of one sample make. clean [X, Y, Z], as stored; voxel: world units between its points."""
    slabs = damaged(
        clean.expand(len(changes), *clean.shape),
        changes[0].kind,
        [change.severity for change in changes],
        [change.seed for change in changes],
        voxel=voxel,
        level=level,
    )
    limits = torch.finfo(clean.dtype)
    slabs = slabs.clamp(limits.min, limits.max).to(clean.dtype)
    return MadeRow((changes[0].sample, *changes), [clean, *slabs], is_tie=changes[0].kind in ties())
