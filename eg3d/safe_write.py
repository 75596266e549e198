"""Files appear whole or not at all: write beside the target, fsync, rename."""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eg3d.leftovers import without_leftovers
from eg3d.one_line import one_line

# What a killed writer leaves: ".NAME-" and eight characters, then the suffix of the file it was to become.
_LEFTOVER = re.compile(r"\..+-[a-z0-9_]{8}(\.[^.]*)?")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_BYTES = 4096  # a file system with less than one block left is full, whatever a writer says about its failure
# What errors of writers that are not Python's say: of safetensors, of torch.
_WRITE_FAULTS = ("I/O error", "IoError(", "PytorchStreamWriter", "inline_container")
# Temporary files that are there now, each with the process that writes it: a signal may be raised between any two
# steps, before a block is entered as well, and what it leaves goes when the process ends.
_BEING_WRITTEN: dict[Path, int] = {}


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; move it into place when the block ends without an error.

    The temporary name keeps the suffix of `path`, because writers choose their format by it. Missing folders are
    made, a file that is replaced keeps its rights, and what killed runs left of the same file goes. On an error the
    temporary file is removed and `path` is left as it was. Raises OSError, which names `path`, when the disk is full or
    fails, whatever the writer in the block makes of that.
    """
    target = Path(path)
    with without_leftovers(target, _temporary(target)) as temporary:
        yield temporary


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    with naming_disk_faults(target):
        temporary = _made(target)
    try:
        with naming_disk_faults(target):  # and not around the removal, after which there is room again
            yield temporary
            with open(temporary, "r+b") as file:  # Windows syncs writable handles only
                os.fsync(file.fileno())
            os.chmod(temporary, stat.S_IMODE((target if target.exists() else temporary).stat().st_mode))
            os.replace(temporary, target)
            _sync_folder(target.parent)
    finally:
        _remove(temporary)


def _remove(temporary: Path) -> None:
    temporary.unlink(missing_ok=True)
    _BEING_WRITTEN.pop(temporary, None)


@atexit.register
def _remove_what_a_signal_left() -> None:
    for temporary, process in list(_BEING_WRITTEN.items()):
        if process == os.getpid():  # not in a forked child, which has the list of its parent
            _remove(temporary)


@contextlib.contextmanager
def naming_disk_faults(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any error that a full or failing disk causes inside the block into one OSError that names `path`."""
    try:
        yield
    except Exception as error:
        if _is_full(error, Path(path).parent):
            raise OSError(f"{path}: not written, the disk is full; make room there, or give another folder") from error
        if _is_write_fault(error):
            raise OSError(f"{path}: not written ({one_line(error)[:200]})") from error
        raise


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the temporary files of killed writers in `folder` (not below it), where there is one; returns them.

    Only for a folder in which nobody else writes: hold its lock.
    """
    folder = Path(folder)
    paths = folder.iterdir() if folder.is_dir() else ()
    found = [path for path in paths if _LEFTOVER.fullmatch(path.name) and path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return found


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write `value` as JSON atomically; NaN and infinity are refused with ValueError, since JSON has neither."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def _made(target: Path) -> Path:
    """An empty file beside `target` that nobody else has, with the rights that any new file of this user gets."""
    while True:
        temporary = target.with_name(f".{target.stem}-{secrets.token_hex(4)}{target.suffix}")
        _BEING_WRITTEN[temporary] = os.getpid()
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:  # so it is not ours
            del _BEING_WRITTEN[temporary]
            if not isinstance(error, FileExistsError):
                raise
        else:
            return temporary


def _is_full(error: Exception, folder: Path) -> bool:
    if (isinstance(error, OSError) and error.errno in _FULL) or "No space left on device" in str(error):
        return True
    try:
        return shutil.disk_usage(folder).free < _FULL_BYTES
    except OSError:
        return False


def _is_write_fault(error: Exception) -> bool:
    """Whether a write failed and the error does not say of which file: of Python, of safetensors, of torch."""
    if isinstance(error, OSError):
        return error.errno is not None and error.filename is None
    return any(words in str(error) for words in _WRITE_FAULTS)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; a system that cannot sync folders does without."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
