"""Click commands in this project's manners: an error is one line, option names are spelt as EG3D's users spell them.

Exit codes as in eg3d/hydra_command.py: 0 done, 1 the work failed, 2 wrong command line, 130 and 143 stopped by SIGINT
and SIGTERM.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from eg3d.clean_errors import CLEAN_ERRORS, is_clean
from eg3d.config_checks import number_fault
from eg3d.one_line import one_line
from eg3d.program import called_name
from eg3d.seeds import parse_seeds
from eg3d.stop_signals import Stopped, raised_stops

_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 120,
    "show_default": True,
    # --image_mode and --image-mode are one option; the same for values such as image_depth.
    "token_normalize_func": lambda token: token.replace("_", "-"),
}


class OneLineCommand(click.Command):
    """A command whose failures are one line on stderr: `@click.command(cls=OneLineCommand)`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = {**_SETTINGS, **(kwargs.get("context_settings") or {})}
        super().__init__(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; NaN, infinity and 10^20 fit no option, whatever its range."""
        rest = super().parse_args(ctx, [with_home(argument) for argument in args])
        names = {param.name: param.opts[0] for param in self.params}
        for name, value in ctx.params.items():
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if fault := number_fault(names.get(name, name), number):
                    raise click.UsageError(fault, ctx)
        return rest

    def main(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Run with `args` (sys.argv without it); returns on success, else raises SystemExit."""
        try:
            with raised_stops():
                name = {} if called_name() is None else {"prog_name": called_name()}
                return super().main(args, *rest, **{**name, **kwargs, "standalone_mode": False})
        except Stopped as stop:
            print(stop, file=sys.stderr)
            raise SystemExit(stop.exit_code) from None
        except (click.Abort, KeyboardInterrupt):  # of a prompt, or of a library that answers Ctrl-C itself
            print("stopped by the keyboard", file=sys.stderr)
            raise SystemExit(130) from None
        except click.ClickException as error:
            _fail(error.format_message(), 2)
        except CLEAN_ERRORS as error:
            if not is_clean(error):
                raise
            _fail(str(error), 1)


class SeedList(click.ParamType):
    """Seeds and ranges, "0,1,4-6", as a list of integers."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            return parse_seeds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def with_home(argument: str) -> str:
    """A word of the command line with the ~ of its path expanded: --outdir=~/out, where shells leave it as it is."""
    found = re.fullmatch(r"(?s)([\w.-]+=)?(~(?:/.*)?)", argument)
    return (found[1] or "") + os.path.expanduser(found[2]) if found else argument


class Cutoff(click.ParamType):
    """How many style codes truncation changes: a number from 0 on, or all (None)."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value is None or str(value) == "all":
            return None
        if not str(value).isdecimal():
            self.fail(f"{value!r} is neither a number from 0 on nor all", param, ctx)
        return int(value)


def switch(*names: str, default: bool = False, help: str) -> Callable[[Any], Any]:
    """A yes-or-no option that works as a flag and with a value: --shapes, --shapes=true, --interpolate False."""
    return click.option(*names, type=bool, is_flag=False, flag_value=True, default=default, metavar="[BOOL]", help=help)


def split_options(options: dict[str, Any], *functions: Callable[..., Any]) -> list[dict[str, Any]]:
    """The options that each function takes by keyword, so that one command can use several sets of shared options."""
    named = [set(inspect.signature(function).parameters) for function in functions]
    return [{name: value for name, value in options.items() if name in names} for names in named]


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {one_line(message)}", file=sys.stderr)
    raise SystemExit(code) from None
