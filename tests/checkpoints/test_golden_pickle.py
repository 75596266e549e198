"""Golden arrays hold when the weights have come through a file with the structure of published ones."""

from __future__ import annotations

from pathlib import Path

import golden_check
import pytest
from official_pickle import official_file

from eg3d.checkpoints.store import load_discriminator, load_generator
from eg3d.networks import discriminator

HERE = Path(__file__).resolve().parents[1] / "golden"
FULL = Path(__file__).resolve().parents[3] / "shared" / "golden"


@pytest.fixture
def through_a_pickle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """golden_check makes its generators by way of a published file and the inert reader."""
    make = golden_check._generator

    def remade(variant: str, salt: str):
        path, G = tmp_path / f"{variant}.pkl", make(variant, salt)
        path.write_bytes(official_file(G_ema=G, trace=tmp_path / "ran"))
        wanted = G.cfg
        del G
        loaded = load_generator(path)
        assert loaded.cfg == wanted  # the preset, read back from the file
        assert not (tmp_path / "ran").exists()
        return loaded.requires_grad_(False)

    monkeypatch.setattr(golden_check, "_generator", remade)


def too_large(path: Path) -> dict[str, float]:
    errors = golden_check.check_file(path)
    assert errors
    return {name: error for name, error in errors.items() if error > golden_check.TOLERANCE}


def test_cars(through_a_pickle: None) -> None:
    assert too_large(HERE / "eg3d_shapenet128-64.npz") == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eg3d_ffhq512-128", "eg3d_afhq512-128", "eg3d_shapenet128-64"])
def test_full_size(through_a_pickle: None, name: str) -> None:
    path = FULL / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    assert too_large(path) == {}


@pytest.mark.slow
def test_discriminator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fill = golden_check.set_named_weights

    def fill_and_read_back(module: discriminator.DualDiscriminator, rule: golden_check.Rule, salt: str = "") -> None:
        fill(module, rule, salt)
        path = tmp_path / "D.pkl"
        path.write_bytes(official_file(D=module))
        module.load_state_dict(load_discriminator(path).state_dict())

    monkeypatch.setattr(golden_check, "set_named_weights", fill_and_read_back)
    assert too_large(HERE / "eg3d_discriminator_shapenet128-64.npz") == {}
