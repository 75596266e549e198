"""The measures there are, in the order of a report, which also numbers the figures.

A new measure is a file beside the others that ends in `MEASURE = Measure(...)`, and a line in MODULES; the settings and
stages of the pipeline, and the report, follow.
"""

from __future__ import annotations

import importlib

from paper_result_analyses.measure.protocol import Figure, Measure

MODULES = (
    "paper_result_analyses.measure.pictures",
    "paper_result_analyses.measure.reward_accuracy",
    "paper_result_analyses.measure.before_after",
    "paper_result_analyses.measure.image_change",
    "paper_result_analyses.measure.twin_geometry",
    "paper_result_analyses.measure.truncation",
    "paper_result_analyses.measure.trajectories",
    "paper_result_analyses.measure.reward_stress",
    "paper_result_analyses.measure.judged",
    "paper_result_analyses.measure.truth",
)
MEASURES: dict[str, Measure] = {}  # by name


def register(measure: Measure) -> None:
    """Add a measure. Raises ValueError where another one has its name, or the name of one of its tables or figures."""
    others = [_names(other) for other in MEASURES.values()]
    clashes = [
        f"{kind} {name!r}"
        for kind, names in _names(measure).items()
        for name in names
        if any(name in other[kind] for other in others)
    ]
    if clashes:
        raise ValueError(
            f"measure {measure.name!r}: another measure has {', '.join(clashes)} already; choose new names"
        )
    MEASURES[measure.name] = measure


def figures() -> list[tuple[int, Measure, Figure]]:
    """Every figure with its number and the measure that it belongs to."""
    pairs = [(measure, figure) for measure in MEASURES.values() for figure in measure.figures]
    return [(number, measure, figure) for number, (measure, figure) in enumerate(pairs, start=1)]


def _names(measure: Measure) -> dict[str, list[str]]:
    """What a measure calls by name, by kind."""
    return {
        "measure": [measure.name],
        "table": [table.name for table in measure.tables],
        "figure": [figure.name for figure in measure.figures],
    }


for _module in MODULES:
    register(importlib.import_module(_module).MEASURE)
