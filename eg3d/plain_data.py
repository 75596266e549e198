"""Data that travels with weights or images stays data.

A config names code by `_target_`: that is code by design, and comes from the user's own command line or config folder.
Files that others hand over have no such keys; a reader that meets one refuses the file.
"""

from __future__ import annotations

from typing import Any

CODE_KEYS = frozenset({"_target_", "_partial_", "_args_", "_recursive_", "_convert_"})


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
