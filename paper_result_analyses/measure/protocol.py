"""What a measure is: settings, declared inputs, tables with the meaning of every column, figures and findings.

A measure is one file of this folder that ends in `MEASURE = Measure(...)`; the registry lists the files. Its `run` is
slow and reads networks, data and run folders through a Context; figures, findings and sections are fast and read its
tables alone. The pipeline and the report know measures by this protocol only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from paper_result_analyses.measure.context import Context
    from paper_result_analyses.measure.tables import Tables
    from reward_model_training.intervals import Share


class Input(Enum):
    """What a measure may read; when its contents change, the measure is done again."""

    NETWORKS = "networks of all arms, the start among them"
    START = "network before fine-tuning"
    REWARD = "reward bundle"
    DATA = "data set"
    RUNS = "folders of the fine-tuning runs"
    ANNOTATOR = "settings of the simulated annotator"


@dataclass(frozen=True)
class Table:
    """A table `<name>.csv`: its columns in file order, each with meaning and unit.

    All columns are numbers or flags but those in `text`. `file_column` names one whose values are files that belong to
    the table, relative to its folder.
    """

    name: str
    columns: Mapping[str, str]
    text: tuple[str, ...] = ("arm",)
    file_column: str | None = None


@dataclass(frozen=True)
class Figure:
    """A picture of a measure's tables. `draw(tables, PNG to write)` is fast and reads nothing else.

    With `arm`, it is drawn only where the first of `tables` has rows of that arm.
    """

    name: str
    caption: str
    tables: tuple[str, ...]
    draw: Callable[[Tables, Path], Path]
    arm: str | None = None


@dataclass(frozen=True)
class Finding:
    """One line of a report's table of results."""

    what: str
    required: str  # what was asked for, or "for comparison"
    measured: str
    n: str
    is_met: bool | None = None  # None: nothing was asked

    @classmethod
    def of_share(
        cls, what: str, share: Share, *, of: str, required: str = "for comparison", is_met: bool | None = None
    ) -> Finding:
        """The finding of a share with its interval; `of` says what was counted, as "seeds"."""
        measured = f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
        return cls(what, required, measured, f"{share.total} {of}", is_met)


@dataclass(frozen=True)
class Section:
    """A part of a report in words and small tables, each table after the sentence that introduces it."""

    title: str
    parts: Sequence[tuple[str, pd.DataFrame]]


def _none(tables: Tables) -> list[Any]:
    return []


@dataclass(frozen=True)
class Measure:
    """One measure; see the module. `run` returns every table of `tables` by name."""

    name: str  # of its settings in the pipeline's config, and of its stage
    inputs: tuple[Input, ...]
    tables: tuple[Table, ...]
    run: Callable[[Context], Mapping[str, pd.DataFrame]]
    Config: type | None = None  # dataclass of its settings; None: it has none
    figures: tuple[Figure, ...] = ()
    findings: Callable[[Tables], Sequence[Finding]] = _none
    sections: Callable[[Tables], Sequence[Section]] = _none
