"""The table of simulated annotators, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from reward_model_training.preferences.annotators.protocol import Annotator, AnnotatorConfig

MODULES = (
    "reward_model_training.preferences.annotators.likeness",
    "reward_model_training.preferences.annotators.rules",
)

Kind = TypeVar("Kind", bound=type[Annotator])


class AnnotatorEntry(NamedTuple):
    """One annotator of the table."""

    config: type[AnnotatorConfig]
    make: Callable[[Any], Annotator]  # from its config


_entries: dict[str, AnnotatorEntry] = {}


def annotator(config: type[AnnotatorConfig]) -> Callable[[Kind], Kind]:
    """Put an annotator's class into the table, under the name that its config says. ValueError if it is taken."""

    def register(kind: Kind) -> Kind:
        name = config().name
        if name in _entries:
            raise ValueError(f"annotator {name!r} is registered twice")
        _entries[name] = AnnotatorEntry(config, kind)
        return kind

    return register


def annotators() -> dict[str, AnnotatorEntry]:
    """Every annotator by name."""
    for module in MODULES:
        importlib.import_module(module)
    return dict(_entries)


def annotator_from(cfg: AnnotatorConfig) -> Annotator:
    """The annotator that a config belongs to. Raises ValueError for settings that it refuses."""
    return annotators()[cfg.name].make(cfg)
