"""Run folders, the one answer to "is this the same run?": claim, compare, record, continue.

A run folder has `config.yaml`, the resolved settings of its run; `run.json`, which names the seed, the command, the
versions, every input with its SHA-256, and every session (one start of the command); and `run.lock`, which one process
holds while it works there. Settings that name inputs are compared by contents: files may move and be renamed.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from eg3d.code_hash import code_sha256
from eg3d.file_hash import sha256_of_file_or_folder, sha256_of_files
from eg3d.folder_lock import FolderLock
from eg3d.installation import checkout, version
from eg3d.one_line import one_line
from eg3d.program import program_name
from eg3d.safe_write import remove_leftovers, write_json, write_text

log = logging.getLogger(__name__)
CONFIG_NAME, RECORD_NAME = "config.yaml", "run.json"
ACCEPT_CODE = "accept_code_change"  # the field of a config that lets its run go on under changed code
LIBRARIES = ("torch", "numpy", "hydra-core", "pytorch-lightning", "scikit-image")
Inputs = Mapping[str, "str | Path | Sequence[Path] | None"]
_KEYS = {"command": str, "config": str, "inputs": dict, "facts": dict, "sessions": list}  # that a comparison needs
_CODE_KEYS, _INPUT_KEYS = ("code", "code_sha256"), ("name", "sha256")
_ABSENT = "no such setting"


@dataclass(frozen=True)
class RunFolder:
    """A claimed folder: nobody else works in it until `release()`, or the end of a with block.

    is_new: nothing was recorded there; else the run there has the same settings, inputs and code, and goes on.
    """

    path: Path
    is_new: bool
    _lock: FolderLock

    @classmethod
    def claim(
        cls,
        path: str | Path,
        cfg: Any,
        *,
        seed: int,
        inputs: Inputs | None = None,
        facts: Mapping[str, Any] | None = None,
        free: Iterable[str] = (),
        code: Iterable[str] = (),
        resume: bool = True,
    ) -> RunFolder:
        """Lock `path` (made if missing), compare `cfg` with the run that it holds, then record this session.

        cfg is a config dataclass. `inputs` has what lies behind settings, by their dotted names ("data.rankings"): a
        file, a folder, several files that belong together, or None. `facts` is plain data that decides the result
        besides, by what it is called to the user; `code` are modules whose packages do, besides this one and that of
        `cfg`. `free` are dotted names of settings that may change, with all below them. Without `resume` no run may be
        there.

        Raises RuntimeError when another process works in the folder, and ValueError with all differences in one line
        when it holds another run, whose record is then as it was.
        """
        folder = _made(path)
        lock = FolderLock(folder)
        try:
            remove_leftovers(folder)
            then = RunRecord.read(folder)
            if then is not None and not resume:
                raise ValueError(f"out: {folder} holds a run already; give resume=true, another out, or delete it")
            now = RunRecord.of(cfg, seed=seed, inputs=inputs or {}, facts=facts or {}, code=code)
            if then is not None:
                then.check(now, folder, cfg, free=tuple(free))
                now = then.continued(now)
            now.write(folder)
        except BaseException:
            lock.release()
            raise
        return cls(folder, then is None, lock)

    def note(self, name: str, value: Any) -> None:
        """Write plain data about the run into run.json under a name of its own; what is there under it goes."""
        record = RunRecord.read(self.path)
        if record is None or name in {*_KEYS, "seed"}:
            raise RuntimeError(f"{self.path / RECORD_NAME} is gone, or has {name} already: nothing more is noted there")
        write_json(self.path / RECORD_NAME, record.run | {name: value})

    def release(self) -> None:
        """Let other processes in."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True)
class RunRecord:
    """What `config.yaml` and `run.json` say of a run."""

    settings: dict[str, Any]  # nested, as in config.yaml
    run: dict[str, Any]  # run.json: seed, command, versions, config (its class), inputs, facts, sessions

    @classmethod
    def of(cls, cfg: Any, *, seed: int, inputs: Inputs, facts: Mapping[str, Any], code: Iterable[str]) -> RunRecord:
        """The record of a run that begins now."""
        session = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": command_line(),
            "code": code_version(),
            "code_sha256": code_sha256({__name__, type(cfg).__module__, *code}),
        }
        run = {
            "seed": seed,
            "command": session["command"],
            **versions(),
            "config": type(cfg).__name__,
            "inputs": {name: _described(name, files) for name, files in inputs.items()},
            "facts": dict(facts),
            "sessions": [session],
        }
        return cls(_settings_of(OmegaConf.structured(cfg)), run)

    @classmethod
    def read(cls, folder: Path) -> RunRecord | None:
        """The record in a folder, or None. Raises ValueError in one line when it cannot be read."""
        if not has_record(folder):
            return None
        path = folder / RECORD_NAME
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            if not (isinstance(run, dict) and all(isinstance(run.get(key), kind) for key, kind in _KEYS.items())):
                raise ValueError(f"it must have {', '.join(_KEYS)}")
            if not (run["sessions"] and all(isinstance(run["sessions"][-1].get(key), str) for key in _CODE_KEYS)):
                raise ValueError("its last session does not say which code it ran")
            if not all(
                files is None or all(isinstance(files.get(key), str) for key in _INPUT_KEYS)
                for files in run["inputs"].values()
            ):
                raise ValueError("it does not say which inputs the run has")
            json.dumps(run, allow_nan=False)  # as it is written again
            path = folder / CONFIG_NAME
            return cls(_settings_of(OmegaConf.load(path)), run)
        except (OSError, ValueError, AttributeError, RecursionError, OmegaConfBaseException, YAMLError) as error:
            reason = one_line(error)[:200]
            raise ValueError(
                f"{path} cannot be compared with this run ({reason}); give another out, or delete {folder}"
            ) from None

    def write(self, folder: Path) -> None:
        """Write both files, the one that `read` looks for last."""
        write_text(folder / CONFIG_NAME, OmegaConf.to_yaml(OmegaConf.create(self.settings)))
        write_json(folder / RECORD_NAME, self.run)

    def check(self, now: RunRecord, folder: Path, cfg: Any, *, free: tuple[str, ...]) -> None:
        """Raise ValueError in one line with everything that differs and may not."""
        if self.run["config"] != now.run["config"]:
            raise ValueError(
                f"out: {folder} holds a run of another command ({one_line(self.run['command'])}); give another out"
            )
        found = self._setting_differences(now, cfg, (*free, ACCEPT_CODE, *now.run["inputs"]))
        found += self._input_differences(now)
        remedies = ["give what the run has"] if found else []
        changed = [] if getattr(cfg, ACCEPT_CODE, False) else self._code_difference(now)
        if changed and hasattr(cfg, ACCEPT_CODE):
            remedies.append(f"give {ACCEPT_CODE}=true to go on with other code")
        if found or changed:
            remedy = ", or ".join([*remedies, "give another out"])
            raise ValueError(f"out: {folder} holds another run: {one_line('; '.join(found + changed))}; {remedy}")

    def continued(self, now: RunRecord) -> RunRecord:
        """This record with the settings and the session of `now`, which passed the check."""
        then, here = _flat(self.settings), _flat(now.settings)
        changed = {name: [then.get(name), value] for name, value in here.items() if then.get(name) != value}
        libraries = {name: now.run[name] for name in LIBRARIES if now.run.get(name) != self.run.get(name)}
        if libraries:
            log.info("this run began with other versions; it goes on with %s", libraries)
        session = now.run["sessions"][0] | {"changed": changed, "versions": libraries}
        return RunRecord(now.settings, self.run | {"sessions": [*self.run["sessions"], session]})

    def _setting_differences(self, now: RunRecord, cfg: Any, free: tuple[str, ...]) -> list[str]:
        """A setting that came after the record had the effect of its default."""
        then, here = _flat(self.settings) | self.run["facts"], _flat(now.settings) | now.run["facts"]
        defaults = _flat(_settings_of(OmegaConf.structured(type(cfg))))
        found = []
        for name in then | here:
            if any(name == one or name.startswith(f"{one}.") for one in free):
                continue
            values = then.get(name, defaults.get(name, _ABSENT)), here.get(name, _ABSENT)
            one, other = (value if value is _ABSENT else json.dumps(value) for value in values)
            if one != other:
                found.append(f"{name}: the run has {one}, now {other}")
        return found

    def _input_differences(self, now: RunRecord) -> list[str]:
        found, here, then = [], now.run["inputs"], self.run["inputs"]
        for name in then | here:
            one, other = then.get(name), here.get(name)
            if (one or {}).get("sha256") != (other or {}).get("sha256"):
                found.append(f"{name}: the run has {_file_text(one)}, now {_file_text(other)}")
        return found

    def _code_difference(self, now: RunRecord) -> list[str]:
        last, this = self.run["sessions"][-1], now.run["sessions"][-1]
        if last["code_sha256"] == this["code_sha256"]:
            return []
        one, other = (f"{x['code']} (SHA-256 {x['code_sha256'][:8]}...)" for x in (last, this))
        return [f"code: the run has {one}, now {other}"]


def _made(path: str | Path) -> Path:
    if not str(path):
        raise ValueError("out: is empty; give a folder")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: {folder} is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _settings_of(node: Any) -> dict[str, Any]:
    settings = OmegaConf.to_container(node)
    if not isinstance(settings, dict):
        raise ValueError("it holds no settings")
    return {str(key): value for key, value in settings.items()}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; lists and empty groups are values."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def _described(name: str, files: str | Path | Sequence[Path] | None) -> dict[str, str] | None:
    """Name and SHA-256 of an input, whatever of its path."""
    if files is None:
        return None
    if not isinstance(files, (str, Path)):
        return {"name": ", ".join(path.name for path in files), "sha256": sha256_of_files({p.name: p for p in files})}
    path = Path(files)
    if not path.exists():
        raise FileNotFoundError(f"{name}: {path} does not exist")
    return {"name": path.name, "sha256": sha256_of_file_or_folder(path)}


def _file_text(described: Mapping[str, str] | None) -> str:
    return f"{described['name']} (SHA-256 {described['sha256'][:8]}...)" if described else "none"


def has_record(folder: Path) -> bool:
    """Whether a run has been recorded in a folder."""
    return (folder / RECORD_NAME).exists()


def versions() -> dict[str, str]:
    """Versions of this code (git commit where there is one), Python and the libraries that decide the numbers."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES if _is_installed(name)}
    return {"code": code_version(), "python": platform.python_version(), **found}


@functools.cache
def code_version() -> str:
    """Short git commit, with `-dirty` after it when tracked files differ; of an installed wheel its version."""
    repository = checkout()
    if repository is None:
        return version()
    command = ["git", "-C", str(repository), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def command_line() -> str:
    """The command as a user would type it from the repository root."""
    name, script = program_name(), sys.argv[0]
    shown = f"python {Path(script).name}" if name == f"python {script}" else name  # no folders of this machine
    return " ".join([shown, *sys.argv[1:]])


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; any other name is taken as torch takes it.

    Raises ValueError for a name that torch does not know or a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: {name!r} is not a device; give auto, cpu, cuda or cuda:N, or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {name!r} was asked for, but this torch sees no CUDA device; give device=cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device: {name!r} was asked for, but this torch sees no Apple GPU; give device=cpu")
    return device


def as_plain(cfg: Any) -> dict[str, Any]:
    """A config dataclass as nested plain data, for JSON metadata."""
    return dataclasses.asdict(cfg)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
