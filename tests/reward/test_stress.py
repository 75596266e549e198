"""The stress test: what it says of rewards whose answers are known, and the command as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import Run
from torch import Tensor

from eg3d.config_checks import faults_of
from eg3d.file_hash import sha256_of
from eg3d.finetuning.rewards import FunctionReward
from eg3d.representations.depth_map import DepthMap
from eg3d.representations.sigma_field import SigmaField
from reward_model_training import stress
from reward_model_training.bundle import save_reward
from reward_model_training.card import RewardCard
from reward_model_training.damage import damages, ties
from reward_model_training.models import ModelConfig, build_model
from reward_model_training.models.backbones.sigma_unet3d import SigmaUNetConfig
from reward_model_training.models.heads import ScoreHeadsConfig
from reward_model_training.stress import COLUMNS, SCORE_COLUMNS, ProbeConfig, stress_scores, stress_table, table_text
from tests.analyses.tiny_run import tiny_generator

ROOT = Path(__file__).resolve().parents[2]
SLAB = SigmaField(resolution=12, grid="exact")
FINE = replace(SLAB, resolution=32)  # where damage is larger than a voxel
FEW = ProbeConfig(num_seeds=3, draws=2, kinds=["floaters", "holes"], ties=["mirror", "shift_y"])


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    model = ModelConfig(
        SigmaUNetConfig(f_maps=[2, 4], num_groups=2, final_size_out=8), ScoreHeadsConfig([4, 4], 4, [3, 3])
    )
    made = {"kinds": ["floaters", "bumps"], "triples_per_row": 1.0, "ties": ["mirror"], "ties_per_row": 0.0}
    card = RewardCard(model, SLAB, provenance={"training": {"made_pairs": made}})
    return save_reward(tmp_path / "reward", build_model(model), card)


def matter(slab: Tensor) -> Tensor:
    """Less matter is better."""
    return -slab.clamp(-200, 200).mean((1, 2, 3))


def test_a_reward_of_known_mind_gets_the_known_answer(generator) -> None:
    """Matter costs: bumps are noticed, holes are liked, and a mirror image is the same."""
    scores = stress_scores(generator, FunctionReward(matter, FINE), replace(FEW, kinds=["bumps", "holes"]))
    assert list(scores.columns) == list(SCORE_COLUMNS)
    assert len(scores) == 4 * 3 * 2 and scores["seed"].nunique() == 3
    assert (scores.groupby("seed")["clean"].nunique() == 1).all()
    table = stress_table(scores).set_index("kind")
    assert list(table.reset_index().columns) == list(COLUMNS)
    bumps, holes, mirror = (table.loc[name] for name in ("bumps", "holes", "mirror"))
    for name in ("clean_mild", "mild_severe", "clean_severe"):
        assert (bumps[f"{name}_share"], holes[f"{name}_share"]) == (1.0, 0.0)
        assert bumps[f"{name}_low"] < 1 and holes[f"{name}_high"] > 0, "three seeds prove little"
    assert bumps["severe_change"] < bumps["mild_change"] < 0 < holes["severe_change"]
    assert mirror["size_of_change"] == pytest.approx(0, abs=1e-5)
    assert (bumps["n"], bumps["n_seeds"], bumps["trained"]) == (6, 3, "unknown")


def test_changes_are_in_standard_deviations_and_the_scale_of_a_reward_does_not_matter(generator) -> None:
    tables = [
        stress_table(stress_scores(generator, FunctionReward(lambda x, k=k: 5 + k * matter(x), SLAB), FEW))
        for k in (1.0, 100.0)
    ]
    numbers = [table.drop(columns=["kind", "group", "trained", "clean_sd"]).to_numpy(float)[:2] for table in tables]
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-3, atol=1e-4)
    assert tables[1]["clean_sd"][0] == pytest.approx(100 * tables[0]["clean_sd"][0], rel=1e-4)


def test_answers_of_one_seed_are_worth_less_than_those_of_many() -> None:
    """The same answers, from 4 seeds or from 40: the interval by seed is wider."""
    rng = np.random.default_rng(0)
    base = pd.DataFrame({"kind": "bumps", "group": "damage", "seed": np.repeat(np.arange(40), 2), "draw": 0})
    base["clean"] = np.repeat(rng.normal(size=40), 2)
    base["mild"] = base["clean"] - np.repeat(np.where(np.arange(40) < 30, 1.0, -1.0), 2)
    base["severe"] = base["mild"] - 1
    many = stress_table(base).iloc[0]
    assert many["clean_mild_share"] == 0.75 and many["mild_severe_share"] == 1.0
    few = stress_table(
        base.assign(seed=base["seed"] // 10, clean=base["seed"] // 10, mild=base["seed"] // 10 - 1)
    ).iloc[0]
    assert few["clean_mild_high"] - few["clean_mild_low"] > many["mild_severe_high"] - many["mild_severe_low"]


def test_what_cannot_be_measured_is_one_line(generator) -> None:
    with pytest.raises(ValueError, match="every clean shape the same score"):
        stress_table(stress_scores(generator, FunctionReward(lambda x: 0 * matter(x), SLAB), FEW))
    with pytest.raises(ValueError, match=r"gave nan for .* \(first: seed 500000\)"):
        stress_scores(generator, FunctionReward(lambda x: matter(x) * float("nan"), SLAB), FEW)
    with pytest.raises(ValueError, match=r"expected scores \[\d\], one a sample"):
        stress_scores(generator, FunctionReward(lambda x: x.mean(0), SLAB), FEW)
    with pytest.raises(ValueError, match=r"density slabs \(sigma_field\), it reads depth_map"):
        stress_scores(generator, FunctionReward(matter, DepthMap(resolution_px=6)), FEW)


def test_faults_are_named() -> None:
    assert faults_of(ProbeConfig()) == []
    assert (list(ProbeConfig().kinds), list(ProbeConfig().ties)) == (list(damages()), list(ties()))
    wrong = {"kinds": ["bump"], "mild": 1.0, "num_seeds": 1, "draws": 0}
    text = "; ".join(faults_of(ProbeConfig(**wrong)))
    for words in ("did you mean 'bumps'", "0 < mild < severe <= 1, got 1.0, 1.0", "need 2 to", "draws: 0"):
        assert words in text
    assert "kinds, ties: name one" in "; ".join(faults_of(ProbeConfig(kinds=[], ties=[])))


WORDS = ("num_seeds=2", "kinds=[floaters,grooves]", "ties=[mirror]", "device=cpu")


def test_the_command_writes_tables_and_where_they_come_from(run: Run, bundle, toy_networks, tmp_path) -> None:
    done = run(stress, f"reward={bundle}", f"generator={toy_networks}", "out=deep/table.csv", *WORDS)
    assert done.code == 0, done.err
    table, scores = (pd.read_csv(tmp_path / "deep" / f"table{end}.csv") for end in ("", "_scores"))
    assert list(table["kind"]) == ["floaters", "grooves", "mirror"]
    assert list(table["trained"]) == ["yes", "no", "no"], "mirror was never shown: 0 a row"
    assert len(scores) == 6
    about = json.loads((tmp_path / "deep" / "table.json").read_text())
    hashes = {item["file"]: item["sha256"] for item in about["inputs"].values()}
    assert hashes[toy_networks.name] == sha256_of(toy_networks)
    assert hashes["reward.safetensors"] == sha256_of(bundle / "reward.safetensors")
    assert about["settings"]["num_seeds"] == 2 and set(about["columns"]) == set(COLUMNS)
    assert "clean > severe" in done.out and "must not matter" in done.out and "table.csv" in done.out


def test_the_command_takes_any_callable(run: Run, toy_networks, tmp_path) -> None:
    function = ("reward._target_=finetuning.toy_reward.mean_density", "reward.representation.name=sigma_field")
    slab = ("reward.representation.resolution=12", "reward.representation.grid=exact", "reward.gain=2")
    done = run(stress, *function, *slab, f"generator={toy_networks}", *WORDS)
    assert done.code == 0, done.err
    assert set(pd.read_csv(tmp_path / "stress.csv")["trained"]) == {"unknown"}
    assert json.loads((tmp_path / "stress.json").read_text())["settings"]["reward"]["gain"] == 2
    done = run(stress, "reward._target_=finetuning.toy_reward.load", f"generator={toy_networks}", *WORDS)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("generator=twin",), 2, "reward: give reward=PATH"),
        (("reward=nothing/here",), 1, "no reward bundle at nothing/here"),
        (("reward=twin_rewards",), 1, "'twin_rewards' is neither a file nor in"),
        (("reward._target_=finetuning.toy_reward.nothing",), 1, "reward._target_"),
        (("reward.gain=2",), 2, "reward._target_: give a function"),
        (("reward=a", "kinds=[bump]"), 2, "did you mean 'bumps'"),
        (("reward=a", "out=table.txt"), 2, "out: expected the path of a .csv"),
        (("reward=a", "sead=3"), 2, "sead: no such key"),
    ],
)
def test_a_bad_call_is_one_line(run: Run, words: tuple[str, ...], code: int, said: str) -> None:
    done = run(stress, *words)
    assert done.code == code and said in done.the_error()


def test_help() -> None:
    line = [sys.executable, "-m", "reward_model_training.stress", "--help"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "python -m reward_model_training.stress" in done.stdout and "first_seed: 500000" in done.stdout


def test_a_table_without_ties_or_damage_is_text() -> None:
    rows = {"kind": ["bumps", "bumps"], "group": "damage", "seed": [1, 2], "draw": 0, "clean": [0.0, 1.0]}
    scores = pd.DataFrame(rows | {"mild": [-1.0, 0.0], "severe": [-2.0, -1.0]})
    assert "must not matter" not in table_text(stress_table(scores, ["bumps"]))
    assert "must not matter" in table_text(stress_table(scores.assign(group="tie"), []))
