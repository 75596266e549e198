"""SIGINT (Ctrl-C) and SIGTERM end a command with one line and an exit code of its own: 130 and 143.

Without more a signal is raised at once, as `Stopped`. Work that must finish its step first holds signals back and asks:

    with HeldStops() as stops:
        for step in steps:
            ...
            if stops.is_asked:
                save_state()
                stops.raise_if_asked()
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """The process was asked to stop; a BaseException, since no part of the work may take it for a fault of its own."""

    def __init__(self, number: int, note: str = "") -> None:
        """`note` says what was saved, for the one line that the command ends with."""
        is_keyboard = number == signal.SIGINT
        text = "stopped by the keyboard" if is_keyboard else f"stopped by {signal.Signals(number).name}"
        super().__init__(f"{text}: {note}" if note else text)
        self.number, self.note, self.exit_code = number, note, 128 + number


@contextlib.contextmanager
def raised_stops() -> Iterator[None]:
    """Within the block SIGTERM and SIGINT raise `Stopped`; the handlers before are put back after it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handlers(stop):
        yield


class HeldStops:
    """Within the block a first signal waits until `raise_if_asked`; a second one is raised at once."""

    def __init__(self) -> None:
        self.number: int | None = None  # of the signal that waits
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> HeldStops:
        self.install()
        return self

    def __exit__(self, *_: Any) -> None:
        self._restore.close()

    def install(self) -> None:
        """Take the signals (again): a library within the block may have put its own handlers over these."""
        self._restore.enter_context(_handlers(self._ask))

    @property
    def is_asked(self) -> bool:
        """Whether a signal waits."""
        return self.number is not None

    def raise_if_asked(self) -> None:
        """Raise `Stopped` if a signal waits."""
        if self.number is not None:
            raise Stopped(self.number)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise Stopped(number)
        self.number = number


@contextlib.contextmanager
def _handlers(handler: Any) -> Iterator[None]:
    """Signal handlers of a block; other threads than the main one cannot have any and go on without."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier if earlier is not None else signal.SIG_DFL)
