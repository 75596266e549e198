"""Builds for other processors: the widths that this machine runs against the reference, the others compiled.

The NEON build runs under qemu-user where Debian's cross compiler and qemu are (`make arm-check`).
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eg3d.ops import extension
from tests.ops import test_density_grid, test_density_points, test_render_rays
from tests.ops.field import field_tensors, largest_error

IS_X86 = platform.machine().lower() in extension.X86
OPS = Path(extension.__file__).parent
CPU_SOURCES = sorted(OPS.glob("*/cpu.cpp"))
OTHERS = ["x86-64-v2", "x86-64-v3", "x86-64-v4"] if IS_X86 else []
ARM_COMPILER, ARM_EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def equals_the_reference() -> None:
    """Every operation with whatever library is in use: float64 to 1e-10, float32 to 1e-5 or as the reference."""
    for grid, plane_axes in test_density_grid.GRIDS:
        for size in test_density_grid.SIZES[:2]:
            found, expected = test_density_grid.both(
                field_tensors(**size, dtype=torch.float64), grid=grid, plane_axes=plane_axes
            )
            assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-10
    test_density_grid.test_float32_is_as_exact_as_the_reference(1.0, "skewed", "xy_xz_zx")
    test_density_grid.test_float32_is_as_exact_as_the_reference(60.0, "exact", "xy_xz_zy")
    inputs = test_density_points.inputs_of(torch.float64, channels=20, side=12, hidden=33)
    points = test_density_points.points_of(1, 193, torch.float64)
    found, expected = test_density_points.both(inputs, points, test_density_points.FIELD)
    assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-10
    inputs = test_render_rays.inputs_of(torch.float64, batch=2)
    found, expected = test_render_rays.both(inputs, 3, lambda: torch.Generator().manual_seed(3))
    assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-10
    test_render_rays.test_float32_is_as_exact_as_the_reference(1.0)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("arch", OTHERS)
def test_every_width_computes_the_same(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        extension.check_processor(arch)
    except RuntimeError as error:
        subprocess.run(compile_command(extension.cpu_flags(arch), "c++"), check=True)
        pytest.skip(f"compiled, not run: {error}")
    monkeypatch.setenv("EG3D_OPS_ARCH", arch)
    monkeypatch.setattr(test_density_points.op, "FEWEST_POINTS_PER_TEXEL", 0.0)
    equals_the_reference()


def compile_command(flags: Sequence[str], compiler: str) -> list[str]:
    """Compiles all CPU sources and keeps nothing."""
    return [os.environ.get("CXX", compiler), *flags, "-fsyntax-only", *map(str, CPU_SOURCES)]


def test_a_processor_that_cannot_run_a_build_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        extension, "_processor", lambda: "model name\t: small\nflags\t\t: fpu ssse3 sse4_1 sse4_2 popcnt"
    )
    monkeypatch.setattr(extension.platform, "machine", lambda: "x86_64")
    extension.check_processor("x86-64-v2")
    with pytest.raises(RuntimeError, match=r"EG3D_OPS_ARCH=x86-64-v3: this processor has no avx2, fma, .*; use native"):
        extension.check_processor("x86-64-v3")
    with pytest.raises(RuntimeError, match="EG3D_OPS_ARCH=armv8-a: this processor is x86_64; use native"):
        extension.check_processor("armv8-a")
    monkeypatch.setattr(extension.platform, "machine", lambda: "arm64")
    with pytest.raises(RuntimeError, match="EG3D_OPS_ARCH=x86-64: this processor is arm64; use native"):
        extension.check_processor("x86-64")
    assert not any("vector-width" in flag for flag in extension.cpu_flags("native"))


def test_words_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for word, meant in (("v3", "x86-64-v3"), ("x86-64-v4", "x86-64-v4"), ("native", "native")):
        monkeypatch.setenv("EG3D_OPS_ARCH", word)
        assert extension.architecture() == meant
    monkeypatch.setenv("EG3D_OPS_ARCH", "fast")
    with pytest.raises(ValueError, match="EG3D_OPS_ARCH: 'fast' is not one of native, x86-64, x86-64-v2"):
        extension.architecture()


# ------------------------------------------------------------------------------------- another machine, emulated


@functools.cache
def arm_program() -> Path:
    """A program for ARM that runs one kernel on files, see emulated_call."""
    for tool, package in ((ARM_COMPILER, "g++-aarch64-linux-gnu"), (ARM_EMULATOR, "qemu-user")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: Debian's package {package} has it")
    path = Path(tempfile.mkdtemp(prefix="arm-")) / "kernels"
    driver = Path(__file__).with_name("arm_driver.cpp")
    flags = [flag for flag in extension.cpu_flags("armv8-a") if flag != "-O3"]
    command = [ARM_COMPILER, *flags, "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-o", str(path)]
    subprocess.run([*command, str(driver), *map(str, CPU_SOURCES)], check=True)
    return path


def emulated_call(native: object, operation: str, step: str, spec: ctypes.Structure, tensors: Sequence[Any]) -> None:
    """extension.call, by the program: tensors of any shapes go there in a file and come back in it."""
    memory = [(ctypes.addressof(spec), ctypes.sizeof(spec)), *map(memory_of, tensors)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arguments"
        with open(path, "wb") as file:
            for address, size in memory:
                file.write(size.to_bytes(8, "little") + ctypes.string_at(address, size))
        name = f"{operation}_{step}_{extension.suffix(tensors[0].dtype)}"
        subprocess.run([ARM_EMULATOR, str(arm_program()), name, str(path)], check=True)
        with open(path, "rb") as file:
            for address, size in memory:
                assert int.from_bytes(file.read(8), "little") == size
                ctypes.memmove(address, file.read(size), size)


def memory_of(tensor: Tensor | None) -> tuple[int, int]:
    """Address and bytes of a tensor of any shape and layout, from its first element on; 0, 0 for None."""
    if tensor is None:
        return 0, 0
    return tensor.data_ptr(), tensor.untyped_storage().nbytes() - tensor.storage_offset() * tensor.element_size()


def test_the_neon_build_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    arm_program()
    monkeypatch.setattr(extension, "library", lambda like, operation: object())
    monkeypatch.setattr(extension, "call", emulated_call)
    monkeypatch.setattr(test_density_points.op, "FEWEST_POINTS_PER_TEXEL", 0.0)
    equals_the_reference()
