"""What must be refused is refused in one line, and nothing runs, not even a line of a good file's own source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import generator, hostile_files
from official_pickle import official_file

from eg3d.checkpoints.inert_pickle import RefusedPickleError
from eg3d.checkpoints.store import load_generator

ROOT = Path(__file__).resolve().parents[2]

# Loads every file below a hook that sees each event that Python audits. Whatever a load may do is listed; the rest is
# recorded with the file that was being read.
UNDER_A_HOOK = """
import json, sys
from pathlib import Path
from eg3d.checkpoints.store import load_generator

folder, seen, reading = Path(sys.argv[1]), [], [None]
load_generator(folder / "good 0.pkl")  # imports of our own and of torch that happen on first use are over then

def hook(event, arguments):
    if reading[0] is None:
        return
    if event == "open":
        path, mode = arguments[0], arguments[1] or ""
        if str(path) == str(reading[0]) and set(mode) <= set("rb"):
            return
    elif event in ALLOWED:
        return
    seen.append([reading[0].name, event, ascii(arguments)[:200]])

ALLOWED = {"mmap.__new__", "builtins.id", "sys._getframe"}
sys.addaudithook(hook)
said = {}
for path in sorted(folder.glob("*.pkl")):
    reading[0] = path
    try:
        load_generator(path)
        text = "loaded"
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
    reading[0] = None
    said[path.name] = text
print(json.dumps({"said": said, "seen": seen}))
"""


def read_under_a_hook(folder: Path, files: dict[str, bytes], script: str = UNDER_A_HOOK) -> dict[str, Any]:
    """What was said of each file and what was seen meanwhile, in a process of its own."""
    for name, data in files.items():
        (folder / f"{name}.pkl").write_bytes(data)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True, text=True, cwd=folder, env=environment, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_all_are_refused_in_one_line_and_nothing_runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One test, so that one process reads them all: no code, import, write, socket or process, and the right words."""
    folder, trace = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("trace") / "ran"
    hostile = hostile_files(trace)
    assert len(hostile) >= 25
    good = {f"good {p}": official_file(G_ema=generator(), trace=trace, protocol=p) for p in range(6)}
    result = read_under_a_hook(folder, good | {name: data for name, (data, _) in hostile.items()})
    said = {name.removesuffix(".pkl"): text for name, text in result["said"].items()}
    assert {name: said.pop(name) for name in good} == dict.fromkeys(good, "loaded")
    assert said.keys() == hostile.keys()
    wrong = {name: text for name, text in said.items() if not _is_right(name, text, hostile[name][1])}
    assert not wrong, wrong
    assert not result["seen"], result["seen"]
    assert not trace.exists()


def _is_right(name: str, text: str, wanted: str) -> bool:
    is_one_line = text.startswith("RefusedPickleError: ") and text.isprintable() and text.isascii()
    return is_one_line and wanted in text and f"{name}.pkl" in text


def test_the_hook_sees_what_it_looks_for(tmp_path: Path) -> None:
    """The same script with a loader that does run files sees them run."""
    trace = tmp_path / "ran"
    careless = UNDER_A_HOOK.replace(
        "from eg3d.checkpoints.store import load_generator",
        "import pickle\nload_generator = lambda path: pickle.loads(path.read_bytes())",
    )
    evil = b"cbuiltins\neval\n(S'open(" + repr(str(trace)).replace("'", '"').encode() + b', "w")\'\ntR.'
    seen = read_under_a_hook(tmp_path, {"good 0": b"N.", "bad": evil}, careless)["seen"]
    assert {"exec", "compile", "open", "pickle.find_class"} <= {event for name, event, _ in seen if name == "bad.pkl"}
    assert trace.exists()


def test_the_weights_of_a_good_file_are_those_written(tmp_path: Path) -> None:
    G, path = generator(), tmp_path / "good.pkl"
    path.write_bytes(official_file(G_ema=G))
    loaded = load_generator(path)
    assert loaded.cfg == G.cfg
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), G.state_dict().values(), strict=True))


def test_a_missing_file_is_another_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no network file at"):
        load_generator(tmp_path / "absent.pkl")
    assert issubclass(RefusedPickleError, ValueError)
