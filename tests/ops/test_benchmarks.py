"""The benchmarks as a user runs them, at a size that takes a moment."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import harness, turns
from benchmarks.machine import Machine, this_machine, title_of
from benchmarks.meter import Meter

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {
    "name", "pass", "device", "reference_s", "native_s", "ratio", "reference_extra_mb", "native_extra_mb",
    "max_rel_error",
}  # fmt: skip


def test_a_case_is_measured_on_both_sides() -> None:
    slow = harness.Case("toy", "forward", lambda dtype: [torch.ones(2**22, dtype=dtype).exp()], lambda dtype: [
        torch.full((2**22,), 2.718281828, dtype=dtype)
    ])  # fmt: skip
    row = harness._measured(slow, "cpu", None)
    assert set(row) >= FIELDS and row["max_rel_error"] < 1e-6
    assert 10 < row["reference_extra_mb"] < 100  # a tensor of 16 MB, or two


def test_the_machine_is_named_with_every_table() -> None:
    machine = this_machine()
    assert machine.processor and machine.vector_bits in (128, 256, 512)
    assert machine.gemm_gflops > 0.1 and machine.copy_gbs > 0.1
    known = Machine("Toy", 256, 2, 150.4, 12.34)
    assert title_of(known.row) == "Toy, 256-bit vectors, 2 threads: GEMM 150 GFLOP/s, copy 12.3 GB/s"


@pytest.mark.parametrize("module", ["density", "points", "rays", "train_step", "finetune_step"])
def test_help_and_a_bad_option(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argument, code in (("--help", 0), ("--nonsense", 2)):
        monkeypatch.setattr(sys, "argv", [module, argument])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(f"benchmarks.{module}", run_name="__main__")
        assert ended.value.code == code
    assert "--json" in capsys.readouterr().out


def test_the_meter_counts_products_and_convolutions_by_kind() -> None:
    a, x = torch.ones(8, 8), torch.ones(1, 2, 6, 6, requires_grad=True)
    w = torch.ones(4, 2, 3, 3, requires_grad=True)
    with Meter() as meter:
        a @ a
        torch.zeros(8, 8).addmm_(a, a)
        torch.nn.functional.conv2d(x, w, padding=1).sum().backward()
    product, forward = meter.parts["matrix product"], meter.parts["convolution, forward"]
    assert (product.calls, product.flop, product.bytes) == (2, 2 * 2 * 8**3, 7 * 256)
    assert forward.flop == 2 * 36 * 4 * 2 * 9
    assert meter.parts["convolution, both gradients"].flop == 2 * forward.flop
    rows = meter.rows(runs=2)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert {row["part"]: row["calls"] for row in rows}["matrix product"] == 1


def test_sides_take_turns_and_ratios_are_here_against_there() -> None:
    here, there = ([{"cpu_s": value * k, "s": value} for k in (1, 2)] for value in (1.0, 4.0))
    found = turns._ratios(here, there)
    assert found["cpu_ratio"] == found["ratio"] == found["cpu_ratio_of_means"] == 0.25
    assert [list(turns._in_turn(["a", "b"], number)) for number in (0, 1)] == [["a", "b"], ["b", "a"]]


@pytest.mark.slow
def test_a_backbone_in_turns_and_in_parts() -> None:
    command = [sys.executable, "-m", "benchmarks.train_step", "--size", "ffhq", "--json"]
    for more, key in (([], "parts"), (["--against", str(ROOT), "--cycles", "2"], "cpu_ratio")):
        done = subprocess.run([*command, *more], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)["rows"]
        assert [row["work"] for row in rows] == [
            f"backbone, {name}" for name in ("forward", "latent", "weights", "grid64")
        ]
        assert all({key, "machine"} <= set(row) for row in rows)


@pytest.mark.slow
def test_json_of_one_case() -> None:
    command = [sys.executable, "-m", "benchmarks.density", "--json", "--only", "grid64"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "2"})
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout)["cases"]
    assert [case["pass"] for case in cases] == ["forward", "forward_backward"]
    assert all(FIELDS | {"huge_pages_ratio", "machine"} <= set(case) and case["max_rel_error"] < 1e-4 for case in cases)


@pytest.mark.parametrize("operation", ["density_grid", "density_points", "render_rays"])
def test_kernels_that_take_other_arguments_are_not_called(operation: str, tmp_path: Path) -> None:
    assert len(harness.interface_of(ROOT, operation)) >= 3  # the spec, forward, backward
    there = tmp_path / "eg3d" / "ops" / operation
    shutil.copytree(ROOT / "eg3d" / "ops" / operation, there)
    assert harness.interface_of(tmp_path, operation) == harness.interface_of(ROOT, operation)
    spec = there / "spec.h"
    spec.write_text(spec.read_text().replace("threads;", "threads, seed;"))
    with pytest.raises(SystemExit, match=f"--against .*: its {operation} takes other arguments"):
        harness._kernels_of(tmp_path, operation)
