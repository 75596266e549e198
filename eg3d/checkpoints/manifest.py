"""The list of networks that the project ships or knows: checkpoints/manifest.json, of a checkout or in a wheel.

{"checkpoints": {"twin": {"file": "twin.safetensors", "sha256": "...", "licence": "...", "source": "where it comes
from", "command": "what made it", "data": "...", "config": "..."}}}; `file` is relative to the manifest. Networks of
others are listed too: their files are never fetched, and a SHA-256 of null says that nobody here has seen the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from eg3d.file_hash import sha256_of
from eg3d.installation import own_folder
from eg3d.plain_data import read_plain_table, refuse_code

MANIFEST = own_folder("checkpoints") / "manifest.json"
_REQUIRED = ("file", "sha256", "licence", "source")


def read_manifest(manifest: str | os.PathLike[str] = MANIFEST) -> dict[str, dict[str, Any]]:
    """Entries by name. Raises FileNotFoundError without the file and ValueError when it is not as described."""
    path = Path(manifest)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint manifest at {path}; this installation is not whole")
    entries = read_plain_table(path).get("checkpoints")
    refuse_code(entries, str(path))
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError(f"{path}: 'checkpoints' must be an object with an object for each name")
    for name, entry in entries.items():
        missing = [key for key in _REQUIRED if key not in entry]
        if missing:
            raise ValueError(f"{path}: checkpoint {name!r} lacks {', '.join(missing)}")
        wrong = [key for key in _REQUIRED if not isinstance(entry[key], str) and (key, entry[key]) != ("sha256", None)]
        if wrong or not entry["file"]:
            raise ValueError(f"{path}: checkpoint {name!r} must have a text as {', '.join(wrong or ['file'])}")
    return entries


def resolve(path_or_name: str | os.PathLike[str], *, manifest: str | os.PathLike[str] = MANIFEST) -> Path:
    """The file of a path or of a name in the manifest; a named file is checked against its SHA-256.

    Raises FileNotFoundError (saying where to get it) or ValueError (contents are not those listed).
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    name = str(path_or_name)
    if path.suffix or len(path.parts) > 1:
        hint = _hint(path.name, Path(manifest))
        raise FileNotFoundError(f"no network file at {path}; {hint}give another path or a name from {manifest}")
    entries = read_manifest(manifest)
    if name not in entries:
        known = ", ".join(sorted(entries)) or "none"
        raise FileNotFoundError(f"checkpoint {name!r} is neither a file nor in {manifest}; known names: {known}")
    return _checked(name, entries[name], Path(manifest).parent)


def _hint(file: str, manifest: Path) -> str:
    """Where to get a file that the manifest knows by its file name."""
    entries = read_manifest(manifest) if manifest.is_file() else {}
    known = [entry for entry in entries.values() if Path(entry["file"]).name == file]
    return f"{_where(known[0], manifest.parent)}; or " if known else ""


def _where(entry: dict[str, Any], folder: Path) -> str:
    made = f", or make it: {entry['command']}" if entry.get("command") else ""
    return f"get it from {entry['source']}{made}, and put it at {folder / entry['file']} (licence: {entry['licence']})"


def _checked(name: str, entry: dict[str, Any], folder: Path) -> Path:
    path = folder / entry["file"]
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {name!r}: {path} is missing; {_where(entry, folder)}")
    if entry["sha256"] is None:
        return path
    found = sha256_of(path)
    if found != entry["sha256"]:
        raise ValueError(
            f"checkpoint {name!r}: {path} has SHA-256 {found[:16]}..., the manifest says {entry['sha256'][:16]}...; "
            f"get it again from {entry['source']}"
        )
    return path
