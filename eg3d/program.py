"""What the running command is called: `python -m eg3d.train`, or `sculpt pretrain`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

SCULPT = "sculpt"
_called: list[str] = []  # what sculpt was told to run


@contextmanager
def called(name: str) -> Iterator[None]:
    """Within the block the command has this name."""
    _called.append(name)
    try:
        yield
    finally:
        _called.pop()


def called_name() -> str | None:
    """What `sculpt` was told to run, as the user typed it; None where another command runs."""
    return _called[-1] if _called else None


def program_name(module: str = "__main__") -> str:
    """What a user types before the arguments. module: the one whose `main` it is."""
    if _called:
        return _called[-1]
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is None:
            return f"python {sys.argv[0]}"
        module = spec.name
    return f"python -m {module.removesuffix('.__main__')}"
