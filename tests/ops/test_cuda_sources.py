"""The CUDA kernels, run where there is no GPU: their sources compiled as C++, every thread a turn of a loop.

This checks indices, shares and sums, all that is arithmetic; launches, races and speed are for `make gpu-test`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

from eg3d.ops import extension
from tests.ops import test_density_grid
from tests.ops.field import field_tensors, largest_error

SOURCES = sorted(Path(extension.__file__).parent.glob("*/cuda.cu"))


@functools.cache
def emulated(source: Path) -> ctypes.CDLL:
    """The library of one CUDA source as plain C++."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "emulated.so"
        command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-x", "c++"]
        subprocess.run([*command, str(source), "-o", str(path)], check=True, capture_output=True)
        return ctypes.CDLL(str(path))


@pytest.fixture
def on_emulated_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = {source.parent.name: emulated(source) for source in SOURCES}
    monkeypatch.setattr(extension, "library", lambda like, operation: libraries[operation])


@pytest.mark.usefixtures("on_emulated_gpu")
@pytest.mark.parametrize(("grid", "plane_axes"), test_density_grid.GRIDS)
@pytest.mark.parametrize("size", test_density_grid.SIZES[:2] + test_density_grid.SIZES[3:4], ids=str)
def test_grid_threads_add_up_to_the_reference(size: dict[str, int], grid: str, plane_axes: str) -> None:
    found, expected = test_density_grid.both(
        field_tensors(**size, dtype=torch.float64), grid=grid, plane_axes=plane_axes
    )
    assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("grid", "plane_axes"), test_density_grid.GRIDS)
def test_density_grid_on_a_gpu(grid: str, plane_axes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EG3D_OPS", "native")
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        inputs = [t.detach().cuda().requires_grad_() for t in field_tensors(1, 32, 40, 64, dtype=dtype)]
        found, expected = test_density_grid.both(inputs, grid=grid, plane_axes=plane_axes)
        assert max(largest_error(a, b) for a, b in zip(found, expected)) < tolerance
