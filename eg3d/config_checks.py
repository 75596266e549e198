"""Checks that the `validate()` methods of config dataclasses share. A fault is one line that starts with the field."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from typing import Any


def faults_of(value: Any, prefix: str = "") -> list[str]:
    """All faults that the validate() methods of a config and of its nested configs report, each with its path."""
    faults = [f"{prefix}{fault}" for fault in value.validate()] if hasattr(value, "validate") else []
    for field in dataclasses.fields(value):
        nested = getattr(value, field.name)
        if dataclasses.is_dataclass(nested) and not isinstance(nested, type):
            faults += faults_of(nested, f"{prefix}{field.name}.")
    return faults


def one_of(name: str, value: str, choices: Sequence[str]) -> list[str]:
    """A fault list for a choice field: empty, or one line with the choices and the nearest one."""
    if value in choices:
        return []
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return [f"{name}: {value!r} is not one of {', '.join(choices) or 'none'}{hint}"]


def at_least(config: object, low: float, *names: str) -> list[str]:
    """One line for every named field of `config` that is below `low`, or NaN."""
    return [f"{name}: {getattr(config, name)} is below {low:g}" for name in names if not getattr(config, name) >= low]


def batch_faults(batch: int, micro_batch: int, *, name: str = "micro_batch") -> list[str]:
    """Faults of a batch and its micro-batch, as a list of lines; a micro-batch above the batch is the whole batch."""
    if batch < 1:
        return [f"batch: {batch} is not positive"]
    if micro_batch < 0:
        return [f"{name}: {micro_batch} is negative"]
    if 0 < micro_batch < batch and batch % micro_batch:
        return [f"{name}: {micro_batch} does not divide batch {batch}; give a divisor or 0"]
    return []


def require_one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise a ValueError with the line of `one_of` unless value is one of choices."""
    for fault in one_of(name, value, tuple(choices)):
        raise ValueError(fault)
