"""Golden arrays: the parts in tests/golden always, the full-size files beside the checkout when asked for."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import golden_check

HERE = Path(__file__).parent / "golden"
FULL = Path(__file__).resolve().parents[2] / "shared" / "golden"
FULL_FILES = (
    "eg3d_ffhq512-128.npz",
    "eg3d_afhq512-128.npz",
    "eg3d_shapenet128-64.npz",
    "eg3d_discriminator_ffhq512-128.npz",
    "eg3d_discriminator_shapenet128-64.npz",
    "density_skewed_ffhq_seed0.npz",
    "density_skewed_ffhq_seed200005.npz",
    "reward_sigma_unet.npz",
)


def worst(path, salt=""):
    return {name: error for name, error in golden_check.check_file(path, salt).items() if error > 1e-4}


@pytest.mark.parametrize("path", sorted(HERE.glob("*.npz")), ids=lambda path: path.stem)
def test_parts_in_the_repository(path):
    assert worst(path) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_FILES)
def test_full_files(name):
    if not (FULL / name).is_file():
        pytest.skip(f"{FULL / name} is not here")
    assert worst(FULL / name) == {}


def test_salt_changes_every_weight(tmp_path, capsys):
    shutil.copy(HERE / "reward_sigma_unet.npz", tmp_path)
    np.savez(tmp_path / "another_network.npz", x=np.zeros(1))
    assert golden_check.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "another_network.npz: no network for this file yet" in said
    assert "small_scalar" in said
    assert golden_check.main([str(tmp_path), "--salt", "other"]) == 1
    assert "small_scalar" in capsys.readouterr().out


def test_missing_arrays_and_nan_fail(tmp_path):
    with np.load(HERE / "reward_sigma_unet.npz") as data:
        np.savez(tmp_path / "reward_sigma_unet.npz", **data, small_unknown=np.ones(2, np.float32))
    assert worst(tmp_path / "reward_sigma_unet.npz") == {"small_unknown": float("inf")}
    assert golden_check.relative_error(np.array([np.nan]), np.ones(1)) == float("inf")
    assert golden_check.relative_error(np.ones(2), np.ones(1)) == float("inf")
    assert golden_check.relative_error(np.array([1.0, 2.2]), np.array([1.0, 2.0])) == pytest.approx(0.1)
    assert golden_check.main([str(tmp_path / "empty")]) == 1
