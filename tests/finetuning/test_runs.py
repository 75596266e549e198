"""Whole fine-tuning runs: the same as training without its terms, exact after a stop, and logged."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_records import ROOT, assert_same_run, kill_after_first_tick, lines_of, rows_of, start, state_of
from tiny import flat_overrides
from toy_reward import ToyReward

from eg3d.finetuning.config import ConsistencyConfig, FinetuneConfig, RewardTermConfig, TrackingConfig
from eg3d.finetuning.loop import finetune, reward_inputs
from eg3d.training.config import TrainConfig
from eg3d.training.loop import Trainer, train

Make = Callable[..., FinetuneConfig]


def _without_prefix(lines: list[dict[str, object]], *prefixes: str) -> list[dict[str, object]]:
    return [{k: v for k, v in line.items() if not k.startswith(prefixes)} for line in lines]


@pytest.mark.parametrize("mode", ["separate", "joint"])
def test_without_weights_it_is_plain_training_bit_for_bit(finetune_config: Make, tmp_path: Path, mode: str) -> None:
    off = {"reward_term": RewardTermConfig(weight=0), "consistency": ConsistencyConfig(weight=0)}
    cfg = finetune_config(mode=mode, total_kimg=0.016, tracking=TrackingConfig(num_seeds=2), **off)
    tuned = finetune(cfg, ToyReward())
    fields = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(TrainConfig)}
    plain = train(TrainConfig(**fields | {"out": str(tmp_path / "plain")}))
    one, other = state_of(tuned.folder), state_of(plain.folder)
    assert one[0].keys() == other[0].keys()
    assert all((value == other[0][key]).all() for key, value in one[0].items())
    assert _without_prefix(lines_of(tuned.folder), "Reward/tracked") == lines_of(plain.folder)


def test_what_is_logged(finetune_config: Make) -> None:
    run = finetune(finetune_config(total_kimg=0.024), ToyReward())
    lines = lines_of(run.folder)
    assert "Reward/score" not in lines[0]
    terms = ("Gmain/adversarial", "Greg/density_reg", "Dmain/fake", "Dmain/real", "Dreg/r1")
    norms = [f"GradNorm/{term}" for term in (*terms, "Ggeometry/reward", "Ggeometry/consistency")]
    for name in ("Reward/score", "Reward/consistency", "Loss/G/loss", *norms):
        assert math.isfinite(lines[1][name]["mean"]), name
    assert lines[1]["Reward/score"]["num"] == 3 * 4 // 2  # 3 steps of 4 slabs, 2 a pass
    rows = rows_of(run.folder)
    assert [(row["tick"], row["num_images"]) for row in rows[::3]] == [("0", "0"), ("1", "12"), ("2", "24")]
    assert [row["seed"] for row in rows[:3]] == ["300000", "300001", "300002"]
    for line, tick in zip(lines, range(3), strict=True):
        mean = sum(float(row["score"]) for row in rows if row["tick"] == str(tick)) / 3
        assert line["Reward/tracked_mean"]["mean"] == pytest.approx(mean, rel=1e-5)


def test_the_reward_is_frozen_by_the_run(finetune_config: Make) -> None:
    reward = ToyReward().train()
    finetune(finetune_config(total_kimg=0.004), reward)
    assert not reward.training
    assert not reward.scale.requires_grad
    assert float(reward.scale) == 1.0


def test_several_processes_are_refused(finetune_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="fine-tuning runs in one process; start it without torchrun"):
        finetune(finetune_config(), ToyReward())


def test_no_tracking_without_seeds(finetune_config: Make) -> None:
    run = finetune(finetune_config(total_kimg=0.004, tracking=TrackingConfig(num_seeds=0)), ToyReward())
    assert not (run.folder / "trajectories.csv").exists()


@pytest.mark.parametrize(("method", "call"), [("_save_state", 1), ("_save_state", 3), ("step", 5)])
def test_stopped_anywhere(finetune_config: Make, tmp_path: Path, method: str, call: int) -> None:
    cfg = finetune_config(total_kimg=0.024)
    whole = finetune(dataclasses.replace(cfg, out=str(tmp_path / "whole")), ToyReward()).folder
    original, calls = getattr(Trainer, method), []

    class Stopped(BaseException):
        pass

    def stopping(self: Trainer, *args: object) -> None:
        calls.append(1)
        if len(calls) == call:
            raise Stopped
        original(self, *args)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Trainer, method, stopping)
        with pytest.raises(Stopped):
            finetune(cfg, ToyReward())
    run = finetune(cfg, ToyReward())
    assert_same_run(run.folder, whole)
    assert rows_of(run.folder) == rows_of(whole)


def test_another_reward_cannot_continue_a_run(finetune_config: Make, tmp_path: Path) -> None:
    """Another weight, another argument, or other bytes in a file that an argument names, wherever the file lies."""
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"good")

    def config(path: Path, gain: float = 1.0, **more: Any) -> FinetuneConfig:
        reward = {"_target_": "toy_reward.load", "path": str(path), "gain": gain}
        return finetune_config(total_kimg=0.004, reward=reward, tracking=TrackingConfig(num_seeds=0), **more)

    finetune(config(weights), ToyReward())
    moved = shutil.move(weights, tmp_path / "moved.bin")
    finetune(config(moved), ToyReward())
    for cfg, message in (
        (config(moved, reward_term=RewardTermConfig(micro_batch=2, weight=0)), "reward_term.weight: the run has 10.0"),
        (config(moved, gain=2.0), "reward.gain: the run has 1.0, now 2.0"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune(cfg, ToyReward())
    moved.write_bytes(b"gold")
    with pytest.raises(ValueError, match=r"reward\.path: the run has weights\.bin \(SHA-256 .*, now moved\.bin"):
        finetune(config(moved), ToyReward())


def test_a_plain_run_is_not_continued_as_a_tuned_one(finetune_config: Make) -> None:
    cfg = finetune_config(total_kimg=0.004)
    fields = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(TrainConfig)}
    train(TrainConfig(**fields))
    with pytest.raises(ValueError, match="holds a run of another command"):
        finetune(cfg, ToyReward())


def test_a_bundle_is_its_files_however_it_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    files = [folder / "reward.safetensors", folder / "reward.yaml"]
    for file in files:
        file.write_text(file.name)
    (folder / "last.ckpt").write_text("a run that may go on")
    for name in (folder, *files):
        assert reward_inputs({"path": str(name)}) == {"reward.path": files}
    assert reward_inputs({"_target_": "a.b", "representation": {}, "gain": 2.0, "note": "words", "empty": ""}) == {}
    assert [path.parent.name for path in reward_inputs({"path": "twin_reward"})["reward.path"]] == ["twin_reward"] * 2


def test_killed_command(finetune_config: Make, tmp_path: Path) -> None:
    cfg = finetune_config(total_kimg=0.12)
    process = start(["eg3d/train_rlhf.py"], flat_overrides(cfg), path=ROOT / "tests" / "finetuning")
    kill_after_first_tick(process, Path(cfg.out))
    assert json.loads(state_of(Path(cfg.out))[1]["counters"])["num_images"] < 120
    finetune(cfg, ToyReward())
    whole = finetune(dataclasses.replace(cfg, out=str(tmp_path / "whole")), ToyReward()).folder
    assert_same_run(Path(cfg.out), whole)
    rows = rows_of(Path(cfg.out))
    assert rows == rows_of(whole)
    assert len({(row["tick"], row["seed"]) for row in rows}) == len(rows) == 11 * 3
