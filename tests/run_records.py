"""Helpers of the resume tests: what a run left behind, and a command that is killed in the middle."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
CLOCK = ("Timing/", "Resources/")  # statistics that differ from run to run


def state_of(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of the training state of a run."""
    with safe_open(str(folder / "state.safetensors"), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def contents_of(folder: Path) -> dict[str, bytes]:
    """Every file of a run folder but the lock, which names the last process that was there."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "run.lock"}


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """stats.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(CLOCK) and k != "timestamp"} for line in lines]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "trajectories.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: every tensor of the state, the counters, every statistic."""
    (tensors, metadata), (wanted, wanted_metadata) = state_of(one), state_of(other)
    assert metadata == wanted_metadata
    assert tensors.keys() == wanted.keys()
    different = [key for key, value in tensors.items() if not torch.equal(value, wanted[key])]
    assert not different
    assert lines_of(one) == lines_of(other)


def start(program: list[str], overrides: list[str], *, path: Path = ROOT) -> subprocess.Popen[str]:
    """A command of this repository in its own process, with one thread; `path` goes before the installed modules."""
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *program, *overrides]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill_after_first_tick(process: subprocess.Popen[str], folder: Path, *, timeout: float = 600) -> None:
    """SIGKILL as soon as the state of the first tick after training began is on disk."""
    end = time.monotonic() + timeout
    while time.monotonic() < end and process.poll() is None:
        if (folder / "state.safetensors").exists() and _images_shown(folder) > 0:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output


def _images_shown(folder: Path) -> int:
    with safe_open(str(folder / "state.safetensors"), framework="pt") as file:
        return int(json.loads(file.metadata()["counters"])["num_images"])
