"""Checks that the `validate()` methods of config dataclasses share. A fault is one line that starts with the field."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Sequence
from typing import Any

LARGEST_WHOLE = 2**53  # no count, seed or size comes near it


def faults_of(value: Any, prefix: str = "") -> list[str]:
    """All faults that the validate() methods of a config and of its nested configs report, each with its path.

    Numbers that are not finite, or beyond any count, are faults of every config; validate() is then not asked.
    """
    own = number_faults(value)
    if not own and hasattr(value, "validate"):
        own = value.validate()
    faults = [f"{prefix}{fault}" for fault in own]
    for field in dataclasses.fields(value):
        nested = getattr(value, field.name)
        if dataclasses.is_dataclass(nested) and not isinstance(nested, type):
            faults += faults_of(nested, f"{prefix}{field.name}.")
    return faults


def number_faults(value: Any) -> list[str]:
    """Fields of a config, lists among them, that hold NaN, an infinity or a whole number beyond LARGEST_WHOLE."""
    faults = []
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        for number in given if isinstance(given, (list, tuple)) else [given]:
            if isinstance(number, float) and not math.isfinite(number):
                faults.append(f"{field.name}: {number} is not a finite number")
            elif isinstance(number, int) and abs(number) > LARGEST_WHOLE:
                faults.append(f"{field.name}: {number} is beyond any use")
    return faults


def type_faults(value: Any, prefix: str = "") -> list[str]:
    """All fields of a config, nested ones too, whose value is not of the declared type; for configs read from files."""
    faults = []
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        given, hint = getattr(value, field.name), hints[field.name]
        if not _fits(given, hint):
            name = getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint)
            faults.append(f"{prefix}{field.name}: expected {name}, found {given!r}")
        elif dataclasses.is_dataclass(given):
            faults += type_faults(given, f"{prefix}{field.name}.")
    return faults


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type as a config field declares it; whole numbers are floats, flags are no numbers."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in inner)
    if origin in (list, tuple):
        items = inner[:1] * len(value) if origin is list or inner[1:] == (...,) else inner
        return isinstance(value, origin) and len(items) == len(value) and all(map(_fits, value, items))
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint is Any:
        return True
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


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
