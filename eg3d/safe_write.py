"""Files appear whole or not at all: write beside the target, fsync, rename."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What a killed writer leaves: ".NAME-" and eight characters, then the suffix of the file it was to become.
_LEFTOVER = re.compile(r"\..+-[a-z0-9_]{8}(\.[^.]*)?")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; move it into place when the block ends without an error.

    The temporary name keeps the suffix of `path`, because writers choose their format by it. Missing folders are
    made. On an error the temporary file is removed and `path` is left as it was.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the temporary files of killed writers in `folder` (not below it), where there is one; returns them.

    Only for a folder in which nobody else writes.
    """
    folder = Path(folder)
    found = [path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name)] if folder.is_dir() else []
    for path in found:
        path.unlink(missing_ok=True)
    return found


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; a system that cannot sync folders does without."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write `value` as JSON atomically; NaN and infinity are refused with ValueError, since JSON has neither."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")
