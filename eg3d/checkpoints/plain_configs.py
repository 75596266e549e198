"""Config dataclasses from the plain data of a file: nothing is imported or run, and every value has its type.

A class never comes from the data: the caller names the dataclass, and the data fills its fields. So a key such as
`_target_`, by which a config on the command line names code, is an unknown field here like any other.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from eg3d.checkpoints.tensor_rules import listed, shown_name
from eg3d.config_families import is_family, member_class

Config = TypeVar("Config")
LARGEST_INT = 2**63 - 1


class _WrongType(Exception):
    """What is expected in place of a value."""


def config_from_data(cls: type[Config], data: Any, source: str) -> Config:
    """An instance of a config dataclass, nested ones too, from plain data.

    Keys that are absent take their defaults, so that files outlive new fields. Where one of a family of configs is
    expected, the data's `name` says which. Raises ValueError, one line that begins with `source`, for unknown keys, and
    with all of them for values of the wrong type; numbers must be finite.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{source}: expected a table of the settings of {cls.__name__}, found {_shown(data)}")
    if is_family(cls):
        cls = member_class(cls, data, source)  # type: ignore[type-var]
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = [str(key) for key in data if key not in known]
    if unknown:
        there = ", ".join(sorted(known))
        raise ValueError(f"{source}: {cls.__name__} has no field {listed(unknown)}; it has {there}")
    values, faults = {}, []
    for key, value in data.items():
        try:
            values[key] = _converted(hints[key], value, f"{source}, {key}")
        except _WrongType as wrong:
            faults.append(f"{key} must be {wrong}, found {_shown(value)}")
    if faults:
        raise ValueError(f"{source}: {'; '.join(faults)}")
    return cls(**values)


def _converted(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type that `hint` asks for. Raises _WrongType, or ValueError from inside a nested config."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return config_from_data(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, value, where)
    if origin in (list, tuple):
        return _sequence(origin, arguments, value, where)
    if hint is Any:
        return value
    if hint is float:
        return _real(value)
    kind = origin or hint
    if kind is dict and isinstance(value, Mapping):
        return dict(value)
    if type(value) is not kind or (kind is int and abs(value) > LARGEST_INT):
        raise _WrongType(_PHRASES.get(kind, f"a {getattr(kind, '__name__', kind)}"))
    return value


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    wanted = []
    for kind in kinds:
        try:
            return _converted(kind, value, where)
        except _WrongType as wrong:
            wanted.append(str(wrong))
    raise _WrongType(" or ".join(wanted))


def _sequence(kind: type, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    is_open = kind is list or arguments[-1:] == (...,)
    if not isinstance(value, (list, tuple)) or not (is_open or len(value) == len(arguments)):
        raise _WrongType("a list" if is_open else f"a list of {len(arguments)}")
    hints = [arguments[0] if arguments else Any] * len(value) if is_open else arguments
    try:
        return kind(_converted(hint, item, where) for hint, item in zip(hints, value, strict=True))
    except _WrongType as wrong:
        raise _WrongType(f"a list in which each is {wrong}") from None


def _real(value: Any) -> float:
    if (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) <= LARGEST_INT):
        return float(value)
    raise _WrongType("a finite number")


_PHRASES = {
    int: "a whole number", str: "a text", bool: "true or false", dict: "a table", type(None): "null",
}  # fmt: skip


def _shown(value: Any) -> str:
    """A value of the file for an error line, short."""
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        return "one beyond 63 bits"
    if isinstance(value, (str, int, float, bool, type(None))):
        return shown_name(ascii(value))
    return f"a {'table' if isinstance(value, Mapping) else type(value).__name__}"
