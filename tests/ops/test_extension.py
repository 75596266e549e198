"""Finding, building and loading native code, and doing without."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from eg3d.ops import extension

ROOT = Path(__file__).resolve().parents[2]
USE = """
import torch, warnings
from eg3d.ops.density_grid.grid import GridSpec
from eg3d.ops.density_grid.op import density_grid
from eg3d.ops.triplane import TriPlane
field = TriPlane(torch.ones(1, 3, 2, 4, 4), torch.ones(3, 2), torch.ones(3), torch.ones(1, 3), torch.ones(1))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        value = density_grid(field, GridSpec(3))
print(round(float(value[0, 1, 1, 1]), 4), len(caught), *[str(w.message) for w in caught])
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


def test_auto_without_a_compiler_warns_once_and_uses_the_reference(tmp_path: Path) -> None:
    done = run(USE, EG3D_OPS="auto", CXX="no-such-compiler", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("10.1458 1 native operations for cpu are not available (compiler no-such-compiler")


def test_native_without_a_compiler_is_an_error(tmp_path: Path) -> None:
    done = run(USE, EG3D_OPS="native", CXX="no-such-compiler", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode != 0
    assert "EG3D_OPS=native, but native operations for cpu are not available" in done.stderr


def test_reference_builds_nothing(tmp_path: Path) -> None:
    done = run(USE, EG3D_OPS="reference", XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout.strip() == "10.1458 0" and list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("native")
def test_processes_that_start_together_share_one_build(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "EG3D_OPS": "native", "XDG_CACHE_HOME": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", USE], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate()[0].split()[0] for process in started] == ["10.1458"] * 3
    assert len(list((tmp_path / "eg3d_ops").glob("*/*.so"))) == 1
    assert [path.name for path in (tmp_path / "eg3d_ops").glob("*/build-*")] == []


def test_unknown_setting_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EG3D_OPS", "fast")
    with pytest.raises(ValueError, match="EG3D_OPS: 'fast' is not one of auto, native, reference"):
        extension.mode()
    monkeypatch.setenv("EG3D_OPS", "auto")
    monkeypatch.setattr(extension, "PROVEN", ("cpu", "meta"))
    extension._library.cache_clear()
    with pytest.warns(UserWarning, match="no kernels for device type 'meta'"):
        assert extension.library(torch.empty(1, device="meta"), "density_grid") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extension.library(torch.empty(1, device="meta"), "density_grid") is None  # said once


def test_kernels_of_a_device_that_never_ran_them_wait_for_native(monkeypatch: pytest.MonkeyPatch) -> None:
    extension._library.cache_clear()
    like = torch.empty(1, device="meta")
    monkeypatch.setenv("EG3D_OPS", "auto")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "cuda" not in extension.PROVEN and extension.library(like, "density_grid") is None
    monkeypatch.setenv("EG3D_OPS", "native")
    with pytest.raises(RuntimeError, match="no kernels for device type 'meta'"):
        extension.library(like, "density_grid")


def test_gist_of_a_build_log_is_its_first_error() -> None:
    log = "Error building extension 'x': [1/2] c++ -O3 a.cpp\nFAILED: a.o\na.cpp:3:1: error: 'foo' was not declared\n"
    assert extension.gist(log) == "a.cpp:3:1: error: 'foo' was not declared"
    assert extension.gist("") == "no message"
