"""What a file is, whatever it is called and wherever it lies: its SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_file_or_folder(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, or that of `sha256_of_folder`: a data set may be either."""
    return sha256_of_folder(path) if os.path.isdir(path) else sha256_of(path)


def sha256_of_files(files: Mapping[str, Path]) -> str:
    """One SHA-256 over the names and the contents of several files, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{sha256_of(files[name])} {name}\n".encode())
    return digest.hexdigest()


def sha256_of_folder(folder: str | os.PathLike[str]) -> str:
    """One SHA-256 over all files below a folder, by their names in it and their contents; hidden ones do not count."""
    found = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    visible = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    return sha256_of_files({path.as_posix(): Path(folder) / path for path in visible})
