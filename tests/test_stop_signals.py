"""Signals: raised at once, or held back until the work can stop; a code of its own for each."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from eg3d.stop_signals import HeldStops, Stopped, raised_stops


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [(signal.SIGINT, 130, "stopped by the keyboard"), (signal.SIGTERM, 143, "stopped by SIGTERM")],
)
def test_a_signal_is_raised_at_once(number: signal.Signals, code: int, text: str) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=text) as stop, raised_stops():
        os.kill(os.getpid(), number)
    assert stop.value.exit_code == code
    assert not isinstance(stop.value, Exception)  # no `except Exception` of a library takes it for a fault
    assert signal.getsignal(number) is before


def test_held_stops_wait_until_they_are_asked_for() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with HeldStops() as stops:
        stops.raise_if_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops.is_asked
        with pytest.raises(Stopped) as stop:
            stops.raise_if_asked()
        assert stop.value.exit_code == 143
        with pytest.raises(Stopped):  # the second one does not wait
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_handlers_of_a_library_are_replaced_by_installing_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with HeldStops() as stops:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stops.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops.is_asked
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_go_on_without() -> None:
    done = []

    def work() -> None:
        with raised_stops(), HeldStops() as stops:
            done.append(stops.is_asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [False]
