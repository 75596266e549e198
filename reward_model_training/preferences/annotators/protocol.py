"""What a simulated annotator is: it scores a slab of raw density, and puts scores in order as a person might.

A new one is one file, with a config and a class, and a line in MODULES of registry.py. Shape letters: K shapes shown
together; X, Y, Z sides of a slab.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from eg3d.config_families import FamilyConfig
from eg3d.representations.sigma_field import SlabFrame

ANNOTATOR_NAME = "simulated"  # in tables of rankings: no person
BEST_SCORE, WORST_SCORE = 10.0, 0.0


@dataclass
class AnnotatorConfig(FamilyConfig):
    """Settings that all simulated annotators share: how steady the hand is."""

    temperature: float = 0.0  # points; the better of two wins with probability logistic(difference / temperature)
    seed: int = 0  # of the noise

    @classmethod
    def members(cls) -> Mapping[str, type[FamilyConfig]]:
        from reward_model_training.preferences.annotators.registry import annotators

        return {name: entry.config for name, entry in annotators().items()}

    def validate(self) -> list[str]:
        faults = super().validate()
        if not 0 <= self.temperature < np.inf:
            faults.append(f"temperature: must be 0 or more points, got {self.temperature}")
        return faults


@dataclass(frozen=True)
class Judgement:
    """What an annotator thinks of one shape."""

    score: float  # points, 0 (worst, no surface) to 10 (best)
    faults: Mapping[str, float]  # by the names in `columns` of the annotator


class Annotator(ABC):
    """A simulated annotator. The same slab always gets the same judgement; only the order of several has noise."""

    columns: ClassVar[tuple[str, ...]]  # names of the faults, as tables have them

    def __init__(self, cfg: AnnotatorConfig) -> None:
        self.cfg = cfg
        if faults := cfg.validate():
            raise ValueError("; ".join(faults))

    @abstractmethod
    def judge(self, volume: np.ndarray | Tensor, frame: SlabFrame) -> Judgement:
        """Score and faults of a slab of raw density [X, Y, Z] that lies where `frame` says.

        Without a surface, or with a value that is not finite, the score is the worst. ValueError for another shape.
        """

    def rng(self) -> np.random.Generator:
        """A fresh generator of this annotator's noise."""
        return np.random.default_rng(self.cfg.seed)

    def rank(self, scores: Sequence[float] | np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Positions of `scores` [K], best first.

        Temperature 0: by score, and equal scores in the order given. Above 0: a Plackett-Luce (for two: Bradley-Terry)
        draw, by adding Gumbel noise of that scale; `rng` defaults to a fresh one.
        """
        utility = np.asarray(scores, dtype=np.float64)
        if utility.ndim != 1 or not np.isfinite(utility).all():
            raise ValueError(f"scores must be a row of finite numbers, got {scores}")
        if self.cfg.temperature > 0:
            noise = (self.rng() if rng is None else rng).gumbel(size=len(utility))
            utility = utility + self.cfg.temperature * noise
        return np.argsort(-utility, kind="stable")


def as_slab(volume: np.ndarray | Tensor) -> np.ndarray:
    """A slab [X, Y, Z] as float32. Raises ValueError for another shape."""
    values = volume.detach().cpu().numpy() if isinstance(volume, Tensor) else np.asarray(volume)
    if values.ndim != 3 or min(values.shape) < 3:
        raise ValueError(f"volume must be [X, Y, Z] with 3 points or more a side, got {list(values.shape)}")
    return values.astype(np.float32, copy=False)
