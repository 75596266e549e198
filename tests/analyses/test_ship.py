"""Shipping weights: files, manifest, and the limit."""

from __future__ import annotations

import json

import pytest
import torch

from eg3d.checkpoints import ship as shipping
from eg3d.checkpoints.manifest import MANIFEST, read_manifest, resolve
from eg3d.checkpoints.ship import ShipConfig, ship
from eg3d.checkpoints.store import load_generator
from tests.analyses.tiny_run import save_tiny_networks, save_tiny_reward


@pytest.fixture
def network(tmp_path):
    return save_tiny_networks(tmp_path / "run" / "net.safetensors")


def test_networks_are_listed_with_all_facts(tmp_path, network):
    (network.parent / "run.json").write_text(json.dumps({"command": "python -m eg3d.train experiment=tiny"}))
    (network.parent / "config.yaml").write_text("start: null\nwarm_start: {reconstruction_kimg: 2, edge_weight: 1}\n")
    data = tmp_path / "data"
    data.mkdir()
    recipe = {"maker": "a.maker", "num_images": 1, "seed": 3, "head_seeds": [0]}
    (data / "dataset.json").write_text(json.dumps({"labels": [["a.png", [0] * 25]], "recipe": recipe}))
    manifest = tmp_path / "shipped" / "manifest.json"
    entry = ship(ShipConfig(name="tiny", source=str(network), manifest=str(manifest), data=str(data), notes=["a note"]))
    assert resolve("tiny", manifest=manifest) == manifest.parent / "tiny.safetensors"
    assert (
        entry["bytes"] == network.stat().st_size and entry["licence"] == "Apache-2.0" and entry["notes"] == ["a note"]
    )
    assert entry["command"] == "python -m eg3d.train experiment=tiny"
    assert entry["warm_start"] == "reconstruction for 2 thousand images"
    assert entry["networks"] == ["D", "G", "G_ema"] and entry["config"]["G"]["z_dim"] == 8
    assert entry["data"]["recipe"] == {"maker": "a.maker", "num_images": 1, "seed": 3}
    assert "seed=3" in entry["data"]["command"] and len(entry["data"]["sha256"]) == 64


def test_a_reward_bundle_is_found_by_name(tmp_path, network):
    from reward_model_training.bundle import load_reward

    manifest = tmp_path / "shipped" / "manifest.json"
    ship(ShipConfig(name="tiny", source=str(network), manifest=str(manifest)))
    bundle = save_tiny_reward(tmp_path / "bundle")
    entry = ship(ShipConfig(name="tiny_reward", source=str(bundle), manifest=str(manifest)))
    assert entry["kind"] == "reward" and resolve("tiny_reward", manifest=manifest).name == "reward.safetensors"
    load_reward(manifest.parent / "tiny_reward")
    assert set(json.loads(manifest.read_text())["checkpoints"]) == {"tiny", "tiny_reward"}


def test_some_networks_of_a_file_are_shipped_alone(tmp_path, network):
    manifest = tmp_path / "shipped" / "manifest.json"
    whole = ship(ShipConfig(name="whole", source=str(network), manifest=str(manifest)))
    entry = ship(ShipConfig(name="some", source=str(network), networks=["G_ema"], manifest=str(manifest)))
    assert entry["networks"] == ["G_ema"] and entry["bytes"] < whole["bytes"]
    others = ("command", "num_images", "warm_start")
    assert [entry.get(key) for key in others] == [whole.get(key) for key in others]
    shipped, source = (load_generator(path).state_dict() for path in (resolve("some", manifest=manifest), network))
    assert shipped.keys() == source.keys() and all(torch.equal(shipped[key], source[key]) for key in source)
    with pytest.raises(ValueError, match="no network H; it has"):
        ship(ShipConfig(name="none", source=str(network), networks=["H"], manifest=str(manifest)))
    assert not (manifest.parent / "none.safetensors").exists()


def test_a_head_model_is_listed_as_its_card_says(tmp_path):
    manifest, shipped = tmp_path / "shipped" / "manifest.json", read_manifest()["head_model"]
    source = MANIFEST.parent / shipped["file"]
    entry = ship(ShipConfig(name="heads", source=str(source), manifest=str(manifest)))
    assert entry["file"] == "heads.npz" and resolve("heads", manifest=manifest).read_bytes() == source.read_bytes()
    same = ("sha256", "bytes", "licence", "source", "kind", "config", "held_out", "command", "made_with")
    assert {key: entry[key] for key in same} == {key: shipped[key] for key in same}
    (tmp_path / "broken.npz").write_bytes(source.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"broken\.npz: not a head model"):
        ship(ShipConfig(name="heads", source=str(tmp_path / "broken.npz"), manifest=str(manifest)))


def test_too_much_is_refused_and_nothing_written(tmp_path, network, monkeypatch):
    manifest = tmp_path / "shipped" / "manifest.json"
    ship(ShipConfig(name="first", source=str(network), manifest=str(manifest)))
    before = manifest.read_bytes()
    monkeypatch.setattr(shipping, "LIMIT_BYTES", int(1.5 * network.stat().st_size))
    with pytest.raises(ValueError, match="would make"):
        ship(ShipConfig(name="second", source=str(network), manifest=str(manifest)))
    assert manifest.read_bytes() == before and not (manifest.parent / "second.safetensors").exists()
    ship(ShipConfig(name="first", source=str(network), manifest=str(manifest)))  # replacing an entry frees its bytes


def test_the_limit_is_30_mb():
    assert shipping.LIMIT_BYTES == 30_000_000


def test_bad_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ship(ShipConfig(name="x", source=str(tmp_path / "none"), manifest=str(tmp_path / "m.json")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no reward bundle"):
        ship(ShipConfig(name="x", source=str(tmp_path / "empty"), manifest=str(tmp_path / "m.json")))


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_a_damaged_record_of_the_run_is_one_line_that_names_it(tmp_path, network, name):
    for text in ("[1]", "a: [1"):
        (network.parent / name).write_text(text)
        with pytest.raises(ValueError, match=rf"^\S*{name}: (not plain|expected a table)") as caught:
            ship(ShipConfig(name="tiny", source=str(network), manifest=str(tmp_path / "shipped" / "manifest.json")))
        assert "\n" not in str(caught.value)


def test_a_card_of_an_earlier_format_is_not_listed_half(tmp_path):
    bundle = save_tiny_reward(tmp_path / "bundle")
    card = bundle / "reward.yaml"
    card.write_text(card.read_text().replace("representation:", "slab:"))
    with pytest.raises(ValueError, match=r"reward\.yaml lacks representation"):
        ship(ShipConfig(name="tiny_reward", source=str(bundle), manifest=str(tmp_path / "shipped" / "manifest.json")))


def test_files_of_others_that_are_only_listed_do_not_count(tmp_path, network):
    manifest = tmp_path / "shipped" / "manifest.json"
    manifest.parent.mkdir()
    listed = {"file": "vgg.pth", "sha256": None, "bytes": 10**9, "licence": "x", "source": "y", "kind": "detector"}
    manifest.write_text(json.dumps({"checkpoints": {"vgg": listed}}))
    ship(ShipConfig(name="tiny", source=str(network), manifest=str(manifest)))
    assert json.loads(manifest.read_text())["checkpoints"]["vgg"] == listed


def test_the_same_weights_shipped_again_keep_what_is_not_given(tmp_path):
    """A card that was written anew: only its size is another."""
    manifest, bundle = tmp_path / "shipped" / "manifest.json", save_tiny_reward(tmp_path / "bundle")
    first = ship(ShipConfig(name="r", source=str(bundle), manifest=str(manifest), command="a b", notes=["n"]))
    with open(bundle / "reward.yaml", "a") as file:
        file.write("# more\n")
    again = ship(ShipConfig(name="r", source=str(bundle), manifest=str(manifest)))
    assert again == first | {"bytes": first["bytes"] + 7}
    assert ship(ShipConfig(name="r", source=str(bundle), manifest=str(manifest), notes=["m"]))["notes"] == ["m"]
