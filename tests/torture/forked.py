"""Commands in forked children: the imports are done once, in this process, and a child is what gets killed.

A child counts the *points* where it touches files (opening for writing, fsync, rename, removal, new folders), so that a
kill or a fault can be aimed at the n-th of them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
Hook = Callable[[int, str, str], None]  # (number of the point, what it does, to which path)


@dataclass(frozen=True)
class Outcome:
    """How a child ended. code is negative for a signal, as in subprocess."""

    code: int
    out: str
    err: str
    seconds: float
    is_late: bool = False  # it was killed because it took too long


@dataclass(frozen=True)
class Kill:
    """A signal after so many seconds, or at a point."""

    number: int
    seconds: float


def run_command(
    module: str,
    words: list[str],
    folder: Path,
    *,
    at_point: Hook | None = None,
    kill: Kill | None = None,
    prepare: Callable[[], None] | None = None,
    modules: Path | None = None,
    timeout: float = 300.0,
) -> Outcome:
    """Run the `main` of a module as `python -m module words` would, in `folder`.

    `prepare` is called in the child before it; `modules` gets the names of all modules that are imported at its end.
    """

    def work() -> None:
        os.chdir(folder)
        sys.argv[:] = ["command.py", *words]
        main = importlib.import_module(module).main
        if prepare is not None:
            prepare()
        if at_point is not None:
            watch_files(folder, at_point)
        main()
        if modules is not None:
            modules.write_text("\n".join(sys.modules))

    return in_child(work, kill=kill, timeout=timeout)


def in_child(work: Callable[[], None], *, kill: Kill | None = None, timeout: float = 300.0) -> Outcome:
    """Run a function in a child of its own; the exit code is the one that the interpreter would give."""
    pipes = [os.pipe(), os.pipe()]
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_child(work, pipes)
    for _, end in pipes:
        os.close(end)
    try:
        texts, is_late = _watched(pid, [start for start, _ in pipes], kill, started + timeout)
        _, status = os.waitpid(pid, 0)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        raise
    return Outcome(os.waitstatus_to_exitcode(status), *texts, time.monotonic() - started, is_late)


def _watched(pid: int, ends: list[int], kill: Kill | None, latest: float) -> tuple[list[str], bool]:
    """What the child printed until it closed its ends, and whether it had to be killed; sends `kill` in time."""
    chunks: dict[int, list[bytes]] = {end: [] for end in ends}
    kill_at, is_late = (time.monotonic() + kill.seconds if kill else latest), False
    with selectors.DefaultSelector() as selector:
        for end in ends:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map():
            now = time.monotonic()
            if kill is not None and now >= kill_at:
                os.kill(pid, kill.number)
                kill, kill_at = None, latest
            if now >= latest and not is_late:
                os.killpg(pid, signal.SIGKILL)  # its worker processes too, which hold the pipes open
                is_late = True
            for key, _ in selector.select(max(min(kill_at, latest) - now, 0.0) if not is_late else 1.0):
                data = os.read(key.fd, 65536)
                chunks[key.fd].append(data)
                if not data:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return [b"".join(chunks[end]).decode("utf-8", "replace") for end in ends], is_late


def _be_child(work: Callable[[], None], pipes: list[tuple[int, int]]) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        for (start, end), number in zip(pipes, (1, 2)):
            os.close(start)
            os.dup2(end, number)
            os.close(end)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), line_buffering=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), line_buffering=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def watch_files(folder: Path, at_point: Hook) -> None:
    """Call `at_point` at every point below `folder`, from now to the end of this process; it may raise or kill.

    For a child only: an audit hook cannot be taken away.
    """
    root, count, is_inside = os.path.realpath(folder), [0], [False]

    def point(what: str, path: str) -> None:
        if is_inside[0] or not _lies_in(path, root):
            return
        count[0] += 1
        is_inside[0] = True  # what the hook itself does is no point
        try:
            at_point(count[0], what, path)
        finally:
            is_inside[0] = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _is_write(arguments):
            point("open", _text(arguments[0]))
        elif event in _EVENTS:
            point(event, _text(arguments[1 if event == "os.rename" else 0]))

    sys.addaudithook(hook)
    fsync, replace = os.fsync, os.replace

    def fsync_at_point(handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        path = os.readlink(f"/proc/self/fd/{number}") if os.path.exists("/proc/self/fd") else root
        point("fsync", path)
        fsync(handle)
        point("fsynced", path)

    def replace_and_point(source: Any, target: Any, **rest: Any) -> None:
        replace(source, target, **rest)
        point("renamed", _text(target))

    os.fsync, os.replace = fsync_at_point, replace_and_point  # type: ignore[assignment]


def _is_write(arguments: tuple[Any, ...]) -> bool:
    path, mode, flags = arguments
    if isinstance(path, int):
        return False
    return bool(set(mode or "") & set("wax+")) if mode is not None else bool((flags or 0) & _WRITES)


def _text(path: Any) -> str:
    return os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""


def _lies_in(path: str, root: str) -> bool:
    absolute = os.path.realpath(path) if path else ""
    return absolute.startswith(root + os.sep)


def import_all(modules: list[str]) -> None:
    """Import modules here, so that no child has to; what cannot be imported is left to them."""
    for name in modules:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
