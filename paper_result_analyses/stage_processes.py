"""Work that runs at once, each in a process of its own; this one shows what they log and answers signals for them.

A stop, or a fault of one, ends the others as a stop ends a command: they finish their step and save it.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

from eg3d.child_processes import end_with_parent
from eg3d.clean_errors import errors_of_threads
from eg3d.one_line import one_line
from eg3d.stop_signals import SIGNALS, HeldStops, Stopped, raised_stops
from eg3d.threads import limit_threads

POLL_SECONDS = 0.2  # within which a signal is passed on


@dataclass(frozen=True)
class Job:
    """What one process does."""

    name: str  # before every line that it logs
    work: Callable[[], Any]  # pickled, as is what it returns
    threads: int  # of torch


@dataclass(frozen=True)
class _Outcome:
    """How a job ended: with a result, a stop, or an error."""

    result: Any = None
    stop: tuple[int, str] | None = None  # number of the signal, note
    error: BaseException | None = None
    cause: BaseException | None = None  # which pickling takes from an error


def _untold(name: str) -> None:
    """Nobody wants to know."""


def run_at_once(
    jobs: Sequence[Job],
    *,
    ended: Callable[[str, Any], None],
    began: Callable[[str], None] = _untold,
    most: int = 0,
) -> dict[str, Any]:
    """Results of the jobs, by name.

    most: how many run at the same time, the next as soon as one has ended; 0 = all. began, ended: called here with the
    name of each, just before it starts, and with name and result, or error, as soon as that is there.
    Raises the error of the first job that fails, `Stopped` with what all have saved, or RuntimeError when a process is
    killed. No process is left at the end, whatever that is.
    """
    children: list[_Child] = []
    with HeldStops() as stops:
        try:
            failed = _watch(list(jobs), children, stops, most or len(jobs), began, ended)
        finally:
            for child in children:
                child.end()
    stopped = {child.job.name: child.stop for child in children if child.stop is not None}
    if stops.number is not None:
        raise Stopped(stops.number, _notes(stopped))
    if failed is not None and failed.error is not None:
        raise failed.error from failed.cause
    if stopped:
        raise Stopped(next(iter(stopped.values()))[0], _notes(stopped))
    return {child.job.name: child.outcome.result for child in children if child.outcome is not None}


def _watch(
    waiting: list[Job],
    children: list[_Child],
    stops: HeldStops,
    most: int,
    began: Callable[[str], None],
    ended: Callable[[str, Any], None],
) -> _Outcome | None:
    """Start all and follow them to their ends, unless one fails; the outcome of the first that did."""
    failed, is_told = None, False
    while True:
        running = [child for child in children if child.outcome is None]
        must_end = stops.is_asked or failed is not None
        while waiting and len(running) < most and not must_end:
            began(waiting[0].name)
            children.append(_Child(waiting.pop(0)))
            running.append(children[-1])
        if not running:
            return failed
        if must_end and not is_told:
            is_told = True
            for child in running:
                child.stop_with(stops.number or signal.SIGTERM)
        multiprocessing.connection.wait([child.pipe for child in running], timeout=POLL_SECONDS)
        for child in running:
            child.listen()
            outcome = child.outcome
            if outcome is not None and outcome.stop is None:
                ended(child.job.name, outcome.result if outcome.error is None else outcome.error)
                failed = outcome if failed is None and outcome.error is not None else failed


def _notes(stopped: Mapping[str, tuple[int, str]]) -> str:
    return "; ".join(f"{name}: {note}" for name, (_, note) in stopped.items() if note)


class _Child:
    """A process and what it has said."""

    def __init__(self, job: Job) -> None:
        self.job, self.outcome = job, None  # type: Job, _Outcome | None
        context = multiprocessing.get_context("spawn")  # a forked one would lack the threads of its parent's pools
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(job, theirs, logging.getLogger().getEffectiveLevel()))
        with _deaf_to_signals():
            self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    @property
    def stop(self) -> tuple[int, str] | None:
        return None if self.outcome is None else self.outcome.stop

    def listen(self) -> None:
        """Show what it logs, and keep its outcome."""
        try:
            while self.outcome is None and self.pipe.poll():
                said = self.pipe.recv()
                if isinstance(said, _Outcome):
                    self.outcome = said
                else:
                    self._show(said)
        except (EOFError, OSError):
            told = "was killed or did not start (out of memory?); start again with fewer at once"
            self.outcome = _Outcome(error=RuntimeError(f"{self.job.name}: its process {told}"))

    def stop_with(self, number: int) -> None:
        """Have it stop as if it had got this signal."""
        with contextlib.suppress(OSError):  # it has just ended
            self.pipe.send(number)

    def end(self) -> None:
        """End it, if it is not over."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _show(self, record: logging.LogRecord) -> None:
        record.msg = f"{self.job.name}: {record.msg}"
        log = logging.getLogger(record.name)
        if log.isEnabledFor(record.levelno):
            log.handle(record)


@contextlib.contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """Processes that start within the block get neither SIGINT nor SIGTERM: Ctrl-C, and a signal to a whole group,
    would come twice, once by way of the parent, and a second one cuts a step short. Not on Windows."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    multiprocessing.resource_tracker.ensure_running()  # its start lifts the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(job: Job, pipe: multiprocessing.connection.Connection, level: int) -> None:
    """The main function of a process."""
    end_with_parent()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    limit_threads(job.threads)
    root, handler = logging.getLogger(), _Forwarder(pipe)
    root.handlers[:] = [handler]
    root.setLevel(level)
    outcome = _outcome_of(job, pipe)
    with handler.lock or contextlib.nullcontext():  # other threads may log yet
        pipe.send(outcome)


def _outcome_of(job: Job, pipe: multiprocessing.connection.Connection) -> _Outcome:
    try:
        with raised_stops(), errors_of_threads():
            threading.Thread(target=_take_stop, args=(pipe,), name="stop watch", daemon=True).start()
            return _Outcome(job.work())
    except Stopped as stop:
        return _Outcome(stop=(stop.number, stop.note))
    except BaseException as error:
        error.add_note(f"in the process of {job.name}:\n{traceback.format_exc()}".rstrip())
        return _Outcome(error=_sendable(error), cause=error.__cause__ and _sendable(error.__cause__))


def _take_stop(pipe: multiprocessing.connection.Connection) -> None:
    """Have the main thread take the signal that the parent names."""
    import _thread

    with contextlib.suppress(EOFError, OSError):  # end_with_parent answers the end of the parent
        _thread.interrupt_main(pipe.recv())


def _sendable(error: BaseException) -> BaseException:
    """The error itself where a pipe takes it, else its words and notes."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
        return error
    except Exception:  # anything may be wrong with errors of others
        other = RuntimeError(f"{type(error).__name__}: {one_line(error)}")
        other.__notes__ = getattr(error, "__notes__", [])
        return other


class _Forwarder(logging.Handler):
    """Sends records to the parent, as text."""

    def __init__(self, pipe: multiprocessing.connection.Connection) -> None:
        super().__init__()
        self.pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)  # with its trace, if it has one
        plain = logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, text, None, None)
        with contextlib.suppress(OSError):  # the parent has gone
            self.pipe.send(plain)
