"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import torch

from eg3d import safe_write
from eg3d.safe_write import atomic_path, naming_disk_faults, write_json, write_text
from eg3d.stop_signals import Stopped


def test_writing_makes_folders_and_leaves_only_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "héllo\n")
    assert path.read_bytes() == "héllo\n".encode()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="no such rights there")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_get_the_rights_of_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "x")
        write_text(tmp_path / "a.txt", "y")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.skipif(os.name == "nt", reason="no such rights there")
def test_a_file_that_is_replaced_keeps_its_rights(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for rights in (0o600, 0o664, 0o444):
        write_text(path, "x")
        path.chmod(rights)
        write_text(path, "y")
        assert path.stat().st_mode & 0o777 == rights and path.read_text() == "y"


def test_only_writable_handles_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses fsync on a handle that was opened for reading only; folders, which it cannot open, go without."""
    fcntl, sync, synced = pytest.importorskip("fcntl"), os.fsync, []

    def as_on_windows(handle: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced.append(handle)
        sync(handle)

    monkeypatch.setattr(os, "fsync", as_on_windows)
    write_text(tmp_path / "a.txt", "x")
    assert (len(synced), (tmp_path / "a.txt").read_text()) == (1, "x")


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("x" * 2_000_000),
    "tensors": lambda path: safetensors.torch.save_file({"a": torch.zeros(500_000)}, path),
    "torch": lambda path: torch.save({"a": torch.zeros(500_000)}, path),
    "array": lambda path: np.save(path, np.zeros(500_000)),
    "picture": lambda path: PIL.Image.fromarray(np.zeros((2000, 2000), np.uint8)).save(path, format="bmp"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_line_that_names_the_file(small_disk: Path, kind: str) -> None:
    """Whatever the writer makes of it."""
    path = small_disk / "deep" / "a.npy"
    with (
        pytest.raises(OSError, match=f"{path}: not written, the disk is full") as error,
        atomic_path(path) as temporary,
    ):
        WRITERS[kind](temporary)
    assert "\n" not in str(error.value)
    assert list(path.parent.iterdir()) == []


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_path(tmp_path / "a.txt"):
        (tmp_path / "nowhere").read_bytes()
    with pytest.raises(OSError, match="full") as error, naming_disk_faults(tmp_path / "log.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(tmp_path / "log.txt") in str(error.value)


def test_the_target_is_untouched_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(error), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_read_back_and_refuses_what_json_lacks(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}


def test_what_a_killed_run_left_of_the_same_file_goes(tmp_path: Path) -> None:
    """And nothing else: files of other names, and a temporary file whose writer lives, stay."""
    left = tmp_path / ".table-0a1b2c3d.csv"
    others = [
        tmp_path / name for name in (".other-0a1b2c3d.csv", ".table-0a1b2c3d.json", ".table-x.csv", "table-0a.csv")
    ]
    for path in (left, *others):
        path.write_text("half")
    with atomic_path(tmp_path / "table.csv") as alive:
        assert not left.exists()
        write_text(tmp_path / "table.csv", "other writer")
        assert alive.exists()
        alive.write_text("last one")
    assert (tmp_path / "table.csv").read_text() == "last one"
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "table.csv", *others])


LIMITED = """
import resource, sys
from test_safe_write import WRITERS
from eg3d.safe_write import atomic_path

resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
with atomic_path(sys.argv[1]) as temporary:
    WRITERS[sys.argv[2]](temporary)
"""


@pytest.mark.skipif(os.name == "nt", reason="no such limits there")
@pytest.mark.parametrize("kind", ["text", "tensors", "torch", "picture"])
def test_a_write_that_fails_names_the_file(tmp_path: Path, kind: str) -> None:
    """A real failure in the middle of a file, whoever writes it."""
    path = tmp_path / "a.bin"
    command = [sys.executable, "-c", LIMITED, str(path), kind]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.stderr.splitlines()[-1].startswith(f"OSError: {path}: not written ("), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_the_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match=f"{path}: not written .*Input/output error"), atomic_path(path):
        raise OSError(errno.EIO, "Input/output error")
    with pytest.raises(ValueError, match=r"^of the work$"), atomic_path(path):
        raise ValueError("of the work")
    assert list(tmp_path.iterdir()) == []


def _stopped_at(step: int, path: Path) -> bool:
    """Write in a forked child that is stopped at one of the steps of safe_write and contextlib; whether it was."""
    left = step

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal left
        if Path(frame.f_code.co_filename).name not in ("safe_write.py", "leftovers.py", "contextlib.py"):
            return None
        left -= 1
        if left == 0:
            raise Stopped(signal.SIGTERM)
        return trace

    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    code = 1
    try:
        sys.settrace(trace)
        write_text(path, "whole")
    except Stopped:
        code = 0
    finally:
        sys.settrace(None)
        safe_write._remove_what_a_signal_left()  # as at the end of a process
        os._exit(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_signal_between_any_two_steps_leaves_no_temporary_file(tmp_path: Path) -> None:
    path, step = tmp_path / "a.txt", 1
    while _stopped_at(step, path):
        assert [name for name in os.listdir(tmp_path) if name != "a.txt"] == [], step
        assert not path.exists() or path.read_text() == "whole"
        path.unlink(missing_ok=True)
        step += 1
    assert step > 50 and path.read_text() == "whole"
