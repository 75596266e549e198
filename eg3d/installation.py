"""How this copy was installed: a checkout of the repository, or a wheel; and where its own files lie.

In a checkout, configs and checkpoints are the folders at its top; a wheel carries the same files inside the package
`sculpting_nerf`. What commands make goes to the working folder in both.
"""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path

PROJECT = "sculpting-nerf-geometry"
_PACKAGES = Path(__file__).resolve().parents[1]  # the folder that eg3d lies in


@functools.cache
def checkout() -> Path | None:
    """The top of the repository, or None of an installed wheel."""
    is_checkout = (_PACKAGES / "pyproject.toml").is_file() and (_PACKAGES / "configs").is_dir()
    return _PACKAGES if is_checkout else None


def own_folder(name: str) -> Path:
    """The folder `configs` or `checkpoints` of this installation."""
    return (checkout() or _PACKAGES / "sculpting_nerf") / name


def version() -> str:
    """The version of the installed distribution; of a checkout that nobody installed, what its folder says."""
    try:
        return importlib.metadata.version(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        import tomllib

        with open(_PACKAGES / "pyproject.toml", "rb") as file:
            return str(tomllib.load(file)["project"]["version"])


def install_hint(extra: str) -> str:
    """The command that adds an extra, as this copy was installed."""
    return f"pip install '{PROJECT}[{extra}]'" if checkout() is None else f"pip install -e '.[{extra}]'"
