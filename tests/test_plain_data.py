"""Code is named by the command line and the user's own configs alone: no file with weights or data can name any."""

from __future__ import annotations

import ast
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from eg3d.cameras import CameraConfig
from eg3d.checkpoints.manifest import MANIFEST, read_manifest, resolve
from eg3d.checkpoints.store import load_discriminator, load_generator, read_metadata
from eg3d.data import ImageDataset
from eg3d.finetuning.rewards import reward_from
from eg3d.plain_data import CODE_KEYS, refuse_code
from reward_model_training.bundle import load_reward

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("eg3d", "dataset_preprocessing", "reward_model_training", "paper_result_analyses", "sculpting_nerf")


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes every call of the function `witness_module.run`, which the files of these tests name."""
    calls: list[str] = []
    module = ModuleType("witness_module")
    module.run = lambda **arguments: calls.append("ran")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "witness_module", module)
    return calls


def naming(key: str = "_target_") -> dict[str, Any]:
    return {key: "witness_module.run"}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every table inside plain data, but for the lists of numbers of labels."""
    found = [path] if isinstance(value, dict) else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += places(child, (*path, key)) if key != "labels" else []
    return found


def with_code(value: Any, path: tuple[Any, ...], key: str = "_target_") -> Any:
    """A copy of plain data with a key that names code in the table at `path`."""
    copied = json.loads(json.dumps(value))
    table = copied
    for step in path:
        table = table[step]
    table.update(naming(key))
    return copied


def refused(read: Callable[[], Any], file: Path, key: str = "_target_") -> None:
    with pytest.raises(ValueError, match=rf"has the key {key}, which names code") as error:
        read()
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)


def test_network_files(toy_networks: Path, tmp_path: Path, witness: list[str]) -> None:
    network = tmp_path / "net.safetensors"
    with safe_open(str(toy_networks), framework="pt") as file:
        whole = dict(file.metadata())
    tensors = load_file(toy_networks)
    tried = 0
    for name in ("configs", "kinds", "extra"):
        data = json.loads(whole[name])
        for path in places(data):
            save_file(tensors, network, metadata=whole | {name: json.dumps(with_code(data, path))})
            for read in (read_metadata, load_generator, load_discriminator):
                refused(lambda read=read: read(network), network)
            tried += 1
    assert tried >= 6 and witness == []
    assert "_target_" not in json.dumps(whole)


def test_reward_bundles(tmp_path: Path, witness: list[str]) -> None:
    shipped = resolve(next(name for name, entry in read_manifest().items() if entry.get("kind") == "reward")).parent
    for file in shipped.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = tmp_path / "reward.yaml"
    whole = yaml.safe_load(card.read_text())
    load_reward(tmp_path)
    for path in places(whole):
        card.write_text(yaml.safe_dump(with_code(whole, path)))
        refused(lambda: load_reward(tmp_path), card)
    for tag in ("!!python/object/apply:witness_module.run []", "!!python/name:witness_module.run ''"):
        card.write_text(f"format: {tag}\n")
        with pytest.raises(ValueError, match="not plain YAML data"):
            load_reward(tmp_path)
    assert witness == []


def test_data_sets(tmp_path: Path, witness: list[str]) -> None:
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    table = tmp_path / "dataset.json"
    label = CameraConfig().canonical()[0].tolist()
    whole = {"labels": [["a.png", label]], "recipe": {"maker": "x", "settings": [{"a": 1}]}, "more": {}}
    table.write_text(json.dumps(whole))
    assert len(ImageDataset(tmp_path)) == 1
    for path in places(whole):
        table.write_text(json.dumps(with_code(whole, path)))
        refused(lambda: ImageDataset(tmp_path), tmp_path)
    table.write_text(json.dumps({"labels": [["a.png", naming()]]}))
    with pytest.raises(ValueError, match=r"the label of a\.png must have 25 numbers"):
        ImageDataset(tmp_path)
    assert witness == []


def test_the_manifest(tmp_path: Path, witness: list[str]) -> None:
    whole = json.loads(MANIFEST.read_text(encoding="utf-8"))
    path = tmp_path / "manifest.json"
    for place in places(whole)[1:]:
        path.write_text(json.dumps(with_code(whole, place)))
        refused(lambda: read_manifest(path), path)
    assert witness == []


@pytest.mark.parametrize("key", sorted(CODE_KEYS))
def test_every_key_that_names_code(key: str) -> None:
    refused(lambda: refuse_code([{"a": [naming(key)]}], "file"), Path("file"), key)
    refuse_code({"target": 1, "a": ["_target_", "_target_: os.system"]}, "file")  # as a value it is a text
    loop: dict[str, Any] = {}
    loop["self"] = loop  # an alias in YAML
    refuse_code(loop, "file")


def test_the_command_line_may_name_code_and_the_command_says_so(
    witness: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="eg3d"), pytest.raises(ValueError, match="expected a callable"):
        reward_from(naming(), device="cpu")
    assert witness == ["ran"]
    assert caplog.messages == ["reward: runs witness_module.run, as the configuration says (reward._target_)"]


def test_only_one_place_turns_a_name_into_code() -> None:
    """hydra's own instantiation, which looks into nested tables, is used nowhere; get_object in one function."""
    finding = ("instantiate", "get_object", "get_class", "get_method", "locate", "call")
    found = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("hydra.utils", "pydoc")):
                found |= {(str(path.relative_to(ROOT)), alias.name) for alias in node.names if alias.name in finding}
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith(("hydra.utils.", "pydoc.")):
                found.add((str(path.relative_to(ROOT)), node.attr))
    assert found == {("eg3d/finetuning/rewards.py", "get_object")}
