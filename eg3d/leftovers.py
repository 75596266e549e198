"""Temporary files and folders that killed runs left beside a target: gone at the next start, but never while their
writer lives. A writer holds a lock on its own; the system drops a lock with the process that held it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: without such locks nothing tells a leftover from a file in use, so all of them stay
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def without_leftovers(target: Path, temporary: contextlib.AbstractContextManager[Path]) -> Iterator[Path]:
    """Remove what killed runs left beside `target`, then enter `temporary`, which makes such a file or folder anew.

    Temporaries are named after their target: a dot, its stem, a dash, eight characters, its suffix. Two runs with the
    same target do not harm each other; the last one to end wins.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as locks, contextlib.ExitStack() as files:  # a lock outlives the move into place
        with _locked(target.parent, wait=True) as is_alone:  # nobody makes one here before it is locked
            if is_alone:
                _remove_leftovers(target)
            made = files.enter_context(temporary)
            locks.enter_context(_locked(made, wait=False))
        yield made


def _remove_leftovers(target: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(target.stem)}-[a-z0-9_]{{8}}{re.escape(target.suffix)}")
    for path in [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]:
        with contextlib.suppress(OSError), _locked(path, wait=False) as is_free:
            if is_free and stat.S_ISDIR(path.lstat().st_mode):
                shutil.rmtree(path)
            elif is_free:
                path.unlink()


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a file or folder inside the block; yields whether it is held."""
    handle = _lock(path, wait=wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)  # and with it goes the lock


def _lock(path: Path, *, wait: bool) -> int | None:
    """A handle that holds the lock; None where there is no such lock: someone else's, a link, no locks on this disk."""
    if fcntl is None:
        return None
    try:
        # A parent folder may be a link; a temporary is none, and a pipe in its place must not make this wait.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if wait else os.O_NOFOLLOW))
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        return None
    return handle
