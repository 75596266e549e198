"""Generators by kind: which configuration is whose, so that a file's data finds its network and nothing is imported.

A new generator is a module of this package that calls `register`, and a line in MODULES.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MODULES = ("eg3d.generators.eg3d",)
DEFAULT_KIND = "eg3d"  # of files that say no kind


@dataclass(frozen=True)
class GeneratorKind:
    """One kind of generator."""

    name: str
    Config: type  # dataclass of its sizes and settings, plain data only
    build: Callable[[Any], Any]  # an instance of Config -> Generator and nn.Module, weights as initialised


_kinds: dict[str, GeneratorKind] = {}


def register(kind: GeneratorKind) -> None:
    """Make a kind known; the same name again replaces it."""
    _kinds[kind.name] = kind


def generator_kind(name: str) -> GeneratorKind:
    """The kind of this name. Raises ValueError, naming those that there are."""
    known = _known()
    if name not in known:
        raise ValueError(f"generator kind {name!r} is not one of {', '.join(sorted(known))}")
    return known[name]


def kind_of(config: Any) -> str | None:
    """Name of the kind whose configuration this is; None for configurations of other networks."""
    return next((kind.name for kind in _known().values() if type(config) is kind.Config), None)


def _known() -> dict[str, GeneratorKind]:
    for module in MODULES:
        importlib.import_module(module)
    return _kinds
