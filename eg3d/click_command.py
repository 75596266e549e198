"""Click commands in this project's manners: an error is one line.

Exit codes as in eg3d/entry.py: 0 done, 1 the work failed, 2 the command line is wrong, 130 stopped by the keyboard.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120, "show_default": True}


class OneLineCommand(click.Command):
    """A command whose failures are one line on stderr: `@click.command(cls=OneLineCommand)`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = {**_SETTINGS, **(kwargs.get("context_settings") or {})}
        super().__init__(*args, **kwargs)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Run with `args` (sys.argv without it); returns on success, else raises SystemExit."""
        try:
            return super().main(args, *rest, **{**kwargs, "standalone_mode": False})
        except click.ClickException as error:
            _fail(error.format_message(), 2)
        except (click.Abort, KeyboardInterrupt):
            print("stopped by the keyboard", file=sys.stderr)
            raise SystemExit(130) from None
        except (ValueError, OSError) as error:
            _fail(str(error), 1)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code) from None
