"""python -m eg3d.gen_samples as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import trimesh
from command_line import Run

from eg3d import gen_samples

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ("--shapes", "--shape-res", "16", "--shape-level", "0")


@pytest.mark.parametrize("command", [["-m", "eg3d.gen_samples"], ["eg3d/gen_samples.py"]])
def test_help_as_a_module_and_as_a_script(command: list[str]) -> None:
    run = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("Usage: python -m eg3d.gen_samples" if "-m" in command else "Usage: gen_samples.py")
    for option in ("--network", "--seeds", "--trunc ", "--trunc-cutoff", "--outdir", "--shapes", "--shape-res",
                   "--shape-format", "--shape-grid", "--shape-level", "--shape-colors", "--fov-deg"):  # fmt: skip
        assert option in run.stdout


def test_pictures_and_shapes(run: Run, toy_networks: Path, tmp_path: Path) -> None:
    arguments = ("--network", str(toy_networks), "--seeds", "0,4-5", "--trunc", "0.7", "--device", "cpu")
    result = run(gen_samples, *arguments, "--outdir", "out", *SHAPES, "--shape-colors=true")
    assert (result.code, result.err) == (0, "")
    assert result.out == "6 files in out\n"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(f"seed000{seed}{suffix}" for seed in (0, 4, 5) for suffix in (".png", ".ply"))
    picture = np.asarray(PIL.Image.open(tmp_path / "out" / "seed0004.png"))
    assert picture.shape == (16, 3 * 16, 3)
    assert not np.array_equal(picture[:, :16], picture[:, 32:])  # another yaw
    mesh = trimesh.load(tmp_path / "out" / "seed0004.ply", process=False)
    assert np.abs(mesh.bounds).max() <= 0.5 and mesh.visual.kind == "vertex"
    again = run(gen_samples, *arguments, "--outdir", "again", *SHAPES, "--shape_colors", "True")  # the other spelling
    assert again.code == 0
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    assert run(gen_samples, *arguments, "--seeds", "4", "--outdir", "alone", *SHAPES, "--shape-colors").code == 0
    for path in (tmp_path / "alone").iterdir():  # the other seeds make no difference, not even in rounding
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert len(list((tmp_path / "alone").iterdir())) == 2


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".mrc"])
def test_other_formats_and_the_published_grid(run: Run, toy_networks: Path, tmp_path: Path, suffix: str) -> None:
    arguments = ("--network", str(toy_networks), "--seeds", "1", "--outdir", "out", "--fov-deg", "18.837")
    result = run(gen_samples, *arguments, *SHAPES, "--shape-format", suffix, "--shape-grid", "skewed")
    assert (result.code, result.err) == (0, "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"seed0001.png", f"seed0001{suffix}"}


BAD = {
    "seeds": (["--seeds", "0,x"], 2, "Invalid value for '--seeds': seeds: 'x' is neither a number nor a range"),
    "no seeds": ([], 2, "Missing option '--seeds'"),
    "network": (["--seeds", "0", "--network", "nowhere.pkl"], 1, "nowhere.pkl"),
    "name": (["--seeds", "0", "--network", "twim"], 1, "known names: "),
    "net": (["--seeds", "0", "--net", "D_ema"], 1, "'D_ema'"),
    "device": (["--seeds", "0", "--device", "warp"], 1, "device: 'warp' is not a device"),
    "field of view": (["--seeds", "0", "--fov-deg", "180"], 2, "'--fov-deg'"),
    "format": (["--seeds", "0", "--shape-format", ".stl"], 2, "'.stl' is not one of '.ply', '.glb', '.obj', '.mrc'"),
    "colours of a volume": (["--seeds", "0", *SHAPES, "--shape-format", ".mrc", "--shape-colors"], 2, "densities only"),
    "option": (["--seeds", "0", "--shapez"], 2, "No such option"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_call_is_one_line_and_leaves_nothing(run: Run, toy_networks: Path, tmp_path: Path, kind: str) -> None:
    arguments, code, text = BAD[kind]
    result = run(gen_samples, "--network", str(toy_networks), "--outdir", "out", *arguments)
    assert text in result.the_error()
    assert (result.code, result.out) == (code, "")
    assert list(tmp_path.iterdir()) == []


def test_seeds_without_a_surface_keep_their_pictures(run: Run, toy_networks: Path, tmp_path: Path) -> None:
    arguments = ("--network", str(toy_networks), "--seeds", "0-1", "--outdir", "out", "--shapes", "--shape-res", "8")
    result = run(gen_samples, *arguments, "--shape-level", "1000")
    assert result.code == 1
    assert result.the_error().startswith("no mesh of seed0000, seed0001 (2 in all); no surface: density")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"seed0000.png", "seed0001.png"}
