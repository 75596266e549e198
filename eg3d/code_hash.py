"""Which code makes a result: one hash over the sources of the packages that take part, installed or in a checkout.

A git commit would say less: it knows nothing of an installed package, nor what stands behind `-dirty`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".py", ".cpp", ".cu", ".h")
VERSIONED = {*sys.stdlib_module_names, "torch", "numpy"}  # their versions say enough


def code_sha256(modules: Iterable[str]) -> str:
    """SHA-256 over all sources of the top-level packages (or single files) that `modules` belong to.

    A module that has no file or is not there does not count, nor one of VERSIONED. Line ends do not matter. Sources are
    read once a process.
    """
    roots = {root for root in map(_root, modules) if root is not None}
    digest = hashlib.sha256()
    for root in sorted(roots, key=lambda root: root.name):
        digest.update(f"{_sha256_of_sources(root)} {root.name}\n".encode())
    return digest.hexdigest()


@functools.cache
def _sha256_of_sources(root: Path) -> str:
    files = [root] if root.is_file() else [path for path in root.rglob("*") if path.suffix in SUFFIXES]
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(root.parent).as_posix(), path) for path in files):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{hashlib.sha256(content).hexdigest()} {name}\n".encode())
    return digest.hexdigest()


def _root(module: str) -> Path | None:
    """The folder of the outermost package around a module, or the module's own file outside of packages.

    `module` may go on with names within the module: in a folder without `__init__.py` a loaded module has its own file.
    """
    parts = module.split(".")
    if parts[0] in VERSIONED:
        return None
    loaded = (sys.modules.get(".".join(parts[:end])) for end in range(len(parts), 0, -1))
    file = next((found for each in loaded if (found := getattr(each, "__file__", None))), None) or _found(parts[0])
    if file is None:
        return None
    path = Path(file).resolve()
    root = path.parent if path.name == "__init__.py" else path
    while (root.parent / "__init__.py").is_file():
        root = root.parent
    return root


def _found(package: str) -> str | None:
    """The file of a package that is not imported; None where there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None and spec.has_location else None
