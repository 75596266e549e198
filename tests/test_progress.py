"""Progress bars: plain lines by the clock, silence where work is short, one callback for all."""

from __future__ import annotations

import inspect
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eg3d.progress import LINE_SECONDS, PlainLines, ignore, no_bar, progress_bar

ROOT = Path(__file__).resolve().parents[1]


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def shown(total: int, reports: list[tuple[float, int]]) -> list[str]:
    """Lines printed for reports of (seconds since the start, steps)."""
    clock, stream = Clock(), io.StringIO()
    lines = PlainLines("shapes", total, clock=clock, stream=stream)
    for seconds, count in reports:
        clock.now = 1000.0 + seconds
        lines.advance(count)
    return stream.getvalue().splitlines()


def test_a_line_comes_every_half_minute_at_most() -> None:
    found = shown(1000, [(second, 1) for second in range(1, 1001)])
    assert LINE_SECONDS == 30 and len(found) == 1000 // 30
    assert found[0] == "shapes: 3 %, 30 of 1000, 16m 10s left"
    assert found[-1] == "shapes: 99 %, 990 of 1000, 10s left"


def test_rare_reports_each_give_a_line() -> None:
    assert shown(4, [(100, 1), (200, 1), (300, 2)]) == [
        "shapes: 25 %, 1 of 4",  # nothing yet to measure a speed by
        "shapes: 50 %, 2 of 4, 3m 20s left",
        "shapes: 100 %, 4 of 4, 0s left",
    ]


def test_short_work_prints_nothing() -> None:
    assert shown(1000, [(0.02 * step, 1) for step in range(1000)]) == []


def test_what_an_earlier_run_did_does_not_count_as_speed() -> None:
    assert shown(100, [(0, 60), *((10.0 * step, 1) for step in range(1, 4))]) == [
        "shapes: 63 %, 63 of 100, 6m 10s left"
    ]


def test_reports_of_nothing_are_no_start() -> None:
    assert shown(100, [(0, 0), (20, 10), (50, 10)]) == ["shapes: 20 %, 20 of 100, 4m 00s left"]
    assert shown(0, [(40, 0)]) == ["shapes: 100 %, 0 of 0"]


def test_a_bar_is_silent_without_a_terminal_where_work_is_short(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("work", 3) as advance:
        advance()
        advance(2)
    assert capfd.readouterr() == ("", "")


def test_a_bar_that_is_off_is_silent_on_a_terminal_and_one_that_is_on_counts() -> None:
    script = (
        "from eg3d.progress import progress_bar\n"
        "for title in ('hidden', 'seen'):\n"
        "    with progress_bar(title, 3, is_shown=title == 'seen') as advance:\n"
        "        advance()\n        advance(2)\n"
    )
    reader, writer = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", script], stderr=writer, stdout=subprocess.PIPE, env=environment)
    text = os.read(reader, 1 << 16).decode()
    os.close(writer)
    os.close(reader)
    assert done.returncode == 0 and done.stdout == b""
    assert "seen" in text and "3/3" in text and "hidden" not in text


def test_nobody_watching_is_one_function() -> None:
    ignore()
    ignore(5)
    with no_bar("title", 3) as advance:
        assert advance is ignore
    sources = [path for package in ("eg3d", "dataset_preprocessing", "reward_model_training", "paper_result_analyses")
               for path in (ROOT / package).rglob("*.py")]  # fmt: skip
    texts = {path: path.read_text(encoding="utf-8") for path in sources}
    assert [path for path, text in texts.items() if "tqdm" in text.lower()] == []
    assert [path for path, text in texts.items() if re.search(r"advance\b.*= lambda", text)] == []


def test_every_callback_takes_a_count_or_nothing() -> None:
    for advance in (ignore, PlainLines("x", 1, stream=io.StringIO()).advance):
        (count,) = inspect.signature(advance).parameters.values()
        assert count.default == 1
