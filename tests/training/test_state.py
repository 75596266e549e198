"""The state file: exact, checked before it is believed, and clear about what else a run can go on from."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from eg3d.checkpoints.store import load_generator
from eg3d.training.config import TrainConfig
from eg3d.training.counters import Counters
from eg3d.training.loop import train
from eg3d.training.snapshots import newest_snapshot, snapshot_path
from eg3d.training.state import FORMAT, checksum, load_training_state, save_training_state

Make = Callable[..., TrainConfig]


def _stepped(*, num_images: int = 8) -> dict[str, Any]:
    """A network with an optimiser that has made a step, and one whose optimiser has not."""
    torch.manual_seed(0)
    networks = {"G": nn.Linear(3, 2), "D": nn.Linear(2, 1)}
    optimizers = {f"{name}main": torch.optim.Adam(network.parameters()) for name, network in networks.items()}
    networks["G"](torch.ones(1, 3)).sum().backward()
    optimizers["Gmain"].step()
    return {
        "networks": networks,
        "optimizers": optimizers,
        "counters": Counters(num_images, 2, 1, real_signs=0.5, real_count=4.0),
    }


def _parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(str(path), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def _written(path: Path, tensors: dict[str, torch.Tensor], **facts: str) -> None:
    """A state with these parts and a right checksum."""
    save_file(tensors, path, metadata=facts | {"sha256": checksum(tensors, facts)})


def test_a_state_comes_back(tmp_path: Path) -> None:
    state, other = _stepped(), _stepped(num_images=0)
    save_training_state(tmp_path / "s.safetensors", **state)
    other["counters"].tick = 7
    with torch.no_grad():
        other["networks"]["G"].weight.zero_()
    load_training_state(tmp_path / "s.safetensors", **other)
    assert other["counters"] == state["counters"]
    assert torch.equal(other["networks"]["G"].weight, state["networks"]["G"].weight)
    one, two = (part["optimizers"]["Gmain"].state_dict()["state"] for part in (state, other))
    assert all(torch.equal(one[index][key], two[index][key]) for index in one for key in one[index])


class _Memory:
    """A part of a run's state that a test can look at."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def state(self) -> dict[str, Any]:
        return {"value": self.value}

    def restore(self, values: dict[str, Any]) -> None:
        self.value = float(values["value"])


def test_what_a_run_keeps_besides_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    path, kept = tmp_path / "s.safetensors", {"judge": _Memory(0.1 + 0.2)}
    save_training_state(path, **_stepped(), kept=kept)
    other = _Memory()
    load_training_state(path, **_stepped(), kept={"judge": other})
    assert other.value == 0.1 + 0.2
    save_training_state(path, **_stepped())
    assert "kept" not in _parts(path)[1]


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({}, "lacks the part judge"),
        ({"judge": {"value": 1.0}, "jury": {}}, "has the part jury that this config lacks"),
        ({"judge": {"verdict": 1.0}}, "its judge cannot go on .*verdict|its judge cannot go on .*value"),
        ({"judge": {"value": "guilty"}}, "its judge cannot go on"),
        ({"judge": [1.0]}, "its judge cannot go on"),
        (["judge"], "its judge cannot go on"),
        (7, "is not iterable"),
    ],
)
def test_parts_that_do_not_fit_are_named(tmp_path: Path, kept: Any, message: str) -> None:
    path = tmp_path / "s.safetensors"
    save_training_state(path, **_stepped())
    tensors, facts = _parts(path)
    facts.pop("sha256")
    _written(path, tensors, **facts | {"kept": json.dumps(kept)})
    with pytest.raises(ValueError, match=rf"s\.safetensors: .*({message})") as error:
        load_training_state(path, **_stepped(), kept={"judge": _Memory()})
    assert "\n" not in str(error.value)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """In the header and in the tensors; a state that is refused changes nothing."""
    path = tmp_path / "s.safetensors"
    save_training_state(path, **_stepped())
    whole = path.read_bytes()
    other = _stepped(num_images=0)
    before = copy.deepcopy(other["networks"]["G"].state_dict())
    for position in [*range(0, len(whole), 7), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match=r"s\.safetensors: .*delete .* to start anew") as error:
            load_training_state(path, **other)
        assert "\n" not in str(error.value)
    assert other["counters"].num_images == 0
    assert all(torch.equal(before[name], value) for name, value in other["networks"]["G"].state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"counters": {"num_images": 4}},
            "lacks the counter iteration, real_count, real_signs, skipped, skips_in_row, tick, tick_images",
        ),
        ({"counters": dataclasses.asdict(Counters()) | {"epoch": 1}}, "has the counter epoch that this config lacks"),
        ({"counters": dataclasses.asdict(Counters()) | {"tick": "one"}}, "has a counter tick of 'one'"),
        ({"counters": dataclasses.asdict(Counters()) | {"tick": 0.5}}, "has a counter tick of 0.5"),
        (
            {"counters": dataclasses.asdict(Counters()) | {"skips_in_row": {"Gmain": "x"}}},
            "has a counter skips_in_row of",
        ),
        ({"optimizers": ["Gmain"]}, "lacks the optimiser Dmain"),
        ({"optimizers": ["Dmain", "Gmain", "Grec"]}, "has the optimiser Grec that this config lacks"),
        ({"format": "eg3d-training-state-1"}, "format 'eg3d-training-state-1', expected"),
    ],
)
def test_a_state_of_other_parts(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "s.safetensors"
    save_training_state(path, **_stepped())
    tensors, facts = _parts(path)
    facts.pop("sha256")
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in change.items()}
    _written(path, tensors, **facts | texts)
    with pytest.raises(ValueError) as error:
        load_training_state(path, **_stepped())
    assert f"{path}: {message}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_state_of_other_networks(tmp_path: Path) -> None:
    path, other = tmp_path / "s.safetensors", _stepped()
    save_training_state(path, **_stepped())
    other["networks"]["G"] = nn.Linear(4, 2)
    with pytest.raises(
        ValueError, match=r"s\.safetensors: G: the tensors do not fit the network.*use the run's own config"
    ):
        load_training_state(path, **other)
    del other["networks"]["D"]
    with pytest.raises(ValueError, match="has the network D that this config lacks"):
        load_training_state(path, **other)


def test_a_run_with_a_damaged_state_says_where_to_go_on(train_config: Make, tmp_path: Path) -> None:
    cfg = train_config(total_kimg=0.024, snapshot_ticks=1)
    folder = train(cfg).folder
    state = folder / "state.safetensors"
    assert _parts(state)[1]["format"] == FORMAT
    data = bytearray(state.read_bytes())
    data[-5] ^= 16
    state.write_bytes(data)
    last = snapshot_path(folder, 24)
    assert newest_snapshot(folder) == last
    last.write_bytes(last.read_bytes()[:1000])  # so the one before is the newest whole one
    with pytest.raises(ValueError, match=r"state\.safetensors: damaged") as error:
        train(cfg)
    start = snapshot_path(folder, 12)
    assert f"with start={start} and another out" in str(error.value)
    again = train(train_config(out=str(tmp_path / "again"), start=str(start), total_kimg=0.004))
    assert load_generator(again.snapshot).cfg == load_generator(start).cfg
