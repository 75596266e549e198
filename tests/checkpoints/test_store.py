"""Network files: what goes in comes out, and every fault is one clear line."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from eg3d.checkpoints.manifest import read_manifest, resolve
from eg3d.checkpoints.store import (
    config_from_data,
    fill_module,
    load_discriminator,
    load_generator,
    read_metadata,
    read_tensors,
    save_networks,
)
from eg3d.file_hash import sha256_of
from eg3d.generators.eg3d import GeneratorConfig, TriPlaneGenerator
from eg3d.networks.discriminator import DualDiscriminator


@pytest.fixture
def saved(tmp_path, generator_config, discriminator_config):
    torch.manual_seed(0)
    G, D = TriPlaneGenerator(generator_config), DualDiscriminator(discriminator_config)
    path = tmp_path / "net.safetensors"
    configs = {"G_ema": generator_config, "D": discriminator_config}
    save_networks(path, {"G_ema": G, "D": D}, configs=configs, extra={"kimg": 1.5})
    return path, G, D


def test_networks_come_back_bit_for_bit(saved):
    path, G, D = saved
    again = load_generator(path)
    assert not again.training
    assert again.cfg == G.cfg
    assert isinstance(again.cfg.camera.pivot, tuple)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), G.state_dict().values(), strict=True))
    D2 = load_discriminator(path)
    assert D2.cfg == D.cfg
    assert all(torch.equal(a, b) for a, b in zip(D2.state_dict().values(), D.state_dict().values(), strict=True))
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]  # no temporary file left


def test_metadata_is_plain_data(saved):
    path, G, _ = saved
    metadata = read_metadata(path)
    assert metadata["extra"] == {"kimg": 1.5}
    assert metadata["configs"]["G_ema"]["z_dim"] == G.cfg.z_dim
    assert "_target_" not in json.dumps(metadata)


def test_all_misfits_in_one_line(saved):
    path, G, _ = saved
    tensors = read_tensors(path, "G_ema")
    tensors["extra.weight"] = torch.zeros(1)
    del tensors["decoder.net.0.bias"]
    tensors["decoder.net.2.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match="do not fit") as caught:
        fill_module(G, tensors, "file")
    assert str(caught.value) == (
        "file: the tensors do not fit the network; missing: decoder.net.0.bias; unknown: extra.weight; "
        "mis-shaped: decoder.net.2.bias [3] instead of [5]"
    )


def test_other_faults(saved, tmp_path, generator_config):
    path, G, _ = saved
    with pytest.raises(ValueError, match="holds no network 'G'; it holds D, G_ema"):
        read_tensors(path, "G")
    with pytest.raises(ValueError, match="holds no configuration of 'G'; it holds G_ema, D"):
        load_generator(path, net="G")
    with pytest.raises(FileNotFoundError, match="no network file at"):
        load_generator(tmp_path / "absent.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_generator(broken)
    foreign = tmp_path / "foreign.safetensors"
    save_file(load_file(path), foreign)
    with pytest.raises(ValueError, match="is not a network file: format is None"):
        load_generator(foreign)
    with pytest.raises(ValueError, match="no configuration for G_ema"):
        save_networks(tmp_path / "x.safetensors", {"G_ema": G}, configs={})
    with pytest.raises(ValueError, match="GeneratorConfig has no field colour"):
        config_from_data(GeneratorConfig, {"colour": 1}, "file")


def test_a_failed_write_leaves_the_old_file(saved, generator_config):
    path, G, _ = saved
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_networks(path, {"G_ema": G}, configs={"G_ema": generator_config}, extra={"bad": object()})
    assert path.read_bytes() == before


def test_config_round_trip():
    cfg = GeneratorConfig(sr_channels=[8, 4])
    cfg.rendering.ray_start = cfg.rendering.ray_end = "auto"
    data = json.loads(json.dumps(dataclasses.asdict(cfg)))
    assert config_from_data(GeneratorConfig, data, "file") == cfg


def entry(path, **changes):
    return {"file": path.name, "sha256": sha256_of(path), "licence": "Apache-2.0", "source": "make twin"} | changes


def manifest(folder, **entries):
    path = folder / "manifest.json"
    path.write_text(json.dumps({"checkpoints": entries}))
    return path


def test_names_resolve_and_are_verified(saved):
    path = saved[0]
    listed = manifest(path.parent, twin=entry(path))
    assert resolve("twin", manifest=listed) == path
    assert resolve(path, manifest=listed) == path
    with pytest.raises(FileNotFoundError, match=r"'other' is neither a file nor in .*; known names: twin"):
        resolve("other", manifest=listed)
    with pytest.raises(ValueError, match=r"has SHA-256 .*, the manifest says 0000.*get it again from make twin"):
        resolve("twin", manifest=manifest(path.parent, twin=entry(path, sha256="0" * 64)))
    path.unlink()
    gone = manifest(path.parent, twin={"file": "net.safetensors", "sha256": "0", "licence": "x", "source": "make twin"})
    with pytest.raises(FileNotFoundError, match="is missing; get it from make twin"):
        resolve("twin", manifest=gone)


def test_manifest_faults(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint manifest at"):
        read_manifest(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="must be JSON with a 'checkpoints' object"):
        read_manifest(tmp_path / "manifest.json")
    with pytest.raises(ValueError, match="checkpoint 'a' lacks sha256, licence, source"):
        read_manifest(manifest(tmp_path, a={"file": "x"}))
