"""What a portrait is made from: a vector of K = 64 standard-normal numbers, its code.

The first NUM_SHAPE numbers are those of the head model, in its standard deviations; the others, one field of `Looks`
each, say how the head looks. All are limited softly to +-2, except those of which only the share of people below a
value counts (the style of the hair, glasses), which go through the normal distribution function.
Shape letters: N heads, K numbers per head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

NUM_SHAPE = 40


@dataclass(frozen=True)
class Looks:
    """How one head looks. Every field is a number in [-2, 2], 0 on average, unless its comment says otherwise."""

    skin_tone: float  # dark to light
    skin_warmth: float
    flush: float  # of cheeks and nose
    stubble: float  # only positive values show
    lip_tint: float
    brow_strength: float
    brow_tint: float  # against the hair
    eye_tint: float  # brown to blue
    hair_style: float  # share of people below, in (0, 1): see HAIR_STYLES
    hair_length: float
    hair_volume: float
    hairline: float  # larger leaves more forehead
    hair_part: float  # where it parts: right to left
    hair_strands: float  # calm to unruly
    hair_tone: float  # dark to light
    hair_warmth: float
    glasses: float  # share of people below, in (0, 1): see GLASSES_SHARE
    glasses_shape: float  # round to square
    light_azimuth: float
    light_elevation: float
    light_softness: float  # hard to soft
    clothes_tone: float
    backdrop_tone: float
    backdrop_hue: float

    @property
    def style(self) -> str:
        """The name of the hair's style."""
        return next((name for name, share in HAIR_STYLES.items() if self.hair_style < share), LAST_STYLE)

    @property
    def wears_glasses(self) -> bool:
        return self.glasses > 1.0 - GLASSES_SHARE


# The upper end of each style's share of people.
HAIR_STYLES = {
    "bald": 0.06, "cropped": 0.16, "short": 0.32, "side parting": 0.46, "bob": 0.60, "long": 0.77, "curly": 0.90,
}  # fmt: skip
LAST_STYLE = "bun"
GLASSES_SHARE = 1 / 6
SHARES = ("hair_style", "glasses")
LOOK_NAMES = tuple(field.name for field in fields(Looks))
CODE_NAMES = (*(f"shape_{i:02d}" for i in range(NUM_SHAPE)), *LOOK_NAMES)
NUM_CODES = len(CODE_NAMES)


def head_codes(seed: int) -> np.ndarray:
    """The code of head `seed` (0 to 2^32 - 1): [K] float32, standard normal, the same on every machine."""
    return np.random.RandomState(seed).randn(NUM_CODES).astype(np.float32)


def checked_codes(codes: np.ndarray) -> np.ndarray:
    """codes [N, K] or [K] as float64 [N, K]. Raises ValueError on another K or a number that is not finite."""
    found = np.atleast_2d(np.asarray(codes, dtype=np.float64))
    if found.ndim != 2 or found.shape[1] != NUM_CODES:
        raise ValueError(f"head codes must be [N, {NUM_CODES}], got {list(np.shape(codes))}")
    if not np.isfinite(found).all():
        raise ValueError("head codes must be finite numbers")
    return found


def softly_limited(codes: np.ndarray) -> np.ndarray:
    """Numbers [...] kept within +-2; those near 0 stay as they are."""
    return 2.0 * np.tanh(codes / 2.0)


def shape_codes(codes: np.ndarray) -> np.ndarray:
    """The head model's part of codes [N, K], softly limited: float64 [N, NUM_SHAPE]."""
    return softly_limited(checked_codes(codes)[:, :NUM_SHAPE])


def looks(codes: np.ndarray) -> list[Looks]:
    """How the heads of codes [N, K] look."""
    rows = checked_codes(codes)[:, NUM_SHAPE:]
    return [
        Looks(
            **{
                name: _share(value) if name in SHARES else float(softly_limited(value))
                for name, value in zip(LOOK_NAMES, row, strict=True)
            }
        )
        for row in rows
    ]


def _share(value: float) -> float:
    return 0.5 * (1.0 + math.erf(float(value) / math.sqrt(2.0)))
