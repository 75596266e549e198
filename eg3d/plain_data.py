"""Data that travels with weights or images stays data.

A config names code by `_target_`: that is code by design, and comes from the user's own command line or config folder.
Files that others hand over have no such keys; a reader that meets one refuses the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from eg3d.one_line import one_line

CODE_KEYS = frozenset({"_target_", "_partial_", "_args_", "_recursive_", "_convert_"})


def read_plain_table(path: Path) -> dict[str, Any]:
    """The table in a file of JSON (.json) or YAML. Raises ValueError, one line that begins with `path`, for another."""
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ValueError(f"{path}: not plain {kind} data ({one_line(error)[:200]})") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a table, found {type(data).__name__}")
    return data


def refuse_code(data: Any, source: str) -> None:
    """Raise ValueError, one line that begins with `source`, if any table inside `data` has a key that names code."""
    waiting, seen = [data], set()
    while waiting:
        value = waiting.pop()
        if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
            continue
        seen.add(id(value))  # YAML's aliases may lead back
        found = sorted(CODE_KEYS & value.keys()) if isinstance(value, dict) else []
        if found:
            raise ValueError(
                f"{source}: has the key {found[0]}, which names code; such keys are taken from the command line and "
                "your own config folder only, never from a file that comes with weights or data"
            )
        waiting += value.values() if isinstance(value, dict) else value
