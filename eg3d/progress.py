"""A progress bar for commands, on stderr and only where a person watches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(description: str, total: int, *, is_shown: bool = True) -> Iterator[Callable[..., None]]:
    """Yield `advance(steps=1)`, to call until `total` steps are done; without a terminal it shows nothing."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (is_shown and console.is_terminal),
    ) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps=1: bar.advance(task, steps)


def reaching(advance: Callable[..., None]) -> Callable[[int, int], None]:
    """A callback `(num_done, num_all)` that brings the bar of `advance` to num_done: resumed work begins further on."""
    reached = 0

    def reach(num_done: int, num_all: int) -> None:
        nonlocal reached
        advance(num_done - reached)
        reached = num_done

    return reach


def duration(seconds: float) -> str:
    """Seconds as 1d 02h, 2h 03m, 4m 05s or 6s."""
    seconds = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size}{unit} {seconds % size // part:02d}{smaller}"
    return f"{seconds}s"
