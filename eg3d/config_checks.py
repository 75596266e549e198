"""Checks that the `validate()` methods of config dataclasses share. A fault is one line that starts with the field.

`faults_of` asks every config for numbers that can only be mistakes (NaN, infinity, 10^20) before its own `validate()`
runs, which may then compute with its fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

MOST_WORKERS = 4096  # processes or threads; beyond any machine
LARGEST_INT = 2**31 - 1
LARGEST_SEED = 2**63 - 1  # fields that are called a seed; each check of its own may allow less
_MAY_BE_INFINITE = frozenset({"clip_low", "clip_high"})  # infinite = no clip on that side
_NEVER_NONE = frozenset({"int", "float", "bool", "str"})  # annotations that leave no room for None


def faults_of(value: Any, prefix: str = "") -> list[str]:
    """All faults of a config and of its nested configs, each with its path: nonsense numbers, or else what the
    validate() methods report."""
    configs = list(configs_in(value, prefix))
    numeric = [f"{path}{fault}" for path, config in configs for fault in numeric_faults(config)]
    if numeric:
        return numeric
    return [f"{path}{fault}" for path, config in configs if hasattr(config, "validate") for fault in config.validate()]


def configs_in(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A config and all nested in it, with the path of each as a prefix."""
    yield prefix, value
    for field in dataclasses.fields(value):
        nested = getattr(value, field.name)
        if dataclasses.is_dataclass(nested) and not isinstance(nested, type):
            yield from configs_in(nested, f"{prefix}{field.name}.")


def numeric_faults(config: Any) -> list[str]:
    """One line for every field of a dataclass whose value no field can mean: NaN, infinity, an integer beyond 32 bits
    (63 for seeds), None where the annotation is a plain number, text or switch. Lists and dicts are looked into."""
    faults = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None:
            kind = str(getattr(field.type, "__name__", field.type))
            faults += [f"{field.name}: null is not a value of type {kind}"] if kind in _NEVER_NONE else []
        named = value.items() if isinstance(value, dict) else [("", value)]
        items = [(key, item) for key, held in named for item in (held if isinstance(held, (list, tuple)) else [held])]
        names = [(f"{field.name}.{key}" if key else field.name, item) for key, item in items]
        faults += [fault for name, item in names if (fault := number_fault(name, item))][:1]
    return faults


def number_fault(name: str, value: Any) -> str:
    """One line when `value` is a number that only a mistake can give, else "". Anything but a number is none."""
    if isinstance(value, float) and not math.isfinite(value):
        is_meant = math.isinf(value) and name in _MAY_BE_INFINITE
        return "" if is_meant else f"{name}: {value} is not a finite number"
    is_seed = "seed" in name and not name.rpartition(".")[2].startswith("num_")
    limit = LARGEST_SEED if is_seed else LARGEST_INT
    if isinstance(value, int) and abs(value) > limit:
        return f"{name}: {_short(value)} is beyond {limit}"
    return ""


def _short(value: int) -> str:
    text = str(value) if abs(value) < 10**4000 else "a number of thousands of digits"
    return text if len(text) <= 40 else f"{text[:20]}... ({len(text)} digits)"


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


def in_range(config: object, low: float, high: float, *names: str) -> list[str]:
    """One line for every named field of `config` that is outside low to high (both included), or NaN."""
    return [
        f"{name}: {getattr(config, name)} must be from {low:g} to {high:g}"
        for name in names
        if not low <= getattr(config, name) <= high
    ]


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
