"""Stages and their records: sessions, damage, what a kill leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eg3d.safe_write import remove_leftovers
from paper_result_analyses.report import write_report
from paper_result_analyses.stages import Stage, StageRunner, read_record, read_records

ROOT = Path(__file__).resolve().parents[2]


def test_a_stopped_stage_adds_up_its_sessions(tmp_path):
    attempts = []

    def work():
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("stopped")
        (tmp_path / "made").write_text("x")
        return [tmp_path / "made"]

    stage = Stage("one", "by hand", {"a": 1}, {}, work, tmp_path / "run")
    (tmp_path / "run").mkdir()
    runner = StageRunner(tmp_path, ["one"])
    with pytest.raises(RuntimeError, match="stopped"):
        runner.run(stage)
    runner.run(stage)
    record = json.loads((tmp_path / "stages" / "one.json").read_text())
    assert record["state"] == "done" and record["sessions"] == 2 and record["peak_memory_gb"] > 0
    assert runner.run(stage) == [tmp_path / "made"] and len(attempts) == 2


def finished(folder: Path) -> Path:
    """The record of a stage that was done in `folder`."""
    (folder / "made").write_text("x")
    StageRunner(folder, ["one"]).run(Stage("one", "by hand", {}, {}, lambda: [folder / "made"]))
    return folder / "stages" / "one.json"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[1, 2]",
        lambda text: "[" * 100_000,
        lambda text: "\xff",
        lambda text: text.replace('"fingerprint"', '"fingerprlnt"'),
        lambda text: text.replace('"sessions": 1', '"sessions": "1"'),
        lambda text: text.replace('"seconds": ', '"seconds": NaN, "was": '),
        lambda text: text.replace('"seconds": ', '"seconds": 1e999, "was": '),
        lambda text: text.replace('"made"', "3"),
    ],
)
def test_a_damaged_record_is_one_line_that_names_it(tmp_path, damage):
    path = finished(tmp_path)
    path.write_text(damage(path.read_text()), encoding="latin-1")
    for read in (lambda: read_record(path), lambda: read_records(path.parent), lambda: finished(tmp_path),
                 lambda: write_report(tmp_path, title="x")):  # fmt: skip
        with pytest.raises(ValueError, match=r"one\.json: damaged record of a stage") as caught:
            read()
        assert "\n" not in str(caught.value)
    path.unlink()
    finished(tmp_path)  # as the line says


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
import pandas as pd
from eg3d.safe_write import write_json
from reward_model_training.tables import write_table

def killed(event, arguments):
    if event == "os.rename":
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(killed)
folder = Path(sys.argv[1])
if sys.argv[2] == "record":
    write_json(folder / "stages" / "report.json", {"stage": "report"})
write_table(folder / "tables" / "toy.csv", pd.DataFrame({"a": [1]}), columns={"a": ""}, inputs={})
"""


@pytest.mark.parametrize("what", ["record", "table"])
def test_what_a_kill_leaves_is_passed_over_and_removed(tmp_path, what):
    """A kill between the making of a temporary file and its rename."""
    path = finished(tmp_path)
    command = [sys.executable, "-c", KILLED_WRITER, str(tmp_path), what]
    assert subprocess.run(command, cwd=ROOT, timeout=120).returncode == -signal.SIGKILL
    folder = tmp_path / ("stages" if what == "record" else "tables")
    (left,) = [file for file in folder.iterdir() if file.name.startswith(".")]
    assert [record["stage"] for record in read_records(path.parent)] == ["one"]
    assert "toy" not in write_report(tmp_path, title="x").read_text()
    remove_leftovers(tmp_path / "tables")
    StageRunner(tmp_path, ["one"])
    assert not left.exists() and path.exists()
