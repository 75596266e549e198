"""Families of configs: chosen by name on the command line, in experiments and in files; every fault is one line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eg3d import hydra_command as command_module
from eg3d.checkpoints.plain_configs import config_from_data
from eg3d.config_checks import faults_of
from eg3d.config_families import FamilyConfig, families_of, member_class
from eg3d.hydra_command import ConfigError, compose_config, help_text


@dataclass
class Shape(FamilyConfig):
    @classmethod
    def members(cls) -> dict[str, type[FamilyConfig]]:
        return {"ball": Ball, "box": Box}


@dataclass
class Ball(Shape):
    name: str = "ball"
    radius: float = 1.0


@dataclass
class Box(Shape):
    name: str = "box"
    sides: list[int] = field(default_factory=lambda: [1, 2, 3])


@dataclass
class Room:
    shape: Shape = field(default_factory=Ball)
    colour: str | None = None


@dataclass
class Lift:
    size: tuple[int, int] = (1, 2)
    limits: tuple[float, ...] = (1, 2.5)
    stops: dict[str, float] = field(default_factory=lambda: {"hall": 0})
    load: float | None = None


@dataclass
class House:
    room: Room = field(default_factory=Room)
    num_doors: int = 1


@pytest.fixture(autouse=True)
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "house.yaml").write_text(
        "defaults:\n  - house_schema\n  - room/shape: ball\n  - _self_\n  - experiment: null\n  - overlay: null\n"
    )
    (tmp_path / "experiment" / "flat.yaml").write_text(
        "# @package _global_\n# config: house\ndefaults:\n  - override /room/shape: box\n"
        "room:\n  shape:\n    sides: [4, 5]\n"
    )
    (tmp_path / "experiment" / "small.yaml").write_text(
        "# @package _global_\n# config: house\nroom:\n  shape:\n    radius: 0.5\n"
    )
    monkeypatch.setattr(command_module, "CONFIG_DIR", tmp_path)


def composed(*overrides: str) -> House:
    return compose_config("house", House, overrides)


def test_a_member_is_chosen_and_set() -> None:
    assert composed() == House()
    assert composed("room.shape.radius=3").room.shape == Ball(radius=3.0)
    assert composed("room/shape=box").room.shape == Box()
    assert composed("room/shape=box", "room.shape.sides=[7]").room.shape == Box(sides=[7])
    assert composed("experiment=flat").room.shape == Box(sides=[4, 5])
    assert composed("experiment=flat", "room.shape.sides=[6]").room.shape == Box(sides=[6])
    assert composed("experiment=small").room.shape == Ball(radius=0.5)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["room/shape=bal"], "room/shape: 'bal' is not one of ball, box; did you mean 'ball'?"),
        (["room.shape.sides=[1]"], "room.shape.sides: no such key; the keys here are name, radius"),
        (["room/shape=box", "room.shape.radius=1"], "room.shape.radius: no such key; the keys here are name, sides"),
        (["room.shape.name=box"], "room.shape.name: these are the settings of 'ball', not of 'box'"),
        (["+room.shape.sides=[1]"], "room.shape.sides: no such key; the keys here are name, radius"),
        (["+window=1"], "window: no such key; the keys here are num_doors, room"),
        (["room.shape.radius=inf"], "room.shape.radius: inf is not a finite number"),
        (["num_doors=100000000000000000000"], "num_doors: 100000000000000000000 is beyond 2147483647"),
    ],
)
def test_a_bad_choice_or_value_is_one_line(overrides: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        composed(*overrides)
    assert str(error.value).startswith(text)
    assert "\n" not in str(error.value)


def test_help_lists_the_choices() -> None:
    def main(cfg: House) -> None:
        """A house."""

    assert "room/shape=NAME: ball, box" in help_text(main, "house", House).splitlines()
    assert families_of(House) == {"room.shape": Shape}


def test_earlier_keys_go_on_working_with_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_module, "RENAMED_KEYS", {"hall.": "room.", "room.shape=": "room/shape="})
    cfg = composed("hall.shape=box", "hall.shape.sides=[9]", "room.shape=box")
    assert cfg.room.shape == Box(sides=[9])
    assert capsys.readouterr().err.splitlines() == [
        "note: write room. for hall.",
        "note: write room/shape= for room.shape=",
    ]


def test_plain_data_names_its_member() -> None:
    data = {"room": {"shape": {"name": "box", "sides": [8]}}}
    assert config_from_data(House, data, "file").room.shape == Box(sides=[8])
    assert member_class(Shape, {"name": "ball"}, "file") is Ball
    for bad in ({}, {"name": "cone"}, {"name": ["box"]}):
        with pytest.raises(ValueError, match=r"file, room, shape, name: .* is not one of ball, box"):
            config_from_data(House, {"room": {"shape": bad}}, "file")
    with pytest.raises(ValueError, match="Box has no field radius"):
        config_from_data(House, {"room": {"shape": {"name": "box", "radius": 1}}}, "file")


def test_types_of_values_from_files() -> None:
    for data, words in (
        (
            {"room": {"shape": {"name": "box", "sides": [1, "2"]}}},
            "sides must be a list in which",
        ),
        ({"room": {"colour": 3}}, "colour must be a text or null, found 3"),
        ({"num_doors": True}, "num_doors must be a whole number, found True"),
    ):
        with pytest.raises(ValueError, match=words):
            config_from_data(House, data, "file")
    with pytest.raises(ValueError, match=r"size .*; limits .*; load "):
        config_from_data(Lift, {"size": [1, 2, 3], "limits": [1, None], "load": "much"}, "file")
    assert faults_of(House(Room(Ball(radius=float("nan"))))) == ["room.shape.radius: nan is not a finite number"]
