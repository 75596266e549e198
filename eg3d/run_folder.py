"""Run folders: every run leaves its resolved config, seed and software versions beside its outputs."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from eg3d.safe_write import write_json, write_text

REPOSITORY = Path(__file__).resolve().parents[1]


def write_run_record(folder: str | Path, cfg: Any, *, seed: int) -> None:
    """Write `config.yaml` (resolved) and `run.json` (seed, command, versions) into `folder`, made if missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    write_json(folder / "run.json", {"seed": seed, "command": command_line(), **versions()})


def versions() -> dict[str, str]:
    """Versions of this code (git commit where there is one), Python and the libraries that decide the numbers."""
    names = ("torch", "numpy", "hydra-core", "pytorch-lightning", "scikit-image")
    found = {name: importlib.metadata.version(name) for name in names if _is_installed(name)}
    return {"code": code_version(), "python": platform.python_version(), **found}


def code_version() -> str:
    """Short git commit, with `-dirty` after it when tracked files differ; `unknown` outside a checkout."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def command_line() -> str:
    """The command as a user would type it from the repository root."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    start = f"python -m {spec.name.removesuffix('.__main__')}" if spec else f"python {Path(sys.argv[0]).name}"
    return " ".join([start, *sys.argv[1:]])


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
