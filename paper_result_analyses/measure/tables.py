"""Tables on disk: a CSV for the numbers and a small JSON of the same name that says where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from eg3d.file_hash import sha256_of
from eg3d.run_folder import code_version, command_line
from eg3d.safe_write import atomic_path, write_json


def write_table(
    path: str | Path,
    table: pd.DataFrame,
    *,
    columns: Mapping[str, str],
    inputs: Mapping[str, str | Path],
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write `table` as CSV at `path`, and beside it PATH.json with command, code version, inputs and meanings.

    columns: every column with its meaning and unit, in file order. inputs: files behind the numbers, by what they
    are; their names (not folders) and SHA-256 are written. settings: plain data. Raises ValueError if table and
    `columns` disagree.
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
        "command": command_line(),
        "code_version": code_version(),
        "inputs": {name: {"file": Path(file).name, "sha256": sha256_of(file)} for name, file in inputs.items()},
        "settings": dict(settings or {}),
        "columns": dict(columns),
    }
    write_json(path.with_suffix(".json"), sidecar)
    return path


def read_table(path: str | Path, *, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The table at `path`. Raises FileNotFoundError, or ValueError when it lacks a column of `columns`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}; run its measure step: python -m paper_result_analyses.pipeline")
    table = pd.read_csv(path)
    missing = [name for name in columns or {} if name not in table.columns]
    if missing:
        raise ValueError(f"{path}: lacks the columns {', '.join(missing)}; it has {', '.join(table.columns)}")
    return table


def read_sidecar(path: str | Path) -> dict[str, Any]:
    """What the JSON beside a table says; empty when there is none."""
    path = Path(path).with_suffix(".json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
