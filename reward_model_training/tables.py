"""A table as a file: a CSV for the numbers, and a small JSON of the same name that says where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eg3d.file_hash import sha256_of, sha256_of_file_or_folder
from eg3d.run_folder import code_version, command_line
from eg3d.safe_write import atomic_path, write_json

if TYPE_CHECKING:
    import pandas as pd


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
