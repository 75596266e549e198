"""Tables on disk: a CSV for the numbers and a small JSON of the same name that says where they come from.

They are written by `reward_model_training.tables`, and read here.
What is read is checked: a table that is cut short, altered or lacks a column is an error that names its file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from eg3d.file_hash import sha256_of
from eg3d.one_line import one_line
from paper_result_analyses.measure.protocol import Table

_REMEDY = "delete it, and the pipeline measures it again"


class Tables:
    """Declared tables of a folder, in which also lie the files that tables name.

    `tables[name]` reads and checks one, once; `name in tables` says whether it is there.
    """

    def __init__(self, folder: str | Path, declared: Iterable[Table]) -> None:
        self.folder = Path(folder)
        self._declared = {table.name: table for table in declared}
        self._read: dict[str, pd.DataFrame] = {}

    def __contains__(self, name: str) -> bool:
        return self.path(name).is_file()

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._read:
            table = self._declared[name]
            self._read[name] = read_table(self.path(name), columns=table.columns, text=table.text)
        return self._read[name]

    def path(self, name: str) -> Path:
        """Where a table is."""
        return self.folder / f"{name}.csv"

    def missing(self) -> list[str]:
        """Names of the declared tables that are not there."""
        return [name for name in self._declared if name not in self]


def read_table(
    path: str | Path, *, columns: Mapping[str, str], text: Iterable[str] = (), remedy: str = _REMEDY
) -> pd.DataFrame:
    """The table at `path`. Columns that are not in `text` hold numbers or flags.

    Raises FileNotFoundError, or ValueError (one line that ends in `remedy`) for a table that is damaged, differs from
    what the JSON beside it says was written, or lacks a column of `columns`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}; run its measure step: python -m paper_result_analyses.pipeline")
    written = read_sidecar(path).get("sha256")
    if written is not None and written != sha256_of(path):
        raise ValueError(f"{path}: not the table that was written there (another SHA-256); {remedy}")
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas names no file
        raise ValueError(f"{path}: not a table ({one_line(error)}); {remedy}") from None
    missing = [name for name in columns if name not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns))
        raise ValueError(f"{path}: lacks the columns {', '.join(missing)}; it has {found}; {remedy}")
    numbers = [name for name in columns if name not in set(text)] if len(table) else []
    wrong = [name for name in numbers if not is_numeric_dtype(table[name])]  # flags are
    if wrong:
        raise ValueError(f"{path}: columns {', '.join(wrong)} hold something else than numbers; {remedy}")
    return table


def read_sidecar(path: str | Path) -> dict[str, Any]:
    """What the JSON beside a table says; empty when there is none. Raises ValueError (one line) if it is damaged."""
    path = Path(path).with_suffix(".json")
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); delete it together with its table") from None
    if not _is_description(found):
        raise ValueError(f"{path}: not the description of a table; delete it together with its table")
    return found


def _is_description(found: Any) -> bool:
    """Whether a JSON value says what write_table says of a table, as far as it is read again."""
    inputs = found.get("inputs") if isinstance(found, dict) else None
    if not isinstance(inputs, dict):
        return False
    items = inputs.values()
    return all(
        isinstance(item, dict) and {str} == {type(item.get(key)) for key in ("file", "sha256")} for item in items
    )
