"""The measures there are, in the order of a report, which also numbers the figures.

A new measure is a file beside the others and a line here; the pipeline's settings and stages, and the report, follow.
"""

from __future__ import annotations

from paper_result_analyses.measure import (
    before_after,
    image_change,
    pictures,
    reward_accuracy,
    trajectories,
    twin_geometry,
)
from paper_result_analyses.measure.protocol import Figure, Measure

_FILES = (pictures, reward_accuracy, before_after, image_change, twin_geometry, trajectories)
MEASURES: dict[str, Measure] = {}


def register(measure: Measure) -> None:
    """Add a measure. Raises ValueError where another one has its name, or the name of one of its tables or figures."""
    others = MEASURES.values()
    taken = {
        "measure": {other.name for other in others},
        "table": {table.name for other in others for table in other.tables},
        "figure": {figure.name for other in others for figure in other.figures},
    }
    given = {
        "measure": [measure.name],
        "table": [table.name for table in measure.tables],
        "figure": [figure.name for figure in measure.figures],
    }
    clashes = [f"{kind} {name!r}" for kind, names in given.items() for name in names if name in taken[kind]]
    if clashes:
        raise ValueError(
            f"measure {measure.name!r}: another measure has {', '.join(clashes)} already; choose new names"
        )
    MEASURES[measure.name] = measure


def figures() -> list[tuple[int, Measure, Figure]]:
    """Every figure with its number and the measure that it belongs to."""
    pairs = [(measure, figure) for measure in MEASURES.values() for figure in measure.figures]
    return [(number, measure, figure) for number, (measure, figure) in enumerate(pairs, start=1)]


for _file in _FILES:
    register(_file.MEASURE)
