"""python -m eg3d.convert as a user runs it, and the names of networks that others publish."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hostile import generator, hostile_files
from official_pickle import official_file
from safetensors import safe_open
from tiny import tiny_discriminator_config

from eg3d.checkpoints.manifest import MANIFEST, read_manifest, resolve
from eg3d.checkpoints.store import load_discriminator, load_generator, read_metadata, read_tensors
from eg3d.convert import main
from eg3d.file_hash import sha256_of
from eg3d.generators.eg3d import TriPlaneGenerator, ffhq512_128
from eg3d.networks.discriminator import DiscriminatorConfig, DualDiscriminator

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = ("ffhq512-64", "ffhq512-128", "ffhqrebalanced512-64", "ffhqrebalanced512-128", "afhqcats512-128")
PUBLIC += ("shapenetcars128-64",)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A published file with two different generators, a discriminator and augmentation."""
    path = tmp_path / "in.pkl"
    G, average, D = generator(), generator(), DualDiscriminator(tiny_discriminator_config())
    with torch.no_grad():
        G.backbone.mapping.fc0.bias.add_(1.0)
    path.write_bytes(official_file(G, D, G_ema=average, trace=tmp_path / "ran", p=0.5))
    return path


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code and what was printed."""
    try:
        main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_good_call(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "made" / "out.safetensors"
    code, out, err = run(published, target, capsys=capsys)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"source: {published}, SHA-256 {sha256_of(published)}"
    assert [line.split(":")[0] for line in lines[1:]] == ["G_ema", "G", "D", "written"]
    for net in ("G_ema", "G"):
        a, b = load_generator(published, net=net), load_generator(target, net=net)
        assert a.cfg == b.cfg
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(read_tensors(target, "G")["backbone.mapping.fc0.bias"], a.backbone.mapping.fc0.bias + 1)
    a, b = load_discriminator(published), load_discriminator(target)
    assert a.cfg == b.cfg
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert [path.name for path in target.parent.iterdir()] == ["out.safetensors"]
    assert not (tmp_path / "ran").exists()


def test_metadata_says_where_it_comes_from(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.safetensors"
    run(published, target, capsys=capsys)
    metadata = read_metadata(target)
    assert sorted(metadata["configs"]) == ["D", "G", "G_ema"]
    extra = metadata["extra"]
    assert extra["source"] == {"file": "in.pkl", "bytes": published.stat().st_size, "sha256": sha256_of(published)}
    assert extra["augmentation"]["p"] == 0.5
    assert extra["training_set"]["resolution"] == 512
    assert len(extra["class_sources"]["D"]["DualDiscriminator"]) == 64
    with safe_open(str(target), framework="pt") as file:
        assert str(tmp_path / "ran") not in json.dumps(file.metadata())  # the source text: hashed, not kept


def test_some_networks_only(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.safetensors"
    assert run(published, target, "--networks", "G_ema, D", capsys=capsys)[0] == 0
    assert sorted(read_metadata(target)["configs"]) == ["D", "G_ema"]


def test_a_file_with_the_single_discriminator_is_read_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its class has no filter at the top; nothing reads the one that ours has."""
    D = DualDiscriminator(dataclasses.replace(tiny_discriminator_config(), dual_discrimination=False))
    source, target = tmp_path / "in.pkl", tmp_path / "out.safetensors"
    source.write_bytes(official_file(D=D, G_ema=generator()))
    assert b"resample_filter" in source.read_bytes()
    code, out, err = run(source, target, capsys=capsys)
    assert (code, err) == (0, "") and "\nD: " in out
    loaded = load_discriminator(target)
    assert loaded.cfg == D.cfg
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), D.state_dict().values(), strict=True))


def unreadable(tmp_path: Path, **wrong: float) -> Path:
    """A file whose networks of these names hold a number that is not finite."""
    networks = {"G": generator(), "D": DualDiscriminator(tiny_discriminator_config()), "G_ema": generator()}
    for net, value in wrong.items():
        with torch.no_grad():
            next(networks[net].parameters()).view(-1)[0] = value
    path = tmp_path / "in.pkl"
    path.write_bytes(official_file(**networks))
    return path


def test_what_cannot_be_read_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = unreadable(tmp_path, D=float("inf")), tmp_path / "out.safetensors"
    code, out, err = run(source, target, capsys=capsys)
    assert code == 0 and out.endswith(f"written: {target}\n")
    assert err.startswith(f"left out: D ({source}, D: has NaN or infinite numbers in ") and err.count("\n") == 1
    assert err.endswith("); --networks G_ema,G asks for the others alone\n")
    assert sorted(read_metadata(target)["configs"]) == ["G", "G_ema"]
    assert run(source, target, "--force", "--networks", "G_ema,G", capsys=capsys)[::2] == (0, "")


@pytest.mark.parametrize("networks", ["D", "G_ema,D"])
def test_what_is_asked_for_must_be_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str], networks: str) -> None:
    source, target = unreadable(tmp_path, D=float("nan")), tmp_path / "out.safetensors"
    code, out, err = run(source, target, "--networks", networks, capsys=capsys)
    assert (code, out) == (1, "") and f"{source}, D: has NaN" in err and not target.exists()


def test_without_a_readable_generator_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = unreadable(tmp_path, G=float("nan"), G_ema=float("nan")), tmp_path / "out.safetensors"
    code, out, err = run(source, target, capsys=capsys)
    assert (code, out) == (1, "") and f"{source}, G_ema: has NaN" in err and not target.exists()


def test_tensors_that_are_shared_or_strided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Views into one storage are written as tensors of their own."""
    G = generator()
    first, second = G.decoder.net[0], G.backbone.mapping.fc1
    first.weight = torch.nn.Parameter(torch.randn(2, 4).t())
    both = torch.randn(16)
    second.bias = torch.nn.Parameter(both[:8])
    G.backbone.mapping.fc0.bias = torch.nn.Parameter(both[8:])
    source, target = tmp_path / "in.pkl", tmp_path / "out.safetensors"
    source.write_bytes(official_file(G, G_ema=G))
    assert run(source, target, capsys=capsys)[::2] == (0, "")
    for net in ("G", "G_ema"):
        tensors = read_tensors(target, net)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in G.state_dict().items())


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.filterwarnings("error")
def test_old_protocols(tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: int) -> None:
    G, source, target = generator(), tmp_path / "in.pkl", tmp_path / "out.safetensors"
    source.write_bytes(official_file(G_ema=G, protocol=protocol))
    assert run(source, target, capsys=capsys)[::2] == (0, "")
    tensors = read_tensors(target, "G_ema")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in G.state_dict().items())


def test_overwriting_needs_force(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.safetensors"
    target.write_text("precious")
    code, out, err = run(published, target, capsys=capsys)
    assert (code, out) == (1, "")
    assert err == f"error: {target} exists already; give another name, or --force to write it anew\n"
    assert target.read_text() == "precious"
    assert run(published, target, "--force", capsys=capsys)[0] == 0
    assert load_generator(target).cfg == load_generator(published).cfg


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Missing argument 'SOURCE'"),
        (["in.pkl"], 2, "Missing argument 'TARGET'"),
        (["in.pkl", "out.safetensors", "--forse"], 2, "No such option"),
        (["in.pkl", "out.pt"], 1, "out.pt: the name of what is written must end in .safetensors"),
        (["absent.pkl", "out.safetensors"], 1, "no network file at absent.pkl"),
        (["absent", "out.safetensors"], 1, "checkpoint 'absent' is neither a file nor in"),
        (["in.pkl", "out.safetensors", "--networks", "E"], 1, "in.pkl holds no network 'E'; it holds G_ema, G, D"),
        (["twin", "out.safetensors"], 1, "twin.safetensors is no published pickle (.pkl); there is nothing to convert"),
        (["bad.pkl", "out.safetensors"], 1, "bad.pkl asks for 'os.system', which is not on the closed list"),
        (["nan.pkl", "out.safetensors"], 1, "nan.pkl, G_ema: has NaN or infinite numbers in decoder.net.2.bias"),
    ],
)
def test_bad_calls(
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    files = hostile_files(Path("/nonexistent/ran"))
    for name, key in (("bad.pkl", "os.system"), ("nan.pkl", "NaN")):
        Path(name).write_bytes(files[key][0])
    before = sorted(tmp_path.iterdir())
    found, out, err = run(*arguments, capsys=capsys)
    assert (found, out) == (code, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err
    assert sorted(tmp_path.iterdir()) == before


def test_as_a_module() -> None:
    help_run = subprocess.run(
        [sys.executable, "-m", "eg3d.convert", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (help_run.returncode, help_run.stderr) == (0, "")
    assert help_run.stdout.startswith("Usage: python -m eg3d.convert [OPTIONS] SOURCE TARGET")


# ---------------------------------------------------------------------------------------------- the manifest


@pytest.mark.parametrize("name", PUBLIC)
def test_networks_of_others_are_named_but_not_here(name: str) -> None:
    entry = read_manifest()[name]
    assert entry["file"] == f"{name}.pkl"
    assert "catalog.ngc.nvidia.com" in entry["source"] and "non-commercial" in entry["licence"]
    if (MANIFEST.parent / entry["file"]).is_file():
        pytest.skip("somebody put the file there")
    for asked in (name, f"{name}.pkl", f"somewhere/{name}.pkl"):
        with pytest.raises(FileNotFoundError) as caught:
            load_generator(asked)
        said = str(caught.value)
        assert entry["source"] in said and entry["licence"] in said
        assert str(MANIFEST.parent / entry["file"]) in said


def test_a_file_without_a_known_hash_is_taken(published: Path, tmp_path: Path) -> None:
    entry = {"file": published.name, "sha256": None, "licence": "theirs", "source": "https://example.org"}
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"checkpoints": {"theirs": entry}}))
    assert resolve("theirs", manifest=manifest) == published
    manifest.write_text(json.dumps({"checkpoints": {"theirs": entry | {"sha256": "0" * 64}}}))
    with pytest.raises(ValueError, match=r"has SHA-256 .* the manifest says 0000"):
        resolve("theirs", manifest=manifest)


# ---------------------------------------------------------------------------------------------- full size


# A process starts with the peak of the one that started it, so a small one stands between. Seconds are those of the
# processor: on a busy machine the clock says how busy it is.
MEASURED = """
import json, resource, subprocess, sys, time
start = time.monotonic()
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, time.monotonic() - start, used.ru_maxrss * 1024]))
"""


@pytest.mark.slow
def test_full_size_in_time_and_memory(tmp_path: Path) -> None:
    """Three networks of 512 pixels with random weights: every tensor equal, under 30 s and three times the file."""
    source, target = tmp_path / "in.pkl", tmp_path / "out.safetensors"
    G, average = TriPlaneGenerator(ffhq512_128()), TriPlaneGenerator(ffhq512_128())
    D = DualDiscriminator(DiscriminatorConfig())
    source.write_bytes(official_file(G, D, G_ema=average))
    command = [sys.executable, "-c", MEASURED, sys.executable, "-m", "eg3d.convert", str(source), str(target)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300, stdout=subprocess.PIPE)
    seconds, clock, peak = json.loads(run.stdout.splitlines()[-1])
    size = source.stat().st_size / 1e6
    print(f"{size:.1f} MB: {seconds:.1f} s of the processor, {clock:.1f} s by the clock, peak {peak / 1e6:.0f} MB")
    for net, module in (("G", G), ("G_ema", average), ("D", D)):
        tensors, expected = read_tensors(target, net), module.state_dict()
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    assert read_metadata(target)["configs"].keys() == {"G_ema", "G", "D"}
    assert load_generator(target).cfg == load_generator(source).cfg == ffhq512_128()
    assert load_discriminator(source).cfg == DiscriminatorConfig()
    assert seconds < 30
    assert peak < 3 * source.stat().st_size
