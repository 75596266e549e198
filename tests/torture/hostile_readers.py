"""Hostile pickles for every reader and every command that takes a file of weights: nothing in them may run.

Each is read in a child under an audit hook, as a published network, as a training state and as an array, and given to
one command after the other. What would run makes a file; what would import, look up a name or start a process is seen.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
from hostile import hostile_files
from toys import IMAGES, NETWORKS, RANKED, RANKINGS, REWARD, SLAB

FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.startfile", "ctypes.dlopen")
FILE = "hostile.pkl"
_TRAIN = [f"data={IMAGES}", "out=run", "device=cpu", "threads=1", "batch=4", "total_kimg=0.004", "grid=[2,1]"]
_REWARD = ["reward._target_=reward_model_training.bundle.load_reward", f"reward.path={REWARD}"]
# Every command that takes a network file, by what is given to it; FILE stands for the file.
COMMANDS: dict[str, tuple[str, list[str]]] = {
    "convert": ("eg3d.convert", [FILE, "out.safetensors"]),
    "gen_samples": ("eg3d.gen_samples", ["--network", FILE, "--seeds", "0", "--outdir", "out", "--device", "cpu"]),
    "gen_videos": ("eg3d.gen_videos", ["--network", FILE, "--seeds", "0", "--outdir", "out", "--device", "cpu"]),
    "view": ("eg3d.view", ["--network", FILE, "--device", "cpu"]),
    "calc_metrics": (
        "eg3d.calc_metrics", ["--network", FILE, "--data", IMAGES, "--metrics", "fid10_full", "--device", "cpu",
                              "--detector", "random_convolutions", "--no-cache"],
    ),
    "train": ("eg3d.train", [f"start={FILE}", *_TRAIN]),
    "train_rlhf": ("eg3d.train_rlhf", [f"start={FILE}", *_TRAIN, *_REWARD]),
    "rank": ("reward_model_training.rank", [f"generator={FILE}", "out=out/rankings.csv", "count=2"]),
    "score": ("reward_model_training.score", [f"reward={REWARD}", f"generator={FILE}", "num_seeds=1", "device=cpu"]),
    "reward train": (
        "reward_model_training.train", ["out=reward", *(word.replace(NETWORKS, FILE) for word in RANKED), *SLAB,
                                        "data.storage=memory", "device=cpu", "max_epochs=1"],
    ),
    "evaluate": (
        "reward_model_training.evaluate", [f"reward={REWARD}", *(word.replace(NETWORKS, FILE) for word in RANKED),
                                           "data.storage=memory", "device=cpu"],
    ),
    "bundle as weights": ("reward_model_training.score", ["reward=bundle", f"generator={NETWORKS}", "device=cpu"]),
    "rankings": ("reward_model_training.evaluate", [f"reward={REWARD}", *(w.replace(RANKINGS, FILE) for w in RANKED)]),
}  # fmt: skip


def attempts(trace: Path) -> dict[str, bytes]:
    """Every hostile file by name; what runs makes the file `trace`."""
    return {name: data for name, (data, _) in hostile_files(trace).items()}


def try_one(name: str, data: bytes, place: Path, trace: Path, commands: list[str]) -> tuple[int, int, list[str]]:
    """Give one file to all library readers, and to these commands, in `place`, a folder with toys/.

    Returns how many attempts there were, how many ran something, and a line for each that did, or was not refused in
    one line.
    """
    (place / FILE).write_bytes(data)
    bundle = place / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "reward.yaml").write_bytes((place / REWARD / "reward.yaml").read_bytes())
    (bundle / "reward.safetensors").write_bytes(data)
    faults, executed = [], 0
    calls: dict[str, Callable[[], None]] = {reader: _reading(place, reader) for reader in READERS}
    calls |= {command: _calling(place, command) for command in commands}
    for called, work in calls.items():
        done = forked.in_child(_watched(work), timeout=120.0)
        ran = trace.exists() or "FORBIDDEN" in done.err
        trace.unlink(missing_ok=True)
        executed += ran
        lines = done.err.splitlines()
        if ran or done.code == 0 or len(lines) != 1 or not lines[0].startswith("error: "):
            faults.append(f"{name!r} to {called}: {'ran; ' * ran}code {done.code}: {done.err[-300:]!r}")
    return len(calls), executed, faults


def _reading(place: Path, reader: str) -> Callable[[], None]:
    def work() -> None:
        try:
            READERS[reader](place / FILE)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None

    return work


def _calling(place: Path, command: str) -> Callable[[], None]:
    module, words = COMMANDS[command]

    def work() -> None:
        os.chdir(place)
        sys.argv[:] = ["command.py", *words]
        importlib.import_module(module).main()

    return work


def _watched(work: Callable[[], None]) -> Callable[[], None]:
    """The work under a hook that says so on stderr when it looks up a name for a pickle or starts a process."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        is_process = event == "subprocess.Popen" and os.path.basename(str(arguments[0])) != "git"
        if event in FORBIDDEN or is_process:
            os.write(2, f"FORBIDDEN {event} {ascii(arguments)[:200]}\n".encode())

    def watched() -> None:
        sys.addaudithook(hook)
        work()

    return watched


def _network(path: Path) -> None:
    from eg3d.checkpoints.store import load_generator

    load_generator(path)


def _discriminator(path: Path) -> None:
    from eg3d.checkpoints.store import load_discriminator

    load_discriminator(path)


def _state(path: Path) -> None:
    from reward_model_training.lightning_state import read_state

    read_state(path)


def _array(path: Path) -> None:
    from eg3d.array_files import parse_npy

    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    parse_npy(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + path.read_bytes())


READERS: dict[str, Callable[[Path], None]] = {
    "load_generator": _network,
    "load_discriminator": _discriminator,
    "read_state": _state,
    "parse_npy": _array,
}
