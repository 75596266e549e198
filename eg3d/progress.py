"""A progress bar for commands, on stderr: a bar where a person watches, else a plain line every half minute."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TextIO

LINE_SECONDS = 30.0  # at least so long between two plain lines


class Advance(Protocol):
    """What long work calls after every `count` steps; the one callback of progress everywhere."""

    def __call__(self, count: int = 1, /) -> None: ...


Bar = Callable[[str, int], AbstractContextManager[Advance]]  # (title, total) -> `with` block that yields an Advance


def ignore(count: int = 1, /) -> None:
    """Where nobody watches."""


def no_bar(title: str, total: int) -> AbstractContextManager[Advance]:
    """The bar of work that nobody watches."""
    return contextlib.nullcontext(ignore)


@contextlib.contextmanager
def progress_bar(title: str, total: int, *, is_shown: bool = True) -> Iterator[Advance]:
    """Yield `advance(count=1)`, to call until `total` steps are done.

    Without a terminal a line with percent and time left appears on stderr, LINE_SECONDS apart at least, so that short
    work prints nothing. Work that continues calls `advance` first with all that was done before.
    """
    if not is_shown:
        yield ignore
    elif not sys.stderr.isatty():
        yield PlainLines(title, total).advance
    else:
        with _terminal_bar(title, total) as advance:
            yield advance


class PlainLines:
    """Progress as lines of text: `shapes judged: 43 %, 258 of 600, 1m 10s left`."""

    def __init__(
        self, title: str, total: int, *, clock: Callable[[], float] = time.monotonic, stream: TextIO | None = None
    ) -> None:
        self.title, self.total, self.clock, self.stream = title, total, clock, stream
        self.done = 0
        self._shown = clock()
        self._first: tuple[float, int] | None = None  # when the first steps were reported, and how many they were

    def advance(self, count: int = 1, /) -> None:
        """Count `count` more steps; print a line if it is time."""
        now = self.clock()
        self.done += count
        # Speed is measured from the first report on: before it lie the loading, and what an earlier run had done.
        if self._first is None and count > 0:
            self._first = now, self.done
        if now - self._shown >= LINE_SECONDS:
            self._shown = now
            print(self._line(now), file=self.stream or sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        percent = 100 * self.done // self.total if self.total else 100
        since, before = self._first or (now, self.done)
        is_timed = self.done > before and now > since
        left = (self.total - self.done) * (now - since) / (self.done - before) if is_timed else 0.0
        return f"{self.title}: {percent} %, {self.done} of {self.total}" + (f", {duration(left)} left" * is_timed)


@contextlib.contextmanager
def _terminal_bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count=1, /: bar.advance(task, count)


def duration(seconds: float) -> str:
    """Seconds as 1d 02h, 2h 03m, 4m 05s or 6s."""
    seconds = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size}{unit} {seconds % size // part:02d}{smaller}"
    return f"{seconds}s"
