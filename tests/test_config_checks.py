"""Numbers that can only be mistakes are refused in every field of every config and every option of every command."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
from dataclasses import dataclass, field
from typing import Any

import click
import pytest
from command_line import Run

from eg3d.config_checks import configs_in, faults_of, in_range, number_fault, numeric_faults
from eg3d.finetuning.config import FinetuneConfig
from eg3d.hydra_command import compose_config

HYDRA = {  # module of the schema, its name there, or that of the function that makes it
    "eg3d.training.config": "TrainConfig",
    "eg3d.finetuning.config": "FinetuneConfig",
    "eg3d.checkpoints.ship": "ShipConfig",
    "dataset_preprocessing.human_heads.run": "HeadsConfig",
    "dataset_preprocessing.conversion": "ConversionConfig",
    "reward_model_training.train": "RewardTrainConfig",
    "reward_model_training.preferences.simulated_rankings": "RankConfig",
    "reward_model_training.score": "ScoreConfig",
    "reward_model_training.evaluate": "EvaluateConfig",
    "paper_result_analyses.pipeline_config": "pipeline_schema",
}
CLICK = ("gen_samples", "gen_videos", "view", "calc_metrics", "convert", "train_flags")


@dataclass
class _Config:
    count: int = 1
    seed: int = 0
    weight: float = 0.5
    shape: list[float] = field(default_factory=lambda: [1.0, 2.0])
    limit: float | None = None
    clip_low: float = -math.inf
    is_on: bool = True
    name: str = "a"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"count": 10**20}, "count: 100000000000000000000 is beyond 2147483647"),
        ({"count": -(10**20)}, "count: -100000000000000000000 is beyond 2147483647"),
        ({"count": 10**5000}, "count: a number of thousands of digits is beyond 2147483647"),
        ({"count": None}, "count: null is not a value of type int"),
        ({"seed": 2**63}, "seed: 9223372036854775808 is beyond 9223372036854775807"),
        ({"weight": math.nan}, "weight: nan is not a finite number"),
        ({"weight": -math.inf}, "weight: -inf is not a finite number"),
        ({"shape": [1.0, math.inf]}, "shape: inf is not a finite number"),
        ({"limit": math.nan}, "limit: nan is not a finite number"),
        ({"clip_low": math.nan}, "clip_low: nan is not a finite number"),
        ({"name": None}, "name: null is not a value of type str"),
    ],
)
def test_numbers_that_mean_nothing(changes: dict[str, Any], fault: str) -> None:
    assert numeric_faults(dataclasses.replace(_Config(), **changes)) == [fault]


def test_what_is_meant_passes() -> None:
    assert numeric_faults(_Config(count=-1, seed=2**32 - 1, weight=1e30, limit=None)) == []
    assert number_fault("--seeds", 2**32 - 1) == ""
    assert number_fault("--anything", "inf") == ""


def test_ranges() -> None:
    assert in_range(_Config(), 0, 1, "count", "weight") == []
    assert in_range(_Config(count=3, weight=math.nan), 0, 2, "count", "weight") == [
        "count: 3 must be from 0 to 2",
        "weight: nan must be from 0 to 2",
    ]


@dataclass
class _Computing:
    """A config whose own checks could not stand such a number."""

    rows: int = 1

    def validate(self) -> list[str]:
        return [f"rows: {self.rows} is odd"] if len(range(self.rows)) % 2 else []


def test_own_checks_are_not_asked_about_nonsense() -> None:
    assert faults_of(_Computing()) == ["rows: 1 is odd"]
    assert faults_of(_Computing(10**40)) == [f"rows: {10**19}... (41 digits) is beyond 2147483647"]


@pytest.mark.parametrize("module", HYDRA)
def test_every_numeric_field_of_every_config(module: str) -> None:
    schema = getattr(importlib.import_module(module), HYDRA[module])
    config = schema() if isinstance(schema, type) else schema()()
    fields = [
        (path, name)
        for path, nested in configs_in(config)
        for name, value in vars(nested).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    assert fields or module.endswith(("ship", "conversion"))
    for path, name in fields:
        for nonsense in (math.nan, math.inf, -math.inf, 10**20):
            if name in ("clip_low", "clip_high") and isinstance(nonsense, float) and math.isinf(nonsense):
                continue
            spoilt = copy.deepcopy(config)
            owner = dict(configs_in(spoilt))[path]
            object.__setattr__(owner, name, nonsense)
            assert [fault for fault in faults_of(spoilt) if fault.startswith(f"{path}{name}: ")], (path, name, nonsense)


def _numeric_options() -> list[tuple[str, str, str]]:
    modules = [f"eg3d.{name}" for name in CLICK] + ["dataset_preprocessing.dataset_tool"]
    return [
        (module, option.opts[0], nonsense)
        for module in modules
        for option in importlib.import_module(module).main.params
        if isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType))
        for nonsense in (["nan", "inf", "-inf"] * isinstance(option.type, click.types.FloatParamType) + ["9" * 20, ""])
    ]


@pytest.mark.parametrize(("module", "option", "nonsense"), _numeric_options())
def test_every_numeric_option_of_every_command(run: Run, module: str, option: str, nonsense: str) -> None:
    result = run(importlib.import_module(module), f"{option}={nonsense}")
    assert (result.code, result.out) == (2, "")
    assert result.the_error()


def test_a_tilde_after_an_equals_sign_is_the_home_folder(run: Run, tmp_path: Any, monkeypatch: Any) -> None:
    from dataset_preprocessing import dataset_tool
    from dataset_preprocessing.human_heads import __main__ as human_heads

    home = tmp_path / "a home"
    monkeypatch.setenv("HOME", str(home))
    words = ("num_images=2", "resolution=8", "workers=1")
    assert run(human_heads, "out=~/a.zip", *words).code == 0
    assert run(human_heads, "out='~/b.zip'", *words).code == 0
    assert run(dataset_tool, "--source=~/a.zip", "--dest=~/c.zip").code == 0
    assert run(dataset_tool, "--source", "~/b.zip", "--dest", "~/d").code == 0
    assert sorted(path.name for path in home.iterdir()) == ["a.zip", "b.zip", "c.zip", "d"]
    cfg = compose_config("finetune", FinetuneConfig, ["start=~/n.pkl", "reward._target_=a.b", "reward.path=~/bundle"])
    assert (cfg.start, cfg.reward["path"]) == (f"{home}/n.pkl", f"{home}/bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["a home"]
