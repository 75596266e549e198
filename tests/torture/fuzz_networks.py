"""Damaged network files, safetensors and published pickles, for every reader of networks: see `fuzz`."""

from __future__ import annotations

import functools
import json
import pickletools
import random
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mutations import NASTY_JSON, NASTY_NUMBERS, FuzzReport, mutated_bytes, mutated_json, tried
from safetensors import safe_open
from safetensors.torch import load_file, save
from tiny import tiny_discriminator_config, tiny_generator_config

from eg3d.checkpoints.convert_pickle import convert
from eg3d.checkpoints.store import load_discriminator, load_generator, read_metadata, save_networks
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.networks.discriminator import DualDiscriminator

sys.path.append(str(Path(__file__).resolve().parents[1] / "checkpoints"))
from official_pickle import ODD_VALUES, Easy, Sources, discriminator_record, dumps, generator_record, places

HOSTILE = (  # pieces of pickle: names of code, calls, memo and stack abuse
    b"cos\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"(X\x04\x00\x00\x00trueios\nsystem\n", b"R", b"b", b"Q",
    b"(", b"\x81", b"0", b"2", b"t", b"\x94", b".", b"\x82\x01", b"\x97", b"h\xff", b"]\x94h\x00a", b"\x8a\xff",
)  # fmt: skip
DTYPES = (torch.int8, torch.bool, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.complex64)


def fuzz(cases: int, seed: int) -> FuzzReport:
    """Read so many damaged network files, safetensors and pickles in turns, with the loaders and the conversion."""
    report = FuzzReport()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        base = _whole_file(folder)
        for index in range(cases):
            rng = random.Random(f"{seed}/{index}")
            is_pickle = bool(index % 2)
            path = folder / ("case.pkl" if is_pickle else "case.safetensors")
            path.write_bytes(damaged_pickle(rng) if is_pickle else damaged_safetensors(rng, base))
            read = rng.choice(READERS if is_pickle else READERS[:-1])
            tried(report, f"{seed}/{index} {read.__name__}", functools.partial(read, path), file=path)
            (folder / "out.safetensors").unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder)
    return report


# ---------------------------------------------------------------------------------------------- readers


def _generator(path: Path) -> None:
    G = load_generator(path)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in G.state_dict().values())
    assert sum(tensor.numel() for tensor in G.state_dict().values()) < 10**6


def _discriminator(path: Path) -> None:
    D = load_discriminator(path)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in D.state_dict().values())


def _conversion(path: Path) -> None:
    target = path.parent / "out.safetensors"
    try:
        done = convert(path, target)
    except Exception:
        assert not target.exists(), "a refused conversion left something behind"
        raise
    assert sorted(read_metadata(target)["configs"]) == sorted(done.networks)
    for net in done.networks:
        (load_discriminator if net == "D" else load_generator)(target, net=net)


READERS: tuple[Callable[[Path], None], ...] = (_generator, _discriminator, _conversion)


# ---------------------------------------------------------------------------------------------- safetensors


def _whole_file(folder: Path) -> Path:
    path = folder / "whole.safetensors"
    networks, configs = _networks(), {"G_ema": tiny_generator_config(), "D": tiny_discriminator_config()}
    save_networks(path, networks, configs=configs, extra={"num_images": 8, "notes": ["a", 1.5]})
    return path


@functools.cache
def _networks() -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            "G_ema": TriPlaneGenerator(tiny_generator_config()),
            "D": DualDiscriminator(tiny_discriminator_config()),
        }


def damaged_safetensors(rng: random.Random, base: Path) -> bytes:
    """The file with damage to its bytes, its header, its metadata or its tensors."""
    kind = rng.randrange(5)
    content = base.read_bytes()
    if kind == 0:
        return mutated_bytes(rng, content)
    size = struct.unpack_from("<Q", content)[0]
    if kind == 1:  # the table of tensors
        header = mutated_json(rng, json.loads(content[8 : 8 + size]))
        announced = rng.choice((len(header),) * 8 + (0, size, 2**40, 2**63))
        return struct.pack("<Q", announced) + header + content[8 + size :]
    with safe_open(str(base), framework="pt") as file:
        texts = dict(file.metadata())
    tensors = load_file(base)
    if kind == 2:
        _damage_tensors(rng, tensors)
    else:
        _damage_metadata(rng, texts)
    return save(tensors, texts)


def _damage_metadata(rng: random.Random, texts: dict[str, str]) -> None:
    name = rng.choice(("configs",) * 6 + ("kinds", "extra", "format"))
    kind = rng.randrange(8)
    if kind == 0:
        del texts[name]
    elif kind == 1 or name == "format":
        texts[name] = rng.choice(NASTY_JSON + NASTY_NUMBERS)
    else:
        texts[name] = mutated_json(rng, json.loads(texts[name])).decode("utf-8", "replace")


def _damage_tensors(rng: random.Random, tensors: dict[str, torch.Tensor]) -> None:
    name = rng.choice(list(tensors))
    kind = rng.randrange(7)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[rng.choice(("G_ema/", "D/", "", "/", "x/y/", "G_ema/\n", "G_ema/é")) + "a"] = tensors.pop(name)
    elif kind == 2:
        tensors[name] = tensors[name].to(rng.choice(DTYPES))
    elif kind == 3:
        tensors[name] = tensors[name].reshape(-1)[: rng.randrange(tensors[name].numel())].clone()
    elif kind == 4:
        tensors[name] = torch.zeros(rng.choice(((), (0,), (0, 7), (1,) * 8, (3, 3))))
    elif tensors[name].is_floating_point() and tensors[name].numel():
        odd = rng.choice((float("nan"), float("inf"), -float("inf"), 3e38, 0.0))
        tensors[name].view(-1)[rng.randrange(tensors[name].numel())] = odd


# ---------------------------------------------------------------------------------------------- pickles


def damaged_pickle(rng: random.Random) -> bytes:
    """A published file with damage to its bytes, to single operations, or to values of its objects."""
    kind = rng.randrange(4)
    protocol = rng.randrange(6)
    if kind == 0:
        return mutated_bytes(rng, _whole_pickle(protocol))
    if kind == 1:
        return _without_operations(rng, _whole_pickle(protocol))
    sources = Sources("/nonexistent/trace")
    networks = _networks()
    root: dict[str, Any] = {
        "training_set_kwargs": Easy({"path": "faces.zip"}),
        "G_ema": generator_record(networks["G_ema"], sources),
        "D": discriminator_record(networks["D"], sources),
        "augment_pipe": None,
    }
    for _ in range(rng.choice((1, 1, 2, 5))):
        _change_value(rng, root)
    return dumps(root, protocol)


@functools.cache
def _whole_pickle(protocol: int) -> bytes:
    sources, networks = Sources("/nonexistent/trace"), _networks()
    root = {"G_ema": generator_record(networks["G_ema"], sources), "D": discriminator_record(networks["D"], sources)}
    return dumps(root, protocol)


@functools.cache
def _operations(protocol: int) -> list[int]:
    """Where the operations of the whole file begin."""
    return [at for _, _, at in pickletools.genops(_whole_pickle(protocol)) if at is not None]


def _without_operations(rng: random.Random, data: bytes) -> bytes:
    """The file with a few operations dropped, repeated or swapped, or a hostile piece put between two."""
    starts = [*_operations(data[1] if data[:1] == b"\x80" else 0), len(data)]
    at = rng.randrange(len(starts) - 1)
    count = min(rng.choice((1, 1, 2, 9)), len(starts) - 1 - at)
    piece, rest = data[starts[at] : starts[at + count]], data[starts[at + count] :]
    hostile = rng.choice(HOSTILE)
    put = rng.choice((b"", piece * 2, piece[::-1], hostile + piece, piece + hostile))
    return data[: starts[at]] + put + rest


def _change_value(rng: random.Random, root: dict[str, Any]) -> None:
    """One value, anywhere in a tree of stand-ins, replaced, removed or put under another name."""
    found = places(root, [])
    table, key = rng.choice(found)
    kind = rng.randrange(5)
    if kind == 0:
        del table[key]
    elif kind == 1:
        table[rng.choice(("x", "", "\n", "fc9", "b64", "t_mapping", "ConvA"))] = table.pop(key)
    else:
        table[key] = rng.choice(ODD_VALUES)
