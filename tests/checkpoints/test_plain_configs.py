"""Configurations from the data of a file: types, nested ones, unknown keys, and nothing that names code."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from eg3d.checkpoints.plain_configs import config_from_data
from eg3d.checkpoints.size_limits import most_of, size_faults
from eg3d.generators.eg3d import GeneratorConfig
from eg3d.networks.discriminator import DiscriminatorConfig
from eg3d.rendering.renderer import RenderingConfig


@dataclass
class Inner:
    count: int = 1
    share: float = 0.5


@dataclass
class Outer:
    name: str = "a"
    is_on: bool = True
    most: int | None = None
    start: float | str = 1.0
    sides: list[int] = field(default_factory=list)
    pivot: tuple[float, float] = (0.0, 0.0)
    inner: Inner = field(default_factory=Inner)
    notes: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    anything: Any = None


def test_round_trips() -> None:
    given = Outer("b", False, 3, "auto", [1, 2], (1.0, 2.0), Inner(5, 1.5), {"a": [1]}, [{"b": None}], {"c": 1})
    for value in (given, Outer(), GeneratorConfig(), DiscriminatorConfig()):
        data = json.loads(json.dumps(dataclasses.asdict(value)))
        assert config_from_data(type(value), data, "file") == value
    assert config_from_data(Outer, {}, "file") == Outer()


def test_whole_numbers_are_real_numbers_too() -> None:
    made = config_from_data(Outer, {"start": 2, "pivot": [1, 2], "inner": {"share": 1}}, "file")
    assert (made.start, made.pivot, made.inner.share) == (2.0, (1.0, 2.0), 1.0)
    assert type(made.start) is float and type(made.pivot[0]) is float


CODE = {"_target_": "os.system"}
JUNK = [None, True, 1, -1.5, "x", [], [1], {}, {"a": 1}, float("nan"), float("inf"), 10**400, [[1]], CODE]
FITTING = {  # those of JUNK that each field may be
    "name": ["x"], "is_on": [True], "most": [None, 1], "start": [1, -1.5, "x"], "sides": [[], [1]], "pivot": [],
    "inner": [{}], "notes": [{}, {"a": 1}, CODE], "rows": [[]], "anything": JUNK,
}  # fmt: skip


@pytest.mark.parametrize("name", FITTING)
def test_values_of_another_type_are_one_line(name: str) -> None:
    for value in JUNK:
        if any(type(value) is type(fitting) and repr(value) == repr(fitting) for fitting in FITTING[name]):
            config_from_data(Outer, {name: value}, "file")
            continue
        said = rf"^file(, inner)?: (Inner has no field|.*{name} must be |expected a )"
        with pytest.raises(ValueError, match=said) as error:
            config_from_data(Outer, {name: value}, "file")
        assert str(error.value).isprintable() and len(str(error.value)) < 400


def test_all_wrong_values_at_once() -> None:
    with pytest.raises(ValueError) as error:
        config_from_data(Outer, {"name": 1, "is_on": "yes", "most": "many", "pivot": [1, "b"]}, "file")
    assert str(error.value) == (
        "file: name must be a text, found 1; is_on must be true or false, found 'yes'; most must be a whole number or "
        "null, found 'many'; pivot must be a list in which each is a finite number, found a list"
    )


@pytest.mark.parametrize("data", [None, [], "x", 3, [["name", "a"]]])
def test_what_is_no_table(data: Any) -> None:
    with pytest.raises(ValueError, match=r"^file: expected a table of the settings of Outer, found "):
        config_from_data(Outer, data, "file")


@pytest.mark.parametrize("path", [(), ("inner",)])
@pytest.mark.parametrize("key", ["_target_", "_partial_", "_args_", "__class__", "$ref", "!!python/object"])
def test_nothing_that_names_code_is_taken(path: tuple[str, ...], key: str) -> None:
    data: Any = {key: "os.system"}
    for name in path:
        data = {name: data}
    with pytest.raises(ValueError, match="has no field"):
        config_from_data(Outer, data, "file")


# ---------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mapping_layers": 10**6}, "mapping_layers: 1e+06 is beyond 64"),
        ({"img_resolution": 2**30}, "img_resolution: 1.07374e+09 is beyond 16384"),
        ({"rendering": RenderingConfig(depth_resolution=10**9)}, "rendering.depth_resolution: 1e+09 is beyond 1024"),
        ({"neural_rendering_resolution": 10**4}, "neural_rendering_resolution: 10000 is beyond 2048"),
        ({"sr_channels": [1, 10**30]}, "sr_channels: 1e+30 is beyond 16384"),
        ({"z_dim": -(10**400)}, "z_dim: a number of many digits is beyond 16384"),
        ({"c_scale": 1e7}, "c_scale: 1e+07 is beyond 1e+06"),
    ],
)
def test_sizes_are_bounded(changes: dict[str, Any], said: str) -> None:
    assert size_faults(dataclasses.replace(GeneratorConfig(), **changes)) == [said]


def test_known_networks_are_far_below() -> None:
    for cfg in (GeneratorConfig(), DiscriminatorConfig()):
        assert size_faults(cfg) == []
    assert most_of("channel_base") >= 16 * GeneratorConfig().channel_base
