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
from eg3d.checkpoints.store import load_generator, load_discriminator

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

ALLOWED = {"mmap.__new__", "builtins.id"}
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


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All files read in one process of its own: what was said of each, what was seen, and what each had to say."""
    folder, trace = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("trace") / "ran"
    files = hostile_files(trace)
    for name, (data, _) in files.items():
        (folder / f"{name}.pkl").write_bytes(data)
    for protocol in range(6):
        good = official_file(G_ema=generator(), trace=trace, protocol=protocol)
        (folder / f"good {protocol}.pkl").write_bytes(good)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-c", UNDER_A_HOOK, str(folder)],
        capture_output=True, text=True, cwd=folder, env=environment, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    result = json.loads(run.stdout.splitlines()[-1])
    assert not trace.exists()
    return result | {"wanted": {name: wanted for name, (_, wanted) in files.items()}}


NAMES = sorted(hostile_files(Path("/nonexistent")))


def test_there_are_many() -> None:
    assert len(NAMES) >= 25


@pytest.mark.parametrize("name", NAMES)
def test_refused_in_one_line(cases: dict[str, Any], name: str) -> None:
    said = cases["said"][f"{name}.pkl"]
    assert said.startswith("RefusedPickleError: "), said
    assert cases["wanted"][name] in said, said
    assert said.isprintable() and said.isascii()
    assert f"{name}.pkl" in said


def test_good_files_load(cases: dict[str, Any]) -> None:
    assert {cases["said"][f"good {protocol}.pkl"] for protocol in range(6)} == {"loaded"}


def test_nothing_runs_opens_or_is_imported(cases: dict[str, Any]) -> None:
    assert not cases["seen"], cases["seen"]


def test_the_hook_sees_what_it_looks_for(tmp_path: Path) -> None:
    """The same script with a loader that does run files sees them run."""
    trace = tmp_path / "ran"
    (tmp_path / "good 0.pkl").write_bytes(b"N.")
    (tmp_path / "bad.pkl").write_bytes(hostile_files(trace)["eval"][0])
    careless = UNDER_A_HOOK.replace(
        "from eg3d.checkpoints.store import load_generator, load_discriminator",
        "import pickle\nload_generator = lambda path: pickle.loads(path.read_bytes())",
    )
    run = subprocess.run([sys.executable, "-c", careless, str(tmp_path)], capture_output=True, text=True, timeout=300)
    seen = json.loads(run.stdout.splitlines()[-1])["seen"]
    assert {"exec", "compile", "pickle.find_class"} <= {event for name, event, _ in seen if name == "bad.pkl"}
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
