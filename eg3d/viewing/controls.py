"""The ranges of the viewer's controls, and what is made of values that a page may have sent from outside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eg3d.representations.mesh import BORDER_FILL
from eg3d.samples import PUBLISHED_CUTOFF
from eg3d.seeds import LARGEST_SEED
from eg3d.viewing.gallery import LAYOUTS, MODES, Choice

PSI = (0.0, 1.5)
CUTOFF = (0, 64)  # style codes; more than any backbone has
LEVEL = (BORDER_FILL + 1, 1000.0)  # raw density; the border is below
SEED = (0, LARGEST_SEED)
GRID_SIDES = (64, 128, 256)  # points per side behind a mesh


def grid_sides(start: Choice) -> list[str]:
    """Choices of the grid behind a mesh; the one to start with is among them."""
    return [str(side) for side in sorted({*GRID_SIDES, start.resolution})]


def clamped(values: Mapping[str, Any], start: Choice) -> Choice:
    """The choice that control values mean: numbers are brought into their ranges; what is none, or no choice that a
    control offers, counts as it was at the start."""
    cutoff = PUBLISHED_CUTOFF if start.truncation_cutoff is None else start.truncation_cutoff
    sides, side = grid_sides(start), str(values.get("resolution"))
    mode, layout = str(values.get("mode")), str(values.get("layout"))
    return Choice(
        seed=int(_number(values.get("seed"), SEED, start.seed)),
        psi=round(float(_number(values.get("psi"), PSI, start.psi)), 6),
        truncation_cutoff=int(_number(values.get("truncation_cutoff"), CUTOFF, cutoff)),
        mode=mode if mode in MODES else start.mode,
        layout=layout if layout in LAYOUTS else start.layout,
        resolution=int(side) if side in sides else start.resolution,
        level=float(_number(values.get("level"), LEVEL, start.level)),
        is_colored=values["is_colored"] if isinstance(values.get("is_colored"), bool) else start.is_colored,
    )


def _number(value: Any, limits: tuple[float, float], otherwise: float) -> float:
    """`value` within `limits`; for what is no number `otherwise`, within them too."""
    for candidate in (value, otherwise):
        is_number = isinstance(candidate, (int, float)) and not isinstance(candidate, bool)
        if is_number and not math.isnan(candidate):
            return min(max(candidate, limits[0]), limits[1])
    return limits[0]
