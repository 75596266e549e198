"""Errors that a command shows as one line and no trace: those that a user can act on."""

from __future__ import annotations

CLEAN_ERRORS = (ValueError, OSError, RuntimeError)


def is_clean(error: BaseException) -> bool:
    """Whether a command shows this error as one line; not kinds of RuntimeError of others."""
    return isinstance(error, CLEAN_ERRORS) and (not isinstance(error, RuntimeError) or type(error) is RuntimeError)
