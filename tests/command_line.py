"""Commands run in this process as a user would run them; tests take the fixture `run` of tests/conftest.py."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


class Result:
    """What a command printed and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def the_error(self) -> str:
        """The text of the one error line; fails when there is more, or a trace."""
        assert "Traceback" not in self.err + self.out
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


Run = Callable[..., Result]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the main function of a command module in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(module: object, *arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["command.py", *arguments])
        code = 0
        try:
            module.main()  # type: ignore[attr-defined]
        except SystemExit as stop:
            code = int(stop.code or 0)
        logging.getLogger().handlers[:] = []
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return command
