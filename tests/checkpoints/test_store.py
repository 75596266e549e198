"""Network files: what goes in comes out, and every fault is one clear line."""

import dataclasses
import json
import re
import time

import pytest
import torch
from safetensors import safe_open
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


# ---------------------------------------------------------------------------------------------- damage


def rewritten(path, *, metadata=None, **tensors):
    """The file again, with other metadata texts (None = left out) and tensors."""
    with safe_open(str(path), framework="pt") as file:
        texts = {**file.metadata(), **(metadata or {})}
    kept = {name: text for name, text in texts.items() if text is not None}
    save_file(load_file(path) | tensors, path, metadata=kept)
    return path


def configs_with(path, net="G_ema", **changes):
    """The metadata text of the configurations with some settings changed, None = left out."""
    configs = read_metadata(path)["configs"]
    configs[net] = {k: v for k, v in (configs[net] | changes).items() if v is not None}
    return {"configs": json.dumps(configs)}


METADATA = {
    "configs gone": ({"configs": None}, "its metadata is damaged (it has no configs)"),
    "extra gone": ({"extra": None}, "its metadata is damaged (it has no extra)"),
    "cut JSON": ({"configs": '{"G_ema": {'}, "its metadata is damaged (configs: Expecting"),
    "not JSON": ({"extra": "{'a': 1}"}, "its metadata is damaged (extra: Expecting property name"),
    "a list": ({"configs": "[]"}, "its metadata is damaged (configs is no table)"),
    "a number": ({"kinds": "7"}, "its metadata is damaged (kinds is no table)"),
    "null": ({"extra": "null"}, "its metadata is damaged (extra is no table)"),
    "NaN": ({"extra": '{"a": NaN}'}, "its metadata is damaged (extra: NaN is no JSON)"),
    "deep": ({"extra": "[" * 10**5}, "its metadata is damaged (extra: maximum recursion depth"),
    "many digits": ({"extra": '{"a": ' + "9" * 5000 + "}"}, "its metadata is damaged (extra: Exceeds the limit"),
    "a network's list": ({"configs": '{"G_ema": []}'}, "its metadata is damaged (configs of G_ema is no table)"),
    "a kind's number": ({"kinds": '{"G_ema": 1}'}, "its metadata is damaged (kinds of G_ema is no text)"),
    "unknown kind": ({"kinds": '{"G_ema": "x"}'}, "G_ema: generator kind 'x' is not one of "),
    "format": ({"format": "other\nformat"}, "is not a network file: format is 'other\\nformat', expected"),
    "no format": ({"format": None}, "is not a network file: format is None, expected"),
}


@pytest.mark.parametrize("name", METADATA)
def test_damaged_metadata_is_one_line(saved, name):
    change, said = METADATA[name]
    path = rewritten(saved[0], metadata=change)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}") as error:
        load_generator(path)
    assert said in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 500


SETTINGS = {
    "a text": ({"z_dim": "8"}, "z_dim must be a whole number, found '8'"),
    "a fraction": ({"z_dim": 8.5}, "z_dim must be a whole number, found 8.5"),
    "a switch": ({"z_dim": True}, "z_dim must be a whole number, found True"),
    "nothing": ({"rendering": []}, "rendering: expected a table of the settings of RenderingConfig, found a list"),
    "a short pivot": ({"camera": {"pivot": [0, 0]}}, "camera: pivot must be a list of 3, found a list"),
    "unknown": ({"colour": "red"}, "GeneratorConfig has no field colour; it has"),
    "nested unknown": ({"camera": {"colour": "red"}}, "CameraConfig has no field colour; it has"),
    "many layers": ({"mapping_layers": 10**6}, "mapping_layers: 1e+06 is beyond 64"),
    "many samples": ({"rendering": {"depth_resolution": 10**9}}, "rendering.depth_resolution: 1e+09 is beyond 1024"),
    "large pictures": ({"img_resolution": 10**9}, "img_resolution: 1e+09 is beyond"),
    "below": ({"z_dim": 0}, "z_dim: must be at least 1, got 0"),
    "wide": ({"z_dim": 16384, "w_dim": 16384, "mapping_layers": 64}, "a larger network than its numbers fill"),
    "another width": ({"w_dim": 9}, "the tensors do not fit the network; mis-shaped: "),
    "another upsampling": ({"superresolution": "8X"}, "super-resolution 8X enlarges 4x"),
    "huge digits": ({"z_dim": 10**400}, "z_dim must be a whole number, found one beyond 63 bits"),
    "far": ({"camera": {"radius": 1e300}}, "camera.radius: 1e+300 is beyond 1e+06"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_no_network_has_are_one_line_before_anything_is_built(saved, name):
    change, said = SETTINGS[name]
    path = rewritten(saved[0], metadata=configs_with(saved[0], **change))
    start = time.monotonic()
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}, G_ema") as error:
        load_generator(path)
    assert said in str(error.value) and str(error.value).isprintable()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("net", ["G_ema", "D"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(saved, net, value):
    path = saved[0]
    name = next(name for name in load_file(path) if name.startswith(f"{net}/") and name.endswith("weight"))
    changed = load_file(path)[name]
    changed.view(-1)[-1] = value
    rewritten(path, **{name: changed})
    load = load_generator if net == "G_ema" else load_discriminator
    with pytest.raises(ValueError, match=rf"net.safetensors, {net}: has NaN or infinite numbers in ") as error:
        load(path)
    assert name.removeprefix(f"{net}/") in str(error.value)


def test_whole_numbers_are_no_weights(saved):
    name = "G_ema/decoder.net.0.weight"
    rewritten(saved[0], **{name: load_file(saved[0])[name].to(torch.int8)})
    with pytest.raises(ValueError, match=r"not of real numbers: decoder.net.0.weight \(torch.int8\)"):
        load_generator(saved[0])
    rewritten(saved[0], **{name: load_file(saved[0])[name].to(torch.uint8).view(torch.float8_e5m2)})
    with pytest.raises(ValueError, match=r"has numbers of the kind F8_E5M2 in G_ema/decoder.net.0.weight"):
        load_generator(saved[0])


def test_nothing_unreadable_is_written(saved, tmp_path, generator_config):
    path, G, _ = saved
    with torch.no_grad():
        G.decoder.net[0].bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"not written, there are NaN or infinite numbers in G/decoder\.net\.0\.bias"):
        save_networks(tmp_path / "new.safetensors", {"G": G}, configs={"G": generator_config})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


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
    for content in ("[]", '{"checkpoints": []}', "{}"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match=r"manifest\.json: (expected a table|'checkpoints' must be an object)"):
            read_manifest(tmp_path / "manifest.json")
    with pytest.raises(ValueError, match="checkpoint 'a' lacks sha256, licence, source"):
        read_manifest(manifest(tmp_path, a={"file": "x"}))
    whole = {"file": "x", "sha256": None, "licence": "", "source": ""}
    for key, value in (("file", 3), ("file", ""), ("sha256", 3), ("source", None)):
        with pytest.raises(ValueError, match=f"checkpoint 'a' must have a text as {key}"):
            read_manifest(manifest(tmp_path, a={**whole, key: value}))
    for content in (b"\xff", b"[" * 100_000, b"{"):
        (tmp_path / "manifest.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"^\S*manifest\.json: not plain JSON data \("):
            read_manifest(tmp_path / "manifest.json")
