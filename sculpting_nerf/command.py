"""The command `sculpt`: every command of this project by a short name. Nothing heavy is loaded before one is chosen."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from eg3d.program import SCULPT, called
from sculpting_nerf.entries import ENTRIES, Entry


class Forwarded(click.Command):
    """Hands its words to the function of a command as they are, --help too."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name, short_help=entry.meaning, add_help_option=False)
        self.entry = entry

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args

    def invoke(self, ctx: click.Context) -> Any:
        sys.argv = [SCULPT, *self.entry.words, *ctx.args]
        with called(f"{SCULPT} {self.name}"):
            return getattr(importlib.import_module(self.entry.module), self.entry.function)()


class Commands(click.Group):
    """The table of commands as a group, in its order: that of the work."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(ENTRIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return Forwarded(cmd_name, ENTRIES[cmd_name]) if cmd_name in ENTRIES else None


def _print_version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        from eg3d.installation import version

        click.echo(version())
        ctx.exit()


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Version.")
def commands() -> None:
    """Fix the shape that a 3D-aware GAN makes, from nothing but people's rankings.

    `sculpt COMMAND --help` says what a command takes; each is a `python -m ...` of the README as well.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script."""
    commands.main(arguments, prog_name=SCULPT)


if __name__ == "__main__":
    main()
