"""Errors that a command shows as one line and no trace: those that a user can act on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

CLEAN_ERRORS = (ValueError, OSError, RuntimeError)


def is_clean(error: BaseException) -> bool:
    """Whether a command shows this error as one line; not kinds of RuntimeError of others."""
    return isinstance(error, CLEAN_ERRORS) and (not isinstance(error, RuntimeError) or type(error) is RuntimeError)


@contextlib.contextmanager
def errors_of_threads() -> Iterator[None]:
    """Within the block a thread that fails (one that writes TensorBoard's files, say) prints no trace where one line
    will do; its error is raised at the end, unless the block raises one itself."""
    found: list[BaseException] = []
    before = threading.excepthook

    def note(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None and is_clean(failed.exc_value):
            found.append(failed.exc_value)
        else:
            before(failed)

    threading.excepthook = note
    try:
        yield
    finally:
        threading.excepthook = before
    if found:
        raise found[0]
