"""One rule for weights that come from a file, whatever its format: known names, sizes, kinds of numbers, all finite.

`check_tensors` before anything is copied into a network or optimiser; `at_most` around the building of a network whose
sizes a file announces.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SHOWN_NAMES = 20  # of one kind of fault
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Shaped(Protocol):
    """What the rule asks of a tensor before it looks at its numbers."""

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def dtype(self) -> torch.dtype: ...


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise ValueError, one line with every fault, unless the state dict `tensors` can take the place of `expected`.

    The names are the same and so are the sizes; where real numbers are expected there are real numbers, of any
    precision, and finite also in the precision expected; where whole numbers or flags are, the same kind. `expected`
    may be without memory (meta). source: what the line begins with, the file and the part of it.
    """
    faults = misfits(tensors, expected)
    if faults:
        raise ValueError(f"{source}: the tensors do not fit the network; {'; '.join(faults)}")
    infinite = not_finite((name, tensor.to(expected[name].dtype)) for name, tensor in tensors.items())
    if infinite:
        raise ValueError(f"{source}: has NaN or infinite numbers in {listed(infinite)}; give a file from before")


def misfits(tensors: Mapping[str, Shaped], expected: Mapping[str, Shaped]) -> list[str]:
    """Names, sizes and kinds of numbers that are not those expected: a phrase for each kind of fault."""
    shared = [(name, tensor, expected[name]) for name, tensor in tensors.items() if name in expected]
    faults = {
        "missing": [name for name in expected if name not in tensors],
        "unknown": [name for name in tensors if name not in expected],
        "mis-shaped": [
            f"{name} {list(tensor.shape)} instead of {list(wanted.shape)}"
            for name, tensor, wanted in shared
            if tuple(tensor.shape) != tuple(wanted.shape)
        ],
        "not of real numbers": [
            f"{name} ({tensor.dtype})"
            for name, tensor, wanted in shared
            if wanted.dtype.is_floating_point and tensor.dtype not in REAL
        ],
        "of another kind of number": [
            f"{name} ({tensor.dtype} instead of {wanted.dtype})"
            for name, tensor, wanted in shared
            if not wanted.dtype.is_floating_point and tensor.dtype != wanted.dtype
        ],
    }
    return [f"{what}: {listed(names)}" for what, names in faults.items() if names]


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of those tensors, of any shape, that hold NaN or infinity."""
    return [name for name, tensor in tensors if not _is_finite(tensor)]


def _is_finite(tensor: Tensor) -> bool:
    # A sum is finite only if all its terms are, and cheaper to take; that of large numbers may overflow.
    return math.isfinite(tensor.sum().item()) or bool(torch.isfinite(tensor).all())


def listed(names: Sequence[str]) -> str:
    """Names of a file for an error line: printable ASCII, and not too many."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(shown_name(name) for name in names[:SHOWN_NAMES]) + more


def shown_name(name: str) -> str:
    """A name as it is if it is short, printable ASCII, else escaped and cut."""
    plain = name if name.isascii() and name.isprintable() else ascii(name)
    return plain if len(plain) <= 200 else f"{plain[:196]}..."


# ---------------------------------------------------------------------------------------------- building


@contextlib.contextmanager
def at_most(numbers: int) -> Iterator[None]:
    """Within this, tensors of at most `numbers` elements together may be made by name (torch.randn, zeros, ...).

    A file cannot hold more numbers than it has: settings that describe a larger network are refused before its memory
    is asked for, with a ValueError of one line.
    """
    with _Counting(numbers):
        yield


class _Counting(TorchFunctionMode):
    """Counts the elements of new tensors, before they are made."""

    _SIZED = frozenset({torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full})

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = limit

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in self._SIZED:
            self.left -= _elements(args, kwargs or {}, is_full=func is torch.full)
            if self.left < 0:
                raise ValueError("its settings describe a larger network than its numbers fill")
        return func(*args, **(kwargs or {}))


def _elements(args: tuple[Any, ...], kwargs: Mapping[str, Any], *, is_full: bool) -> int:
    size = kwargs.get("size", args[0] if is_full or (args and not isinstance(args[0], int)) else args)
    return math.prod(size) if isinstance(size, (tuple, list)) else 1
