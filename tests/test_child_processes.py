"""Worker processes: results in order, and none is left when the parent has gone or wants no more."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from eg3d.child_processes import end_with_parent, in_processes, worker_faults
from eg3d.config_checks import MOST_WORKERS

ROOT = Path(__file__).resolve().parents[1]
PROMPT = 20.0  # seconds within which workers, who would work for 600, follow their parent


def nothing() -> None:
    """No preparation."""


def doubled(number: int) -> int:
    if number == 13:
        os._exit(1)
    if number == 14:
        raise ValueError("14 is refused")
    time.sleep(0.01 * (number % 3))
    return 2 * number


def endless(number: int) -> int:
    time.sleep(600)
    return number


def test_results_come_in_the_order_of_the_items() -> None:
    with in_processes(doubled, range(10), workers=2, prepare=nothing, chunk=3) as results:
        assert list(results) == list(range(0, 20, 2))
    assert multiprocessing.active_children() == []


def test_workers_end_when_no_more_is_wanted() -> None:
    with in_processes(_endless_after_one, range(9), workers=2, prepare=nothing) as results:
        assert next(results) == 0
    assert multiprocessing.active_children() == []


def _endless_after_one(number: int) -> int:
    return endless(number) if number else number


def test_faults_of_the_work_and_dead_workers_reach_the_caller() -> None:
    def results_of(*numbers: int) -> list[int]:
        with in_processes(doubled, numbers, workers=2, prepare=nothing) as results:
            return list(results)

    with pytest.raises(ValueError, match="14 is refused"):
        results_of(1, 14)
    with pytest.raises(RuntimeError, match="fewer workers") as error:
        results_of(1, 13)
    assert type(error.value) is RuntimeError


def test_the_first_process_has_no_parent_to_watch() -> None:
    with pytest.raises(RuntimeError, match="multiprocessing"):
        end_with_parent()


def test_numbers_of_workers() -> None:
    assert worker_faults(1) == worker_faults(MOST_WORKERS) == []
    assert all(worker_faults(number) for number in (0, -1, MOST_WORKERS + 1, 10**20))


PARENT = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from test_child_processes import endless, nothing
from eg3d.child_processes import in_processes

if __name__ == "__main__":
    with in_processes(endless, range(4), workers=2, prepare=print, arguments=("working",)) as results:
        list(results)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_workers_end_with_their_parent(tmp_path: Path, name: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(tests=str(ROOT / "tests"), root=str(ROOT)))
    parent = subprocess.Popen(
        [sys.executable, "-u", str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in range(2)] == ["working\n"] * 2  # both workers watch by now
    workers = psutil.Process(parent.pid).children(recursive=True)
    parent.send_signal(getattr(signal, name))
    parent.wait(60)
    _, left = psutil.wait_procs(workers, timeout=PROMPT)
    for worker in left:
        worker.kill()
    assert left == []
