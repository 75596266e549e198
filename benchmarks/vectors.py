"""softplus, most of what a kernel does, by our lanes and by vector libraries: python -m benchmarks.vectors.

PyTorch's own headers and GCC's std::experimental::simd come with what is installed; Google Highway and xsimd are
measured where their headers are (Debian: libhwy-dev, libxsimd-dev). One thread, blocks that fit the nearest caches, in
turns; error against float64. EG3D_OPS_ARCH chooses the width.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.cpp_extension import include_paths, library_paths

from benchmarks.machine import this_machine, title_of
from eg3d.ops import extension

SOURCE = Path(__file__).with_name("vectors.cpp")
CAPABILITY = {16: "DEFAULT", 32: "AVX2", 64: "AVX512"}  # by torch's names, of bytes in a register
# Function, title, macro, and what must be there to compile.
LIBRARIES = (
    ("libm", "C library, one by one", "", ""),
    ("aten", "ATen/cpu/vec (SLEEF)", "WITH_ATEN", "ATen/cpu/vec/vec.h"),
    ("highway", "Google Highway", "WITH_HIGHWAY", "hwy/highway.h"),
    ("xsimd", "xsimd", "WITH_XSIMD", "xsimd/xsimd.hpp"),
    ("std_simd", "std::experimental::simd", "WITH_STD_SIMD", "experimental/simd"),
    ("ours", "ours (eg3d/ops/vector.h)", "", ""),
)
COUNT, CALLS, ROUNDS = 4096, 200, 20


def measured() -> list[dict[str, Any]]:
    """One row for every library that is there; ratios are to PyTorch's headers."""
    x = torch.linspace(-30.0, 30.0, COUNT)
    exact, out = torch.nn.functional.softplus(x.double()), torch.empty(COUNT)
    pointers = extension.pointer(x), extension.pointer(out), ctypes.c_int64(COUNT)
    rows: list[dict[str, Any]] = []
    functions: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, title, macro, header in LIBRARIES:
            function = _built(name, macro, header, Path(folder))
            if function is None:
                print(f"{title}: not measured, {header} is not there or does not compile", file=sys.stderr)
                continue
            function(*pointers)
            error = float(((out.double() - exact).abs() / exact.abs().clamp_min(1e-3)).max())
            functions[name] = function
            rows.append({"name": name, "title": title, "max_rel_error": error, "ns": float("inf")})
        for _ in range(ROUNDS):
            for row in rows:
                start = time.perf_counter()
                for _ in range(CALLS):
                    functions[row["name"]](*pointers)
                row["ns"] = min(row["ns"], (time.perf_counter() - start) / CALLS / COUNT * 1e9)
    baseline = next((row["ns"] for row in rows if row["name"] == "aten"), rows[0]["ns"])
    return [row | {"ratio": baseline / row["ns"]} for row in rows]


def _built(name: str, macro: str, header: str, folder: Path) -> Any:
    """softplus_NAME, compiled for EG3D_OPS_ARCH, or None."""
    arch, compiler = extension.architecture(), os.environ.get("CXX", "c++")
    extension.check_processor(arch)
    flags = [flag for flag in extension.cpu_flags(arch) if not flag.startswith("-std")] + ["-std=c++20"]
    includes = [f"-I{path}" for path in include_paths()]
    if macro:
        probe = subprocess.run(
            [compiler, *flags, *includes, "-fsyntax-only", "-x", "c++", "-"],
            input=f"#include <{header}>\n", text=True, capture_output=True,
        )  # fmt: skip
        if "No such file" in probe.stderr:
            return None
    capability = CAPABILITY[_register_bytes(compiler, flags)]
    macros = [f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}", *([f"-D{macro}"] if macro else [])]
    path = folder / f"{name}.so"
    libraries = [f"-L{path}" for path in library_paths()] + ["-ltorch_cpu", "-lc10"]
    command = [compiler, *flags, *macros, *includes, "-fPIC", "-shared", str(SOURCE), *libraries, "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    return getattr(ctypes.CDLL(str(path)), f"softplus_{name}") if done.returncode == 0 else None


def _register_bytes(compiler: str, flags: list[str]) -> int:
    macros = subprocess.run(
        [compiler, *flags, "-dM", "-E", "-x", "c++", "-"], input="", text=True, capture_output=True, check=True
    ).stdout
    return 64 if "__AVX512F__" in macros else 32 if "__AVX2__" in macros else 16


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vectors", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = this_machine()
    rows = [row | machine.row | {"architecture": extension.architecture()} for row in measured()]
    if arguments.json:
        print(json.dumps({"cases": rows}))
        return
    print(f"{title_of(rows[0])}; built for {extension.architecture()}")
    for row in rows:
        print(f"{row['title']:28} {row['ns']:7.3f} ns {row['ratio']:6.1f}x  error {row['max_rel_error']:.1e}")


if __name__ == "__main__":
    main()
