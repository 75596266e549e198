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
from typing import Any

import pytest
import torch

from eg3d.ops import extension
from tests.ops import test_density_grid, test_density_points, test_render_rays
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
    libraries["field_points"] = libraries["density_points"]
    monkeypatch.setattr(extension, "library", lambda like, operation: libraries[operation])


@pytest.mark.usefixtures("on_emulated_gpu")
@pytest.mark.parametrize(("grid", "plane_axes"), test_density_grid.GRIDS)
@pytest.mark.parametrize("size", test_density_grid.SIZES[:2] + test_density_grid.SIZES[3:4], ids=str)
def test_grid_threads_add_up_to_the_reference(size: dict[str, int], grid: str, plane_axes: str) -> None:
    found, expected = test_density_grid.both(
        field_tensors(**size, dtype=torch.float64), grid=grid, plane_axes=plane_axes
    )
    assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-10


@pytest.mark.usefixtures("on_emulated_gpu")
@pytest.mark.parametrize("plane_axes", ["xy_xz_zx", "xy_xz_zy"])
def test_point_threads_add_up_to_the_reference(plane_axes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_density_points.op, "FEWEST_POINTS_PER_TEXEL", 0.0)
    for size in ({"batch": 2}, {"channels": 20, "side": 12, "hidden": 33}):
        inputs = test_density_points.inputs_of(torch.float64, **size)
        points = test_density_points.points_of(len(inputs[0]), 193, torch.float64)
        found, expected = test_density_points.both(inputs, points, test_density_points.FIELD, plane_axes=plane_axes)
        assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-10


@pytest.mark.usefixtures("on_emulated_gpu")
@pytest.mark.parametrize("options", test_render_rays.OPTIONS, ids=str)
def test_ray_threads_add_up_to_the_reference(options: dict[str, Any]) -> None:
    inputs = test_render_rays.inputs_of(torch.float64, batch=2)
    for draws in (lambda: None, lambda: torch.Generator().manual_seed(3)):
        found, expected = test_render_rays.both(inputs, 3, draws, **options)
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_points_and_rays_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EG3D_OPS", "native")
    monkeypatch.setattr(test_density_points.op, "FEWEST_POINTS_PER_TEXEL", 0.0)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 5e-5)):
        sizes = {"features": 32, "channels": 32, "side": 40, "hidden": 64}
        inputs = [t.detach().cuda().requires_grad_() for t in test_render_rays.inputs_of(dtype, **sizes)]
        points = test_density_points.points_of(1, 5000, dtype).cuda()
        found, expected = test_density_points.both(inputs, points, test_density_points.FIELD)
        assert max(largest_error(a, b) for a, b in zip(found, expected)) < tolerance
        for draws in (lambda: None, lambda: torch.Generator().manual_seed(7)):
            found, expected = test_render_rays.both(inputs, 24, draws)
            assert max(largest_error(a, b) for a, b in zip(found, expected)) < tolerance
