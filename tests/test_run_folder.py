"""The same run, or not: what is compared, what may change, when it is recorded, and who may work in a folder."""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from run_records import ROOT, contents_of

from eg3d import code_hash, folder_lock, run_folder
from eg3d.code_hash import code_sha256
from eg3d.folder_lock import FolderLock
from eg3d.run_folder import RunFolder, has_record


@dataclass
class _Optimiser:
    lr: float = 1e-8
    betas: list[float] = field(default_factory=lambda: [0.0, 0.99])


@dataclass
class _Config:
    out: str = "run"
    data: str = ""
    length: float = 1.0
    name: str | None = None
    optimiser: _Optimiser = field(default_factory=_Optimiser)
    tables: dict[str, Any] = field(default_factory=dict)
    accept_code_change: bool = False


@dataclass
class _Unforgiving:
    size: int = 1


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data.zip").write_bytes(b"images")
    return tmp_path / "data.zip"


@pytest.fixture
def config(tmp_path: Path, data: Path) -> _Config:
    return _Config(out=str(tmp_path / "run"), data=str(data))


def _claim(cfg: _Config, **more: Any) -> RunFolder:
    return RunFolder.claim(
        cfg.out, cfg, seed=3, inputs={"data": Path(cfg.data)}, free=("out", "length", "tables.shown"), **more
    )


def _refusal(cfg: _Config, **more: Any) -> str:
    """The error of a claim that leaves the folder as it was."""
    before = contents_of(Path(cfg.out))
    with pytest.raises(ValueError) as error:
        _claim(cfg, **more)
    assert contents_of(Path(cfg.out)) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def _record(cfg: _Config) -> dict[str, Any]:
    return json.loads((Path(cfg.out) / "run.json").read_text())


def test_a_new_run_is_recorded_whole(config: _Config) -> None:
    assert not has_record(Path(config.out).parent)
    with _claim(config, facts={"camera": "own"}) as run:
        assert (run.is_new, run.path) == (True, Path(config.out))
    record = _record(config)
    assert (record["seed"], record["config"], record["facts"]) == (3, "_Config", {"camera": "own"})
    assert record["inputs"] == {"data": {"name": "data.zip", "sha256": hashlib.sha256(b"images").hexdigest()}}
    assert {"command", "code", "python", "torch"} <= record.keys()
    assert [set(session) for session in record["sessions"]] == [{"time", "command", "code", "code_sha256"}]
    saved = OmegaConf.load(Path(config.out) / "config.yaml")
    assert OmegaConf.to_container(saved) == OmegaConf.to_container(OmegaConf.structured(config))


def test_the_same_run_goes_on_and_counts_its_sessions(config: _Config) -> None:
    _claim(config).release()
    first = _record(config)
    longer = replace(config, length=2.5)
    with _claim(longer) as run:
        assert not run.is_new
    record = _record(config)
    assert {**record, "sessions": None} == {**first, "sessions": None}
    assert record["sessions"][0] == first["sessions"][0]
    assert record["sessions"][1]["changed"] == {"length": [1.0, 2.5]}
    assert OmegaConf.load(Path(config.out) / "config.yaml").length == 2.5


def test_what_a_run_notes_stays_in_its_record(config: _Config) -> None:
    with _claim(config) as run:
        for value in ({"tick": 1}, {"tick": 2}):
            run.note("judge", value)
        with pytest.raises(RuntimeError, match=r"run\.json is gone, or has inputs already"):
            run.note("inputs", {})
    with _claim(config):
        record = _record(config)
    assert record["judge"] == {"tick": 2} and len(record["sessions"]) == 2


def test_every_difference_is_listed_in_one_line(config: _Config, data: Path) -> None:
    _claim(config, facts={"alone": True}).release()
    data.with_name("b.zip").write_bytes(b"others")
    other = replace(
        config,
        data=str(data.with_name("b.zip")),
        name="x",
        optimiser=_Optimiser(0.5, [0.5, 0.99]),
        tables={"a": 1, "shown": 2},
    )
    text = _refusal(other, facts={"alone": False})
    for part in (
        'name: the run has null, now "x"',
        "optimiser.lr: the run has 1e-08, now 0.5",
        "optimiser.betas: the run has [0.0, 0.99], now [0.5, 0.99]",
        "tables.a: the run has no such setting, now 1",
        "alone: the run has true, now false",
        "give what the run has, or give another out",
    ):
        assert part in text
    assert re.search(r"data: the run has data\.zip \(SHA-256 \w{8}\.\.\.\), now b\.zip \(SHA-256 \w{8}\.\.\.\)", text)
    assert "tables.shown" not in text


def test_paths_do_not_count_but_contents_do(config: _Config, tmp_path: Path) -> None:
    _claim(config).release()
    moved = replace(config, out=str(tmp_path / "elsewhere"), data=str(tmp_path / "renamed.zip"))
    Path(config.out).rename(moved.out)
    Path(config.data).rename(moved.data)
    _claim(moved).release()
    assert OmegaConf.load(Path(moved.out) / "config.yaml").data == moved.data
    assert _record(moved)["sessions"][1]["changed"]["data"] == [config.data, moved.data]
    Path(moved.data).write_bytes(b"imaged")
    assert "data: the run has data.zip" in _refusal(moved)


def test_folders_bundles_and_nothing_are_inputs(config: _Config, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "00").mkdir(parents=True)
    (folder / "00" / "a.png").write_bytes(b"a")
    inputs: dict[str, Any] = {"data": folder, "start": None, "reward": [Path(config.data), folder / "00" / "a.png"]}

    def claim() -> bool:
        with RunFolder.claim(config.out, config, seed=0, inputs=inputs) as run:
            return run.is_new

    assert claim()
    (folder / ".hidden").write_bytes(b"of the system")
    assert not claim()
    (folder / "00" / "a.png").rename(folder / "00" / "b.png")
    inputs["reward"][1] = folder / "00" / "b.png"
    with pytest.raises(ValueError, match=r"data: the run has images .*reward: the run has data\.zip, a\.png"):
        claim()
    (folder / "00" / "b.png").rename(folder / "00" / "a.png")
    inputs |= {"reward": [Path(config.data), folder / "00" / "a.png"], "start": Path(config.data)}
    with pytest.raises(ValueError, match=r"start: the run has none, now data\.zip \(SHA"):
        claim()
    with pytest.raises(FileNotFoundError, match=r"data: .*nowhere does not exist"):
        RunFolder.claim(config.out, config, seed=0, inputs={"data": tmp_path / "nowhere"})


def test_a_setting_that_is_newer_than_the_run_had_its_default(config: _Config) -> None:
    _claim(config).release()
    path = Path(config.out) / "config.yaml"
    saved = OmegaConf.load(path)
    del saved["name"]
    saved["older"] = 1
    path.write_text(OmegaConf.to_yaml(saved))
    text = _refusal(config)
    assert "older: the run has 1, now no such setting" in text
    assert "name:" not in text
    assert 'name: the run has null, now "x"' in _refusal(replace(config, name="x"))


def test_another_command_is_refused(config: _Config) -> None:
    _claim(config).release()
    with pytest.raises(ValueError, match=r"holds a run of another command \(.*\); give another out"):
        RunFolder.claim(config.out, _Unforgiving(), seed=0)


@pytest.mark.parametrize(
    ("key", "said"), [("code_sha256", "(SHA-256 a b...), now"), ("command", "another command (a b)")]
)
def test_what_a_damaged_record_says_stays_in_the_line(config: _Config, key: str, said: str) -> None:
    _claim(config).release()
    record = _record(config)
    if key == "command":
        record |= {key: "a\n b", "config": "another"}
    else:
        record["sessions"][-1][key] = "a\n b"
    (Path(config.out) / "run.json").write_text(json.dumps(record))
    assert said in _refusal(config)


def test_without_resume_no_run_may_be_there(config: _Config) -> None:
    _claim(config, resume=False).release()
    assert "holds a run already; give resume=true" in _refusal(config, resume=False)


def test_changed_code_is_refused_until_it_is_accepted(
    config: _Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim(cfg: Any) -> None:
        RunFolder.claim(tmp_path / type(cfg).__name__, cfg, seed=0).release()

    claim(config)
    claim(_Unforgiving())
    kept = {**_record(replace(config, out=str(tmp_path / "_Config")))["sessions"][0]}
    monkeypatch.setattr(run_folder, "code_sha256", lambda modules: "x" * 64)
    with pytest.raises(
        ValueError, match=r"code: the run has .* \(SHA-256 \w{8}\.\.\.\), now .* \(SHA-256 xxxxxxxx"
    ) as error:
        claim(config)
    assert "give accept_code_change=true to go on with other code, or give another out" in str(error.value)
    with pytest.raises(ValueError, match=r"code: .*; give another out") as error:
        claim(_Unforgiving())
    assert "accept" not in str(error.value)
    claim(replace(config, accept_code_change=True))
    claim(config)  # the code of the last session
    sessions = _record(replace(config, out=str(tmp_path / "_Config")))["sessions"]
    assert sessions[0] == kept
    assert [session["code_sha256"][0] == "x" for session in sessions] == [False, True, True]
    assert sessions[1]["changed"] == {"accept_code_change": [False, True]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", ""),
        ("run.json", "{"),
        ("run.json", "[]"),
        ("run.json", '{"seed": 0, "command": "python -m eg3d.train"}'),  # without hashes
        ("run.json", '{"command": "", "config": "_Config", "inputs": {}, "facts": {}, "sessions": []}'),
        ("run.json", '{"command": "", "config": "_Config", "inputs": {}, "facts": {}, "sessions": [1]}'),
        ("run.json", "[" * 100_000),
        ("config.yaml", "a: ["),
        ("config.yaml", "5"),
        ("config.yaml", "- 1"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(config: _Config, name: str, text: str) -> None:
    _claim(config).release()
    (Path(config.out) / name).write_text(text)
    found = _refusal(config)
    assert f"{name} cannot be compared with this run (" in found
    assert f"give another out, or delete {config.out}" in found


def test_a_kill_between_the_two_files_leaves_no_run(config: _Config) -> None:
    _claim(config).release()
    (Path(config.out) / "run.json").unlink()
    with _claim(replace(config, name="another")) as run:
        assert run.is_new


def test_places_that_cannot_be_run_folders(config: _Config) -> None:
    with pytest.raises(ValueError, match="out: is empty; give a folder"):
        RunFolder.claim("", config, seed=0)
    with pytest.raises(ValueError, match=r"out: .*data\.zip is a file; give a folder"):
        RunFolder.claim(config.data, config, seed=0)


def test_leftovers_of_killed_writers_go_and_nothing_else(config: _Config) -> None:
    folder = Path(config.out)
    folder.mkdir()
    ours = [".state-0123abcd.safetensors", ".run-00000000.json", ".name-89abcdef"]
    others = [
        ".state-0123abc.safetensors",
        ".state.safetensors",
        ".gitignore",
        "state-0123abcd.safetensors",
        ".a-b.txt",
    ]
    for name in (*ours, *others):
        (folder / name).write_bytes(b"x")
    (folder / ".folder-01234567").mkdir()
    _claim(config).release()
    assert {path.name for path in folder.iterdir()} == {
        *others, ".folder-01234567", "config.yaml", "run.json", "run.lock",
    }  # fmt: skip


@pytest.fixture
def stranger(config: _Config) -> Iterator[subprocess.Popen[str]]:
    """Another process that is at work in the run folder."""
    program = f"from eg3d.folder_lock import FolderLock; lock = FolderLock({config.out!r}); print('in'); input()"
    Path(config.out).mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.communicate()


def test_two_processes_in_one_folder(config: _Config, stranger: subprocess.Popen[str]) -> None:
    with pytest.raises(RuntimeError, match=rf"\(pid {stranger.pid} on .*, since .*\) is at work there") as error:
        _claim(config)
    assert "\n" not in str(error.value)
    assert [path.name for path in Path(config.out).iterdir()] == ["run.lock"]
    stranger.kill()
    stranger.wait()
    _claim(config).release()


def test_the_lock_goes_with_its_holder(config: _Config, tmp_path: Path) -> None:
    with _claim(config), pytest.raises(RuntimeError, match="is at work there"):
        _claim(config)
    with pytest.raises(ZeroDivisionError), _claim(config):
        _ = 1 / 0
    with pytest.raises(ValueError, match="seed: "):
        RunFolder.claim(config.out, config, seed=0, facts={"seed": 1})
    _claim(config).release()


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_children_do_not_inherit_the_lock(config: _Config) -> None:
    lock = FolderLock(Path(config.out).parent)
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()
    child = context.Process(target=lambda: (begun.set(), end.wait(60)), daemon=True)
    child.start()
    assert begun.wait(60)
    lock.release()  # as the parent's death would
    FolderLock(Path(config.out).parent).release()
    end.set()
    child.join()


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(file: object, how: int) -> None:
        raise OSError(folder_lock._WITHOUT_LOCKS[0], "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    FolderLock(tmp_path).release()
    assert "no locks on the file system of" in caplog.text


def test_the_hash_of_code_is_that_of_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    (package / "inner").mkdir(parents=True)
    for path, text in (("__init__.py", ""), ("inner/__init__.py", ""), ("inner/a.py", "A = 1\n"), ("k.cpp", "int k;")):
        (package / path).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    def found(*modules: str) -> str:
        code_hash._sha256_of_sources.cache_clear()
        return code_sha256(modules)

    whole = found("some_package.inner.a")
    assert whole == found("some_package") == found("some_package.inner.a", "torch.nn", "json", "no_such_module")
    (package / "README.md").write_text("words")
    (package / "inner" / "a.py").write_bytes(b"A = 1\r\n")
    assert found("some_package") == whole
    (package / "k.cpp").write_text("int l;")
    assert found("some_package") != whole
    assert found("some_package", "eg3d.run_folder") != found("eg3d")


def test_a_function_in_a_folder_that_is_no_package_counts_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`reward._target_=my_rewards.flat.score` beside a run, without an __init__.py."""
    file = tmp_path / "my_rewards" / "flat.py"
    file.parent.mkdir()
    file.write_text("def score(x): return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("my_rewards.flat")
    before = code_sha256(["my_rewards.flat.score"])
    file.write_text("def score(x): return -x\n")
    code_hash._sha256_of_sources.cache_clear()
    assert code_sha256(["my_rewards.flat.score"]) != before
