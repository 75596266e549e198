"""Times an operation and its reference in turns and prints both: the same for every benchmark.

Ratios come from one process in which the two sides alternate, so that a busy machine slows both. Two processes run,
with ordinary and with huge pages for large blocks (THP_MEM_ALLOC_ENABLE of torch), which speeds the reference more.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import this_machine, title_of
from eg3d.ops import extension

Outputs = Sequence[Tensor]
Run = Callable[[torch.dtype], Outputs]
PAGES_SETTING = "THP_MEM_ALLOC_ENABLE"


@dataclass(frozen=True)
class Case:
    """One row of the table: two functions of a number format that should return the same tensors."""

    name: str
    passes: str  # "forward" | "forward_backward"
    reference: Run
    native: Run
    rounds: int = 3
    native_per_round: int = 3


def main(module: str, build: Callable[[str], list[Case]], description: str, *, operation: str) -> None:
    """The command line of a benchmark module; `build` makes its cases of one of eg3d/ops/ for a device."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--only", help="run only the cases of this name")
    parser.add_argument("--against", type=Path, help="another checkout, whose CPU kernels take turns with these")
    parser.add_argument("--one-setting", action="store_true", help="only with this process's page setting")
    arguments = parser.parse_args()
    os.environ["EG3D_OPS"] = "native"  # a build that fails must not be timed as if it had worked
    if arguments.one_setting:
        cases = [case for case in build(arguments.device) if arguments.only in (None, case.name)]
        facts = this_machine().row | {"architecture": extension.architecture()}
        other = _kernels_of(arguments.against, operation) if arguments.against else None
        rows = [_measured(case, arguments.device, other) | facts for case in cases]
    else:
        rows = _both_page_settings(module, arguments)
    print(json.dumps({"cases": rows})) if arguments.json else _print_table(rows)


def _both_page_settings(module: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", module, "--json", "--one-setting", "--device", arguments.device]
    command += ["--only", arguments.only] if arguments.only else []
    command += ["--against", str(arguments.against)] if arguments.against else []
    tables = []
    for pages in ("0", "1"):
        done = subprocess.run(command, env=os.environ | {PAGES_SETTING: pages}, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"{module}: the measuring process ended with {done.returncode}, see its message above")
        tables.append(json.loads(done.stdout.splitlines()[-1])["cases"])
    return [row | {"huge_pages_ratio": huge["ratio"]} for row, huge in zip(*tables, strict=True)]


def interface_of(checkout: Path, operation: str) -> list[str]:
    """What the CPU kernels of an operation take: the fields of their spec, and how many pointers each function."""
    folder = checkout / "eg3d" / "ops" / operation
    text = "".join(path.read_text() for path in (folder / "spec.h", folder / "cpu.cpp") if path.exists())
    text = re.sub(r"//[^\n]*|\\\n", "", text)
    parts = re.findall(
        r"struct \w*Spec \{(.*?)\};|(?:extern \"C\" void \w+|define INPUTS)(?:##suffix)?\((.*?)\)[ ;{\n]", text, re.S
    )
    return [" ".join(fields.split()) or str(pointers.count(",")) for fields, pointers in parts]


def _kernels_of(checkout: Path, operation: str) -> ctypes.CDLL:
    """The CPU kernels of another checkout, built there; ends the process if they take other arguments than ours."""
    if interface_of(checkout, operation) != interface_of(Path(__file__).resolve().parents[1], operation):
        sys.exit(
            f"--against {checkout}: its {operation} takes other arguments; give a checkout where it takes the same"
        )
    code = "from eg3d.ops import extension as e; print(getattr(e, 'built', None) and e.built('cpu', e.architecture())"
    code += " or e._built('cpu'))"
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return ctypes.CDLL(done.stdout.splitlines()[-1])


@contextmanager
def _using(kernels: ctypes.CDLL) -> Iterator[None]:
    """Operations run by other kernels than ours."""
    ours = extension._library
    extension._library = lambda device, arch: (kernels, "")  # type: ignore[assignment]
    try:
        yield
    finally:
        extension._library = ours


def _measured(case: Case, device: str, other: ctypes.CDLL | None) -> dict[str, Any]:
    # The error is that of float32 against the reference in float64; these calls also warm both sides up.
    expected, found = case.reference(torch.float64), case.native(torch.float32)
    error = max(_relative(a, b) for a, b in zip(found, expected, strict=True))
    del expected, found
    reference_mb, native_mb = (_extra_megabytes(side, device) for side in (case.reference, case.native))
    times: dict[str, list[tuple[float, float]]] = {"reference": [], "native": [], "against": []}
    for _ in range(case.rounds):
        times["reference"].append(_seconds(case.reference, device))
        for _ in range(case.native_per_round):
            times["native"].append(_seconds(case.native, device))
            if other is not None:
                with _using(other):
                    times["against"].append(_seconds(case.native, device))
    (reference_s, reference_cpu), (native_s, native_cpu) = (
        [statistics.median(column) for column in zip(*times[side], strict=True)] for side in ("reference", "native")
    )
    return {
        "name": case.name,
        "pass": case.passes,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "reference_s": reference_s,
        "native_s": native_s,
        "ratio": reference_s / native_s,
        "cpu_time_ratio": reference_cpu / native_cpu,
        "reference_extra_mb": reference_mb,
        "native_extra_mb": native_mb,
        "max_rel_error": error,
        "against_ratio": statistics.median(s for s, _ in times["against"]) / native_s if other is not None else None,
    }


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _seconds(run: Run, device: str) -> tuple[float, float]:
    """Duration, and processor time of all threads: the latter says more where other programs run."""
    _wait(device)
    start, start_cpu = time.perf_counter(), time.process_time()
    run(torch.float32)
    _wait(device)
    return time.perf_counter() - start, time.process_time() - start_cpu


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _extra_megabytes(run: Run, device: str) -> float:
    """Peak memory during a call above what was in use before it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(torch.float32)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # give freed blocks back, or they would hide what the call needs
    Path("/proc/self/clear_refs").write_text("5")  # peak := now
    before = _status("VmRSS")
    run(torch.float32)
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def _title(row: dict[str, Any]) -> str:
    on_gpu = "" if row["device"] == "cpu" else f"{row['device']}, beside it "
    return f"{on_gpu}{title_of(row)}; kernels for {row['architecture']}"


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=_title(rows[0]) if rows else None)
    titles = (
        "case",
        "pass",
        "reference s",
        "native s",
        "ratio",
        "CPU time",
        "huge pages",
        "reference MB",
        "native MB",
        "error",
        "against",
    )
    for position, title in enumerate(titles):
        table.add_column(title, justify="left" if position < 2 else "right")
    for row in rows:
        huge = row.get("huge_pages_ratio")
        table.add_row(
            row["name"], row["pass"], f"{row['reference_s']:.3f}", f"{row['native_s']:.4f}", f"{row['ratio']:.1f}x",
            f"{row['cpu_time_ratio']:.1f}x",
            "" if huge is None else f"{huge:.1f}x", f"{row['reference_extra_mb']:.0f}",
            f"{row['native_extra_mb']:.0f}", f"{row['max_rel_error']:.1e}",
            "" if row["against_ratio"] is None else f"{row['against_ratio']:.2f}x",
        )  # fmt: skip
    Console(width=120).print(table)
