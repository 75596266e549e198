"""Worker processes: results in the order of the items, and no worker outlives its parent, whatever ended that."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from eg3d.config_checks import MOST_WORKERS

Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_faults(workers: int, *, name: str = "workers") -> list[str]:
    """Faults of a config's number of workers, as a list of lines."""
    is_fine = 1 <= workers <= MOST_WORKERS
    return [] if is_fine else [f"{name}: must be from 1 to {MOST_WORKERS}, got {workers}"]


@contextlib.contextmanager
def in_processes(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    prepare: Callable[..., None],
    arguments: tuple[Any, ...] = (),
    chunk: int = 1,
) -> Iterator[Iterator[Result]]:
    """A `with` block's results work(item), in the order of the items; the end of the block is the end of the processes.

    Each process first calls prepare(*arguments). `chunk` items travel at once. Raises RuntimeError when a worker dies.
    """
    with worker_pool(workers, prepare=prepare, arguments=arguments) as pool:
        yield pool.map(work, items, chunksize=chunk)


@contextlib.contextmanager
def worker_pool(
    workers: int, *, prepare: Callable[..., None], arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A `with` block's pool of processes, each of which first calls prepare(*arguments); they end with the block.

    Raises RuntimeError when a worker dies.
    """
    earlier = set(multiprocessing.active_children())
    begin = functools.partial(_begin, prepare, *arguments)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=begin)
    try:
        yield pool
    except BrokenProcessPool:
        raise RuntimeError(
            "a worker process was killed or did not start (out of memory?); give fewer workers and start again"
        ) from None
    finally:
        # What workers may still do is of no use: all results are there, or no more are wanted.
        for worker in set(multiprocessing.active_children()) - earlier:
            worker.kill()
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """From now on this process ends at once when the process that started it has ended, by SIGKILL too."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("end_with_parent is for processes that multiprocessing started")

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)  # at once: there is nobody left to tell, and nothing that this process alone has

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def _begin(prepare: Callable[..., None], *arguments: Any) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the parent answers it
    prepare(*arguments)
