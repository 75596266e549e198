"""Damaged files of runs: records and configs, stages of a pipeline, training states, reward checkpoints and bundles."""

from __future__ import annotations

import copy
import functools
import io
import json
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from mutations import NASTY_JSON, NASTY_NUMBERS, FuzzReport, fuzzed, mutated_bytes, mutated_json, write_zip
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from eg3d.file_hash import sha256_of
from eg3d.run_folder import RunFolder
from eg3d.samples import SampleConfig
from eg3d.training.counters import Counters
from eg3d.training.state import STATE_NAME, load_training_state, save_training_state
from paper_result_analyses.stages import Stage, StageRunner, read_records
from reward_model_training.bundle import CARD_FILE, WEIGHTS_FILE, load_reward
from reward_model_training.lightning_state import BestEpoch, checksum, read_state
from tests.analyses.tiny_run import save_tiny_reward


def fuzz_run_records(cases: int, seed: int) -> FuzzReport:
    return fuzzed(cases, seed, _run_folder, _claim)


def fuzz_stage_records(cases: int, seed: int) -> FuzzReport:
    return fuzzed(cases, seed, _stages, _continue_stages)


def fuzz_training_states(cases: int, seed: int) -> FuzzReport:
    return fuzzed(cases, seed, _state, _read_state)


def fuzz_reward_checkpoints(cases: int, seed: int) -> FuzzReport:
    return fuzzed(cases, seed, _checkpoint, _read_checkpoint)


def fuzz_bundles(cases: int, seed: int) -> FuzzReport:
    return fuzzed(cases, seed, _bundle, _read_bundle)


@functools.cache
def _whole(make: Callable[[Path], None]) -> dict[str, bytes]:
    """The files that `make` writes to a folder."""
    folder = Path(tempfile.mkdtemp(prefix="whole-"))
    try:
        make(folder)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    finally:
        shutil.rmtree(folder)


def _written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def _damaged_yaml(rng: random.Random, content: bytes) -> bytes:
    """YAML with damage to its bytes or its values; JSON is YAML."""
    if rng.random() < 0.4:
        return mutated_bytes(rng, content)
    if rng.random() < 0.2:
        tags = (b"!!python/object/apply:os.getcwd []", b"&a [*a, *a]", b"? [a]\n: b", b"a: *b", b"--- a\n--- b", b"\0")
        return rng.choice((content + b"\n", b"")) + rng.choice(tags)
    return mutated_json(rng, yaml.safe_load(content))


# ---------------------------------------------------------------------------------------------- records


def _record_run(folder: Path) -> None:
    RunFolder.claim(folder / "run", SampleConfig(), seed=1, inputs={"data": None}, facts={"is": True}).release()


def _run_folder(rng: random.Random, folder: Path) -> Path:
    files = dict(_whole(_record_run))
    name = rng.choice(("run/run.json",) * 2 + ("run/config.yaml",))
    content = files[name]
    if name.endswith("json") and rng.random() < 0.7:
        files[name] = mutated_json(rng, json.loads(content))
    else:
        files[name] = _damaged_yaml(rng, content)
    if rng.random() < 0.05:
        del files[name]
    return _written(folder, files) / "run"


def _claim(path: Path) -> None:
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "run.lock"}
    try:
        RunFolder.claim(path, SampleConfig(), seed=1, inputs={"data": None}, facts={"is": True}).release()
    except Exception:
        after = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "run.lock"}
        assert after == before, "a refused run changed the folder"
        raise
    json.loads((path / "run.json").read_text())


def _do_stages(folder: Path) -> None:
    runner = StageRunner(folder / "run", ["one", "two"])
    for name in ("one", "two"):
        runner.run(_stage(name, folder / "run"))


def _stage(name: str, folder: Path) -> Stage:
    def work() -> list[Path]:
        (folder / name).write_text("x")
        return [folder / name]

    return Stage(name, "by hand", {"a": 1, "b": [1.5, None]}, {}, work)


def _stages(rng: random.Random, folder: Path) -> Path:
    files = dict(_whole(_do_stages))
    name = rng.choice(("run/stages/one.json", "run/stages/two.json"))
    files[name] = mutated_json(rng, json.loads(files[name]))
    return _written(folder, files) / "run" / "stages"


def _continue_stages(path: Path) -> None:
    read_records(path)
    _do_stages(path.parents[1])
    assert len(read_records(path)) == 2


# ---------------------------------------------------------------------------------------------- states


def _parts() -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    return {"networks": {"G": network}, "optimizers": {"G": optimizer}, "counters": Counters(num_images=8, tick=2)}


def _save_state(folder: Path) -> None:
    save_training_state(folder / STATE_NAME, **_parts())


def _state(rng: random.Random, folder: Path) -> Path:
    content = _whole(_save_state)[STATE_NAME]
    path = folder / STATE_NAME
    kind = rng.randrange(5)
    if kind <= 1:
        path.write_bytes(mutated_bytes(rng, content))
        return path
    size = struct.unpack_from("<Q", content)[0]
    if kind == 2:
        header = mutated_json(rng, json.loads(content[8 : 8 + size]))
        path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])
        return path
    path.write_bytes(content)
    with safe_open(str(path), framework="pt") as file:
        texts, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if kind == 3:
        name = rng.choice(list(texts))
        texts[name] = rng.choice((*NASTY_JSON, *NASTY_NUMBERS, texts[name] + " "))
    else:
        name = rng.choice(list(tensors))
        value = tensors.pop(name)
        changed = (value.double(), value.reshape(-1)[:1].clone(), torch.full_like(value, 7), value[..., None].clone())
        tensors[rng.choice((name, name + "x", "network/H/a", "optimizer/G/x/y", "z"))] = rng.choice(changed)
    path.write_bytes(save(tensors, texts))
    return path


def _read_state(path: Path) -> None:
    parts = _parts()
    before = copy.deepcopy({name: network.state_dict() for name, network in parts["networks"].items()})
    load_training_state(path, **parts)
    for name, network in parts["networks"].items():
        same = [torch.equal(value, before[name][key]) for key, value in network.state_dict().items()]
        assert all(same), "a damaged state was taken"
    assert parts["counters"].num_images == 8


def _save_checkpoint(folder: Path) -> None:
    best = BestEpoch("best.ckpt", monitor="val/pairs_loss", patience=3, divergence=2.0)
    model = nn.Linear(3, 2)
    state = {
        "epoch": 1, "global_step": 4, "pytorch-lightning_version": "2.5.0", "state_dict": model.state_dict(),
        "optimizer_states": [torch.optim.Adam(model.parameters()).state_dict()], "lr_schedulers": [], "loops": {},
        "callbacks": {best.state_key: {"loss": 0.5, "best": 0.25, "num_worse": 1}},
    }  # fmt: skip
    torch.save({**state, "sha256": checksum(state)}, folder / "last.ckpt")


def _checkpoint(rng: random.Random, folder: Path) -> Path:
    content, path = _whole(_save_checkpoint)["last.ckpt"], folder / "last.ckpt"
    kind = rng.randrange(4)
    if kind == 0:
        path.write_bytes(mutated_bytes(rng, content))
        return path
    if kind <= 2:  # one file of the archive
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
        at = rng.randrange(len(members))
        if rng.random() < 0.5:
            at = next(index for index, (name, _) in enumerate(members) if name.endswith("data.pkl"))
        members[at] = (members[at][0], mutated_bytes(rng, members[at][1]))
        write_zip(rng, path, members)
        return path
    state = torch.load(io.BytesIO(content), weights_only=True)
    odd = (
        None,
        0,
        -1,
        2**70,
        float("nan"),
        "x",
        [],
        {},
        torch.ones(2),
        torch.full((2, 3), float("nan")),
        {"loss": "x"},
    )
    parent = rng.choice((state, state["state_dict"], state["callbacks"], next(iter(state["callbacks"].values()))))
    del state["sha256"]
    parent[rng.choice([key for key in parent if key != "sha256"])] = rng.choice(odd)
    torch.save({**state, "sha256": checksum(state)}, path)  # as if it had been written so
    return path


def _read_checkpoint(path: Path) -> None:
    state = read_state(path)
    assert isinstance(state["state_dict"], dict)
    best = BestEpoch("best.ckpt", monitor="val/pairs_loss", patience=3, divergence=2.0)
    best.read(path)
    best.verdict()


# ---------------------------------------------------------------------------------------------- bundles


def _save_bundle(folder: Path) -> None:
    save_tiny_reward(folder / "reward")


def _bundle(rng: random.Random, folder: Path) -> Path:
    """A bundle with a damaged card, or damaged weights; in one of two the card agrees with them."""
    files = dict(_whole(_save_bundle))
    card, weights = f"reward/{CARD_FILE}", f"reward/{WEIGHTS_FILE}"
    if rng.random() < 0.5:
        files[card] = _damaged_yaml(rng, files[card])
    else:
        files[weights] = mutated_bytes(rng, files[weights])
    path = _written(folder, files) / "reward"
    if rng.random() < 0.5:
        text = (path / CARD_FILE).read_bytes()
        old = yaml.safe_load(_whole(_save_bundle)[card])["weights_sha256"].encode()
        (path / CARD_FILE).write_bytes(text.replace(old, sha256_of(path / WEIGHTS_FILE).encode()))
    return path


def _read_bundle(path: Path) -> None:
    reward = load_reward(path)
    assert all(bool(torch.isfinite(value).all()) for value in reward.model.state_dict().values())
