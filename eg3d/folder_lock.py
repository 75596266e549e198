"""A lock on a folder: one process at a time works there, and the system drops the lock when that process ends.

It is an advisory lock on an open file (flock; on Windows one byte of the file, by msvcrt), so that a kill or a power
cut leaves nothing that anybody would have to remove: the file stays, the lock does not.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
import time
from pathlib import Path
from typing import IO, Any

from eg3d.safe_write import naming_disk_faults

log = logging.getLogger(__name__)
LOCK_NAME = "run.lock"
_LOCKED_BYTE = 2**30  # on Windows: far behind the text, since a locked byte cannot be read either
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of some file systems of networks
_held: set[IO[bytes]] = set()


class FolderLock:
    """Held from its making to `release()`, by this process alone: children that it forks let go of it.

    Raises RuntimeError, in one line that says who is at work there, when the folder is locked already.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder) / LOCK_NAME
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115  (being open is what holds the lock)
        if not _is_taken(self._file):
            self._file.close()
            raise RuntimeError(f"{folder}: another process{_holder(path)} is at work there; wait for it to end")
        _held.add(self._file)
        holder = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            with naming_disk_faults(path):
                self._file.truncate(0)
                self._file.write(json.dumps(holder).encode())
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Let others in; a second call does nothing."""
        _held.discard(self._file)
        self._file.close()


def _is_taken(file: IO[bytes]) -> bool:
    """Lock an open file; False when another process has locked it."""
    try:
        import fcntl
    except ImportError:
        return _is_taken_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        log.warning("no locks on the file system of %s: see to it that one process works there", file.name)
    return True


def _is_taken_on_windows(file: IO[bytes]) -> bool:
    import msvcrt

    windows: Any = msvcrt  # its names are known to type checkers on Windows only
    file.seek(_LOCKED_BYTE)
    try:
        windows.locking(file.fileno(), windows.LK_NBLCK, 1)
    except OSError:
        return False
    return True


def _holder(path: Path) -> str:
    """Who holds the lock, as far as its file tells."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f" (pid {holder['pid']} on {holder['host']}, since {holder['since']})"
    return ""


def _let_go() -> None:
    """In a forked child: close the parent's locks, which would else live on in a child that outlives it."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
