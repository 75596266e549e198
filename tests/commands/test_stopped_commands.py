"""Every command answers SIGTERM and SIGINT with one line and a code of its own, and leaves nothing half-written."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from run_records import ROOT, start
from tiny import flat_overrides, tiny_train_config

from reward_model_training.preferences.rankings import Ranking, write_rankings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads from /proc whether a process takes a signal")
CODES = {signal.SIGTERM: (143, "stopped by SIGTERM"), signal.SIGINT: (130, "stopped by the keyboard")}
MARGIN = 0.7  # seconds from the moment that a command takes signals to the signal


def _commands(folder: Path, images: Path, networks: Path) -> dict[str, list[str]]:
    """A long call of every command, by its module."""
    network, out = ["--network", str(networks)], ["--outdir", str(folder / "out")]
    rankings = folder / "rankings.csv"
    write_rankings(rankings, [Ranking(n, (3 * n, 3 * n + 1, 3 * n + 2), "simulated") for n in range(200)])
    slab = [f"data.store_dir={folder / 'store'}", "data.generator=twin"]
    train = flat_overrides(tiny_train_config(folder / "run", images))
    return {
        "eg3d.train": [*train, "total_kimg=1000"],
        "reward_model_training.rank": ["generator=twin", f"out={folder}/ranked/r.csv", "count=4000"],
        "reward_model_training.score": [
            *("reward=twin_reward", "generator=twin", f"out={folder}/s.csv", "num_seeds=2000", "device=cpu"),
        ],
        "reward_model_training.evaluate": [
            *("reward=twin_reward", f"data.rankings={rankings}", f"out={folder}/m.csv", "device=cpu", *slab),
        ],
        "dataset_preprocessing.human_heads": [f"out={folder}/heads.zip", "num_images=2000", "workers=2"],
        "dataset_preprocessing.dataset_tool": [
            *("--source", str(_pictures(folder)), "--dest", f"{folder}/set.zip", "--transform", "center-crop"),
            *("--resolution", "512x512", "--workers", "2"),
        ],
        "eg3d.gen_samples": [*network, *out, "--seeds", "0-900"],
        "eg3d.gen_videos": [*network, *out, "--seeds", "0-9", "--w-frames", "200"],
        "eg3d.calc_metrics": [
            *("--network", "twin", "--data", str(_heads(folder)), "--metrics", "fid50k_full", "--device", "cpu"),
            *("--gpus", "2", "--detector", "random_convolutions", "--cache-dir", f"{folder}/cache"),
        ],
        "eg3d.view": [*network],
        "paper_result_analyses.pipeline": ["pipeline=demo", f"out={folder}/demo", f"data={folder}/demo/heads.zip"],
    }


def _pictures(folder: Path) -> Path:
    import numpy as np
    import PIL.Image

    source = folder / "pictures"
    source.mkdir(exist_ok=True)
    if not any(source.iterdir()):
        pixels = np.random.RandomState(0).randint(0, 256, (1200, 1200, 3), dtype=np.uint8)
        for number in range(200):
            PIL.Image.fromarray(np.roll(pixels, number, 0)).save(source / f"{number:03d}.png", compress_level=1)
    return source


def _heads(folder: Path) -> Path:
    path = folder / "portraits64.zip"
    words = [f"out={path}", "num_images=8", "resolution=64", "workers=1"]
    subprocess.run([sys.executable, "-m", "dataset_preprocessing.human_heads", *words], check=True, cwd=ROOT)
    return path


def _takes_signals(process: subprocess.Popen[str]) -> bool:
    """Whether a process has a handler of its own for SIGTERM."""
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    caught = int(re.search(r"^SigCgt:\s*(\w+)$", text, re.MULTILINE)[1], 16)  # type: ignore[index]
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, toy_images: Path, toy_networks: Path) -> dict[str, list[str]]:
    return _commands(tmp_path_factory.mktemp("stopped"), toy_images, toy_networks)


NAMES = ("eg3d.train", "eg3d.gen_samples", "dataset_preprocessing.dataset_tool", "eg3d.calc_metrics")
SLOW = ("eg3d.gen_videos", "eg3d.view", "dataset_preprocessing.human_heads", "paper_result_analyses.pipeline")
SLOW += ("reward_model_training.rank", "reward_model_training.score", "reward_model_training.evaluate")


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_stopped_command(commands: dict[str, list[str]], tmp_path: Path, name: str, number: signal.Signals) -> None:
    if name in ("eg3d.view", "eg3d.gen_videos"):
        pytest.importorskip("viser" if name == "eg3d.view" else "imageio_ffmpeg")
    process = start(["-m", name], commands[name])
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end and not _takes_signals(process):
        time.sleep(0.05)
    time.sleep(MARGIN)
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    code, said = CODES[number]
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert [line.startswith(said) for line in output.splitlines() if "stopped" in line] == [True], output
    assert psutil.wait_procs(children, timeout=5)[1] == []
    root = next(Path(word) for word in commands["eg3d.gen_samples"] if word.endswith("/out")).parent
    assert [path for path in root.rglob(".*") if path.is_file()] == []
