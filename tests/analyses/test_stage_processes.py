"""Work at once: results, log lines, threads, faults and stops of processes whose parent answers for them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from eg3d.stop_signals import HeldStops, Stopped
from paper_result_analyses.stage_processes import Job, run_at_once
from paper_result_analyses.stages import Stage, StageRunner, read_record

PROMPT = 300.0  # seconds for what takes none, but for the start of a process on a machine that has much to do


def threads_here(folder: Path) -> int:
    """Works until every other one has begun: they are at work at the same time."""
    (folder / str(os.getpid())).touch()
    wait_for(lambda: len(list(folder.iterdir())) == 2)
    logging.getLogger("some.module").info("at %d %%", 50)
    return torch.get_num_threads()


def wait_for(fact: Callable[[], bool]) -> None:
    end = time.monotonic() + PROMPT
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.02)


def failing(kind: str) -> None:
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "clean":
        raise ValueError("batch: is odd")
    if kind == "caused":
        raise KeyError("target") from ValueError("the news")
    raise Odd(1, 2)


class Odd(Exception):
    """One that does not come out of a pipe as it went in."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def steps(begun: Path) -> None:
    """Steps of a training, which a first signal does not cut short."""
    with HeldStops() as stops:
        begun.touch()
        wait_for(lambda: stops.is_asked)
        time.sleep(0.5)  # the rest of the step
        raise Stopped(stops.number or 0, "its state is saved")


def ignored(name: str, found: Any) -> None:
    """Nobody wants to know."""


def test_jobs_run_at_once_with_their_threads_and_log_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    said: dict[str, Any] = {}
    work = partial(threads_here, tmp_path)
    found = run_at_once([Job("one", work, 1), Job("two", work, 2)], ended=said.__setitem__)
    assert found == said == {"one": 1, "two": 2}
    lines = {record.getMessage() for record in caplog.records if record.name == "some.module"}
    assert lines == {"one: at 50 %", "two: at 50 %"}
    assert multiprocessing.active_children() == []


def most_at_once(folder: Path, name: str) -> int:
    """How many of these run while this one does, itself among them."""
    (folder / name).touch()
    time.sleep(0.3)
    found = len(list(folder.iterdir()))
    (folder / name).unlink()
    return found


def test_no_more_jobs_run_than_are_asked_for_and_the_next_begins_where_one_ends(tmp_path: Path) -> None:
    began: list[str] = []
    names = ["one", "two", "three", "four"]
    jobs = [Job(name, partial(most_at_once, tmp_path, name), 1) for name in names]
    found = run_at_once(jobs, ended=lambda name, _: began.append(f"end of {name}"), began=began.append, most=2)
    assert list(found) == names and max(found.values()) <= 2
    assert [name for name in began if not name.startswith("end")] == names and began[:2] == ["one", "two"]
    running = [sum(-1 if name.startswith("end") else 1 for name in began[:end]) for end in range(len(began) + 1)]
    assert max(running) == 2 and running[-1] == 0


def test_a_fault_leaves_what_has_not_begun(tmp_path: Path) -> None:
    began: list[str] = []
    jobs = [Job("bad", partial(failing, "clean"), 1), Job("next", partial(most_at_once, tmp_path, "next"), 1)]
    with pytest.raises(ValueError, match="is odd"):
        run_at_once(jobs, ended=ignored, began=began.append, most=1)
    assert began == ["bad"]


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("clean", ValueError, "batch: is odd"),
        ("caused", KeyError, "target"),
        ("odd", RuntimeError, "Odd: 1 and 2"),
        ("killed", RuntimeError, "^bad: its process was killed or did not start"),
    ],
)
def test_a_fault_of_one_stops_the_others(tmp_path: Path, kind: str, error: type[Exception], said: str) -> None:
    ends: dict[str, Any] = {}
    jobs = [Job("good", partial(steps, tmp_path / "begun"), 1), Job("bad", partial(failing, kind), 1)]
    with pytest.raises(error, match=said) as caught:
        run_at_once(jobs, ended=ends.__setitem__)
    assert list(ends) == ["bad"] and ends["bad"] is caught.value
    assert "\n" not in str(caught.value)
    if kind != "killed":
        assert "in the process of bad:" in caught.value.__notes__[0] and "failing" in caught.value.__notes__[0]
    if kind == "caused":
        assert str(caught.value.__cause__) == "the news"
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_to_all", [False, True], ids=["the parent", "the group"])
def test_a_stop_lets_all_finish_their_step(tmp_path: Path, number: signal.Signals, is_to_all: bool) -> None:
    """Once, whether the signal goes to the parent or, as Ctrl-C does, to every process."""
    begun = [tmp_path / "one", tmp_path / "two"]

    def stop() -> None:
        wait_for(lambda: all(path.exists() for path in begun))
        for child in multiprocessing.active_children() if is_to_all else []:
            os.kill(child.pid or 0, number)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Stopped) as caught:
        run_at_once([Job(path.name, partial(steps, path), 1) for path in begun], ended=ignored)
    thread.join()
    assert caught.value.exit_code == 128 + number
    assert caught.value.note == "one: its state is saved; two: its state is saved"
    assert multiprocessing.active_children() == []


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    def stop() -> None:
        wait_for((tmp_path / "begun").exists)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Stopped, match=r"SIGTERM$"):
        run_at_once([Job("deaf", partial(deaf, tmp_path / "begun"), 1)], ended=ignored)
    thread.join()
    assert multiprocessing.active_children() == []


def deaf(begun: Path) -> None:
    with HeldStops():
        begun.touch()
        time.sleep(PROMPT)


def made(folder: Path, name: str) -> list[Path]:
    (folder / name).write_text(f"{torch.get_num_threads()}")
    return [folder / name]


def stages_in(folder: Path, *names: str) -> list[Stage]:
    return [Stage(name, "by hand", {}, {}, partial(made, folder, name)) for name in names]


@pytest.mark.parametrize(("at_once", "threads"), [(1, "444"), (2, "222"), (3, "111"), (0, "111"), (9, "111")])
def test_stages_at_once_have_the_same_share_of_the_threads(tmp_path: Path, at_once: int, threads: str) -> None:
    """Records are in order, and what is done again alone has the threads that it had."""
    names = ["one", "two", "three"]
    stages = stages_in(tmp_path, *names)
    runner = StageRunner(tmp_path, names)
    runner.threads = 4
    torch.set_num_threads(4)
    assert runner.run_at_once(stages, at_once) == [[tmp_path / name] for name in names]
    assert "".join((tmp_path / name).read_text() for name in names) == threads
    records = [read_record(tmp_path / "stages" / f"{name}.json") for name in names]
    assert [record["position"] for record in records] == [0, 1, 2]
    assert ["two" in record.get("beside", []) for record in records] == [at_once != 1, False, at_once != 1]
    assert all(record["peak_memory_gb"] > 0 and record["outputs"] == [record["stage"]] for record in records)
    (tmp_path / "one").unlink()
    assert runner.run_at_once(stages, at_once)[0] == [tmp_path / "one"]
    assert (tmp_path / "one").read_text() == threads[0]
    assert read_record(tmp_path / "stages" / "one.json").get("beside") is None


def test_more_stages_than_threads_have_one_each(tmp_path: Path) -> None:
    names = ["one", "two", "three", "four"]
    stages, runner = stages_in(tmp_path, *names), StageRunner(tmp_path, names)
    runner.threads = 3
    assert runner.run_at_once(stages) == [[tmp_path / name] for name in names]
    assert [(tmp_path / name).read_text() for name in names] == ["1"] * 4
