"""A wheel of this repository, installed outside the checkout: what it carries, and that it works in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CARRIED = ("configs", "checkpoints")
CODE = ("eg3d", "reward_model_training", "dataset_preprocessing", "paper_result_analyses", "sculpting_nerf")
UNSHIPPED = ("__pycache__", "*.egg-info", "detectors", "*.pkl", "*.tmp")
SMALL = (  # the demonstration at its smallest: every stage, few images and seeds
    "heads=num_images=16 seed=7 yaw_std=0.22 yaw_max=0.45",
    *(
        f"++finetuning.{arm}=experiment=twin_{name} batch=4 total_kimg=0.008 tick_kimg=0.004 tracking.num_seeds=2"
        for arm, name in (("tuned", "sfield"), ("control", "control"))
    ),
    *("geometry.num_seeds=2", "truncation.num_seeds=1", "before_after.num_seeds=4", "image_change.num_seeds=8"),
    *("image_change.data_images=8", "image_change.subset_size=4", "reward_stress.num_seeds=2", "truth.num_seeds=2"),
)


def run(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run([*map(str, command)], cwd=folder, env=kept, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*CODE, *CARRIED):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns(*UNSHIPPED))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", made]
    done = run([sys.executable, "-m", "pip", "wheel", source, *options], source)
    assert done.returncode == 0, done.stderr
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripts of an environment with the wheel.

    Dependencies come from the environment that runs the tests. This checkout, which that one may have as an editable
    installation, does not: only its plain folder of packages is seen.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    (packages,) = {path.resolve() for path in home.glob("[lL]ib*/**/site-packages")}
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel]
    done = run(pip, home)
    assert done.returncode == 0, done.stderr
    return python.parent


def test_the_wheel_carries_what_git_has(wheel: Path) -> None:
    """Every file of the packages, the configs and the checkpoints, each once, and nothing else."""
    listed = run(["git", "ls-files", "-z", "--", *CODE, *CARRIED], ROOT)
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    wanted = {
        f"sculpting_nerf/{path}" if path.startswith(CARRIED) else path for path in listed.stdout.split("\0") if path
    }
    found = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(found) == sorted(wanted)


def test_the_installed_package_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    asked = "import eg3d.installation as i; print(i.checkout(), i.own_folder('configs'), i.__file__)"
    told = run([installed / "python", "-c", asked], tmp_path).stdout
    assert told.startswith("None ") and str(ROOT) not in told


def test_sculpt_knows_its_commands_and_networks_anywhere(installed: Path, tmp_path: Path) -> None:
    from sculpting_nerf.entries import ENTRIES

    version = run([installed / "sculpt", "--version"], tmp_path)
    assert version.stdout.strip() == run([installed / "python", "-c", VERSION], tmp_path).stdout.strip() != ""
    told = run([installed / "sculpt", "--help"], tmp_path).stdout
    assert all(f"  {name} " in told for name in ENTRIES)
    told = run([installed / "sculpt", "tune", "--help"], tmp_path).stdout
    assert told.startswith("usage: sculpt tune ") and "twin_sfield" in told
    doctor = run([installed / "sculpt", "doctor"], tmp_path)
    assert doctor.returncode == 0 and "installed package" in doctor.stdout and "twin_reward" in doctor.stdout
    assert list(tmp_path.iterdir()) == []


VERSION = "import sculpting_nerf; print(sculpting_nerf.__version__)"


@pytest.mark.slow
def test_the_demonstration_runs_from_a_wheel(installed: Path, tmp_path: Path) -> None:
    """About a minute: sculpt demo, at its smallest, in an empty folder, to its report; and nothing beside runs/."""
    done = run([installed / "sculpt", "demo", *SMALL], tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "runs" / "demo" / "report.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert "sculpt demo" in (tmp_path / "runs" / "demo" / "stages" / "tuned.json").read_text()
