"""The torture run in small: the same code, a few kills and faults of quick commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = "dataset_tool zip,dataset_tool folder,convert,gen_samples,rank"


def torture(out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.torture.run", "--out", str(out), "--lanes", "1", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_a_few_kills_and_faults(tmp_path: Path) -> None:
    """Nothing lost, nothing unclear, nothing executed, in the table that is printed and in the log."""
    run = torture(tmp_path, "--kills", "5", "--faults", "60", "--fuzz", "0", "--hostile", "3", "--commands", QUICK)
    output, _ = run.communicate(timeout=600)
    assert run.returncode == 0, output
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line for line in lines if line["bad"]] == []
    assert re.search(r"\| \*\*faults\*\* \| \*\*all\*\* \| 60 \| 0 unclear", output), output
    assert re.search(r"\| \*\*hostile\*\* \| \*\*all\*\* \| 18 \| 0 executed", output), output
    assert not (tmp_path / "work").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    arguments = ["--kills", "0", "--faults", "0", "--fuzz", "100", "--hostile", "0"]
    first = torture(tmp_path, *arguments)
    log, end = tmp_path / "log.jsonl", time.monotonic() + 240
    while not (log.exists() and log.read_text().count("\n") > 1) and time.monotonic() < end and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    before = log.read_text()
    second = torture(tmp_path, *arguments)
    output, _ = second.communicate(timeout=600)
    assert second.returncode == 0, output
    assert log.read_text().startswith(before)
    assert len({json.loads(line)["key"] for line in log.read_text().splitlines()}) == log.read_text().count("\n") == 11
