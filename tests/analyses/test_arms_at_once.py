"""Fine-tunings at once, by the command: the same networks as one after the other, one line for a fault or a stop."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from command_line import Run
from run_records import start, state_of

from eg3d.folder_lock import FolderLock
from paper_result_analyses import pipeline
from paper_result_analyses.report import write_report
from paper_result_analyses.stages import read_records
from tests.analyses.tiny_run import SIDE, save_tiny_networks, save_tiny_reward

SHORT = (
    "overlay=smoke reward_term.micro_batch=4 consistency.resolution=8 consistency.grid=exact tracking.num_seeds=3 "
    "loss.blur_init_sigma=0"
)
PROMPT = 300.0  # seconds for the start of the processes


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A pipeline of two short arms and no measure."""
    folder = tmp_path_factory.mktemp("arms")
    return [
        *(f"data={folder}/heads.zip", f"heads='num_images=8 resolution={SIDE} workers=1'", "device=cpu"),
        f"generator={save_tiny_networks(folder / 'tiny.safetensors')}",
        f"reward={save_tiny_reward(folder / 'reward')}",
        *(f"++finetuning.tuned='{SHORT}'", f"++finetuning.control='{SHORT} reward_term.weight=0'", "measures=[]"),
    ]


def test_arms_at_once_are_the_arms_one_after_the_other(words: list[str], run: Run, tmp_path: Path) -> None:
    """Bit for bit, where they have as many threads; and their records say the same but for what they cost."""
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {}
    for number in ("1", "2"):
        done = run(pipeline, *words, f"out={tmp_path / number}", f"arms_at_once={number}")
        assert done.code == 0 and done.err == "", done.err
        lines = done.out.splitlines()
        prefixed = [line.split(":")[0] for line in lines if line.startswith(("tuned: tick", "control: tick"))]
        assert set(prefixed) == (set() if number == "1" else {"tuned", "control"})
        assert sum("done in" in line for line in lines) == 4
        found[number] = read_records(tmp_path / number / "stages")
    for key in ("stage", "position", "state", "fingerprint", "outputs", "sessions", "settings"):
        assert [record[key] for record in found["1"]] == [record[key] for record in found["2"]], key
    assert [record.get("beside") for record in found["2"]] == [None, ["control"], ["tuned"], None]
    assert all("beside" not in record for record in found["1"])
    for folder in ("sfield", "control"):
        (one, metadata), (other, other_metadata) = (state_of(tmp_path / number / folder) for number in ("1", "2"))
        assert metadata == other_metadata and all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    commands = [
        json.loads((tmp_path / "2" / name / "run.json").read_text())["command"] for name in ("sfield", "control")
    ]
    assert all("arms_at_once=2" in command for command in commands)
    assert "(tuned, control at once)" in write_report(tmp_path / "2", title="x").read_text()
    again = run(pipeline, *words, f"out={tmp_path / '2'}", "arms_at_once=2")
    assert again.code == 0 and again.out.count("skipped") == 3


def test_a_fault_of_an_arm_is_one_line(words: list[str], run: Run, tmp_path: Path) -> None:
    """And the other arm goes on later: what it had is kept."""
    (tmp_path / "run" / "control").mkdir(parents=True)
    lock = FolderLock(tmp_path / "run" / "control")
    given = [*words, f"out={tmp_path / 'run'}", "arms_at_once=2"]
    try:
        failed = run(pipeline, *given)
    finally:
        lock.release()
    assert failed.code == 1 and "another process" in failed.the_error()
    assert "control: failed" in failed.out
    assert run(pipeline, *given).code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_saves_all_arms(words: list[str], tmp_path: Path, number: signal.Signals, code: int) -> None:
    longer = [word.replace("overlay=smoke", "overlay=smoke total_kimg=1000") for word in words]
    process = start(["-m", "paper_result_analyses.pipeline"], [*longer, f"out={tmp_path}", "arms_at_once=2"])
    states = [tmp_path / folder / "state.safetensors" for folder in ("sfield", "control")]
    end = time.monotonic() + PROMPT
    while process.poll() is None and time.monotonic() < end and not all(state.exists() for state in states):
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(number)
    output, _ = process.communicate(timeout=PROMPT)
    assert process.returncode == code, output
    said = [line for line in output.splitlines() if line.startswith("stopped by")]
    assert len(said) == 1 and "Traceback" not in output, output
    assert ": tuned: the state after" in said[0] and "; control: the state after" in said[0]
    assert len(children) >= 2 and psutil.wait_procs(children, timeout=PROMPT)[1] == []
