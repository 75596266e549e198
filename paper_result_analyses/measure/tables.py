"""Tables on disk: a CSV for the numbers and a small JSON of the same name that says where they come from.

What is read is checked: a table that is cut short, altered or lacks a column is an error that names its file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from eg3d.file_hash import sha256_of, sha256_of_file_or_folder
from eg3d.one_line import one_line
from eg3d.run_folder import code_version, command_line
from eg3d.safe_write import atomic_path, write_json
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


def write_table(
    path: str | Path,
    table: pd.DataFrame,
    *,
    columns: Mapping[str, str],
    inputs: Mapping[str, str | Path],
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write `table` as CSV at `path`, and beside it PATH.json with command, code version, inputs and meanings.

    columns: every column with its meaning and unit, in file order. inputs: files or data folders behind the numbers, by
    what they are; their names (not paths) and SHA-256 are written. settings: plain data. Raises ValueError if table
    and `columns` disagree.
    """
    path = Path(path)
    if list(table.columns) != list(columns):
        raise ValueError(
            f"{path.name}: expected columns {', '.join(columns)}, found {', '.join(map(str, table.columns))}"
        )
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    sidecar = {
        "table": path.name,
        "rows": len(table),
        "sha256": sha256_of(path),
        "command": command_line(),
        "code_version": code_version(),
        "inputs": {
            name: {"file": Path(path).name, "sha256": sha256_of_file_or_folder(path)} for name, path in inputs.items()
        },
        "settings": dict(settings or {}),
        "columns": dict(columns),
    }
    write_json(path.with_suffix(".json"), sidecar)
    return path


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
