"""Commands as a user runs them: help, a good call, and every kind of bad one, each in one line."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run
from omegaconf import OmegaConf
from tiny import flat_overrides

from eg3d import hydra_command as command_module
from eg3d import train, train_rlhf
from eg3d.config_checks import faults_of, one_of
from eg3d.finetuning.config import FinetuneConfig
from eg3d.folder_lock import FolderLock
from eg3d.hydra_command import ConfigError, compose_config, experiments_for, hydra_command
from eg3d.multirun import sweep_of
from eg3d.run_folder import choose_device
from eg3d.training.config import TrainConfig
from reward_model_training.score import ScoreConfig

ROOT = Path(__file__).resolve().parents[1]


def test_help_shows_usage_fields_and_experiments_that_fit(run: Run) -> None:
    result = run(train, "--help")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "usage: python -m eg3d.train [experiment=NAME] [key=value ...]"
    assert "snapshot_ticks: 50" in lines
    experiments = next(line for line in lines if line.startswith("experiments: "))
    assert "twin" in experiments
    assert "twin_sfield" not in experiments
    assert "experiments: " + ", ".join(experiments_for("finetune")) in run(train_rlhf, "-h").out


def test_cfg_prints_the_resolved_config(run: Run, tmp_path: Path) -> None:
    result = run(train, "--cfg", "job", "batch=6", "generator.z_dim=7")
    assert result.code == 0
    printed = OmegaConf.create(result.out)
    assert (printed.batch, printed.generator.z_dim, printed.optim.beta2) == (6, 7, 0.99)
    assert list(tmp_path.iterdir()) == []


def test_a_good_call(run: Run, train_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    cfg = train_config(total_kimg=0.008)
    result = run(train, *flat_overrides(cfg))
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith("tick 0  kimg 0.0/0.008")
    assert lines[-1] == f"snapshot: {cfg.out}/network-snapshot-000000008.safetensors"
    saved = compose_from_yaml(Path(cfg.out) / "config.yaml")
    assert saved == OmegaConf.to_container(OmegaConf.structured(cfg))
    assert {path.name for path in tmp_path.iterdir()} == {"run"}  # nothing of Hydra's beside it


def compose_from_yaml(path: Path) -> object:
    return OmegaConf.to_container(OmegaConf.load(path))


BAD = {
    "unknown key": (train, ["bach=4"], ["bach: no such key", "did you mean 'batch'?"]),
    "unknown nested key": (train, ["loss.r1_gama=4"], ["loss.r1_gama: no such key", "did you mean 'r1_gamma'?"]),
    "value of another type": (train, ["batch=many"], ["batch: ", "'many'", "Integer"]),
    "empty value": (train, ["batch="], ["batch: "]),
    "no value": (train, ["batch"], ["batch: not an override; write key=value"]),
    "broken list": (train, ["grid=[1,"], ["grid=[1,: not an override; write key=value"]),
    "bad choice": (
        train_rlhf,
        ["start=a", "reward.path=b", "mode=jont"],
        ["mode: 'jont' is not one of separate, joint; did you mean 'joint'?"],
    ),
    "bad nested choice": (
        train,
        ["generator.superresolution=9X"],
        ["generator.superresolution: '9X' is not one of 2X, 4X, 8X, 8XDC, none"],
    ),
    "missing value": (train_rlhf, ["start=a", "reward._target_="], ["reward._target_: give the dotted name"]),
    "unknown experiment": (
        train,
        ["experiment=twim"],
        ["'twim' is not one of twin, ", "did you mean 'twin'?"],
    ),
    "experiment of another command": (
        train,
        ["experiment=twin_control"],
        ["'twin_control' is not one of twin, "],
    ),
    "unknown overlay": (train, ["+overlay=smok"], ["overlay: 'smok' is not one of smoke; did you mean 'smoke'?"]),
    "group for a value": (train, ["generator=5"], ["generator: "]),
    "bad numbers": (
        train,
        ["tick_kimg=0", "snapshot_ticks=0", "micro_batch=-1"],
        ["tick_kimg: ", "snapshot_ticks: 0 is below 1", "micro_batch: -1 is negative"],
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_command_line_is_one_line_and_exit_code_2(run: Run, tmp_path: Path, kind: str) -> None:
    module, arguments, parts = BAD[kind]
    result = run(module, *arguments)
    text = result.the_error()
    assert (result.code, result.out) == (2, "")
    for part in parts:
        assert part in text
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_experiment_names_only_those_that_fit(run: Run) -> None:
    text = run(train_rlhf, "experiment=twin_field").the_error()
    fitting = ", ".join(experiments_for("finetune"))
    assert text == f"experiment: 'twin_field' is not one of {fitting}; did you mean 'twin_sfield'?"


def test_all_faults_are_reported_at_once(run: Run) -> None:
    general = ["batch=4", "micro_batch=3", "grid=[1]"]
    arguments = [*general, "loss.swap_final=2", "optim.beta2=1", "generator.rendering.box_warp=0"]
    faults = run(train, *arguments).the_error().split("; ")
    named = [fault.split(":")[0] for fault in faults if ":" in fault]
    assert named == ["micro_batch", "grid", "generator.rendering.box_warp", "optim.beta2", "loss.swap_final"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data=nowhere.zip"], "data: nowhere.zip does not exist; make portraits of a head model"),
        (["start=nowhere.safetensors"], "no network file at nowhere.safetensors"),
        (["device=warp"], "device: 'warp' is not a device; give auto, cpu, cuda or cuda:N"),
    ],
)
def test_work_that_fails_is_one_line_and_exit_code_1(
    run: Run, train_config: Callable[..., TrainConfig], changes: list[str], message: str
) -> None:
    result = run(train, *flat_overrides(train_config()), *changes)
    assert result.code == 1
    assert message in result.the_error()


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (["reward._target_=toy_reward.load", "reward.gian=2"], 1, "unexpected keyword argument 'gian'"),
        (["reward._target_=no_such_module.load"], 1, "no_such_module"),
    ],
)
def test_a_reward_that_does_not_load(
    run: Run,
    finetune_config: Callable[..., FinetuneConfig],
    monkeypatch: pytest.MonkeyPatch,
    changes: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "finetuning"))
    result = run(train_rlhf, *flat_overrides(finetune_config()), *changes)
    assert message in result.the_error()
    assert result.code == code


def test_both_spellings_of_an_overlay() -> None:
    for spelling in ("overlay=smoke", "+overlay=smoke"):
        cfg = compose_config("train", TrainConfig, ["experiment=twin", spelling])
        assert (cfg.batch, cfg.total_kimg) == (4, 0.008)


def test_composing_gives_instances_all_the_way_down() -> None:
    limits = ["generator.rendering.ray_start=auto", "generator.rendering.ray_end=auto"]
    cfg = compose_config("train", TrainConfig, limits)
    assert isinstance(cfg, TrainConfig)
    assert cfg == dataclasses.replace(TrainConfig(), generator=cfg.generator)
    assert cfg.generator.rendering.ray_end == "auto"


def test_one_of() -> None:
    assert one_of("grid", "exact", ("exact", "skewed")) == []
    assert one_of("grid", "zzz", ("exact", "skewed")) == ["grid: 'zzz' is not one of exact, skewed"]


@dataclass
class _Inner:
    size: int = 1

    def validate(self) -> list[str]:
        return [f"size: {self.size} is odd"] if self.size % 2 else []


@dataclass
class _Outer:
    inner: _Inner = field(default_factory=_Inner)
    other: _Inner = field(default_factory=lambda: _Inner(2))


def test_faults_carry_their_path() -> None:
    assert faults_of(_Outer()) == ["inner.size: 1 is odd"]
    with pytest.raises(ConfigError, match=r"inner\.size: 1 is odd"):
        command_module._instance(OmegaConf.structured(_Outer()))


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="is not a device"):
        choose_device("gpu")


@pytest.mark.parametrize(
    ("name", "has_one"), [("cuda", torch.cuda.is_available), ("mps", torch.backends.mps.is_available)]
)
def test_a_device_that_is_not_there_is_one_line(name: str, has_one: Callable[[], bool]) -> None:
    if has_one():
        assert choose_device(name).type == name
    else:
        with pytest.raises(ValueError, match=f"device: '{name}' was asked for, but this torch sees no"):
            choose_device(name)


@pytest.mark.parametrize(
    ("command", "usage"),
    [(["-m", "eg3d.train_rlhf"], "-m eg3d.train_rlhf"), (["eg3d/train_rlhf.py"], "eg3d/train_rlhf.py")],
)
def test_fine_tuning_runs_as_a_module_and_as_a_script(command: list[str], usage: str) -> None:
    run = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[0] == f"usage: python {usage} [experiment=NAME] [key=value ...]"


def test_a_second_process_in_the_folder_of_a_run_is_one_line(
    run: Run, train_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    cfg = train_config(total_kimg=0.0)
    Path(cfg.out).mkdir()
    lock = FolderLock(cfg.out)
    result = run(train, *flat_overrides(cfg))
    assert result.code == 1
    assert f"{cfg.out}: another process (pid " in result.the_error()
    assert [path.name for path in Path(cfg.out).iterdir()] == ["run.lock"]
    lock.release()
    assert run(train, *flat_overrides(cfg)).code == 0


def test_a_sweep_gives_every_job_a_folder(run: Run, train_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    words = flat_overrides(train_config(total_kimg=0.004))
    swept = [word for word in words if not word.startswith(("seed=", "optim.beta2="))]
    result = run(train, "--multirun", *swept, "seed=0,1", "optim.beta2=0.5,0.99")
    assert (result.code, result.err) == (0, "")
    names = {f"seed={seed}_optim.beta2={beta}" for seed in (0, 1) for beta in (0.5, 0.99)}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names | {"multirun.yaml"}
    for name in names:
        saved = OmegaConf.load(tmp_path / "run" / name / "config.yaml")
        assert f"seed={saved.seed}_optim.beta2={saved.optim.beta2}" == name
        assert saved.out == str(tmp_path / "run" / name)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing of Hydra's beside it
    again = run(train, "--multirun", *swept, "seed=0,1", "optim.beta2=0.5,0.99")
    assert again.out.count("resuming at 4 images") == 4


@pytest.mark.parametrize("place", ["runs/a,runs/b", "runs/s${seed}"])
def test_a_sweep_that_names_its_folders_keeps_them(
    run: Run, train_config: Callable[..., TrainConfig], tmp_path: Path, place: str
) -> None:
    words = [word for word in flat_overrides(train_config(total_kimg=0.0)) if not word.startswith(("seed=", "out="))]
    result = run(train, "-m", *words, f"out={place}", "seed=3" if "," in place else "seed=3,4")
    assert (result.code, result.err) == (0, "")
    wanted = {"a", "b"} if "," in place else {"s3", "s4"}
    assert {path.parent.name for path in tmp_path.glob("runs/*/run.json")} == wanted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1,2", "bach=4"], "bach: no such key"),
        (["seed=1,-2"], "seed: -2 is below 0"),
        (["seed=1,1"], "out: two jobs of this sweep would work in runs/train/seed=1"),
        (["seed=interval(1,2)"], "seed=interval(1,2): not a list of values to sweep over; give seed=a,b,c"),
        (["grid=[1,"], "grid=[1,: not an override"),
    ],
)
def test_a_bad_sweep_is_one_line_before_any_job(run: Run, tmp_path: Path, words: list[str], message: str) -> None:
    result = run(train, "--multirun", *words)
    assert message in result.the_error()
    assert (result.code, list(tmp_path.iterdir())) == (2, [])


def test_files_of_a_sweep_go_into_folders_of_their_own() -> None:
    sweep = sweep_of(["seed=1,2", "out=data/heads.zip", "+overlay=smoke"])
    assert sweep.keys == {"seed"}
    assert [sweep.out("data/heads.zip", job) for job in sweep.jobs] == [
        "data/seed=1/heads.zip", "data/seed=2/heads.zip",
    ]  # fmt: skip
    long = sweep_of([f"data={'/x' * 99}/a.zip,{'/x' * 99}/b.zip"])
    names = [Path(long.out("runs/a", job)).name for job in long.jobs]
    assert len(set(names)) == 2 and all(len(name) < 130 and "/" not in name for name in names)


def command_with(work: Callable[[], None]) -> object:
    """A module whose command does this work, whatever its settings."""

    def main(cfg: ScoreConfig) -> None:
        work()

    return types.SimpleNamespace(main=hydra_command(config_name="reward_score", schema=ScoreConfig)(main))


def test_an_error_in_a_thread_of_the_work_is_one_line(run: Run) -> None:
    """As of the thread that writes TensorBoard's files on a full disk: it prints no trace and is not lost."""

    def failing(number: int) -> None:
        raise OSError(28, "No space left on device", f"events.{number}")

    def work() -> None:
        for number in range(2):
            thread = threading.Thread(target=failing, args=(number,))
            thread.start()
            thread.join()

    before = threading.excepthook
    result = run(command_with(work), "reward=a", "generator=b")
    assert result.code == 1
    assert result.the_error() == "[Errno 28] No space left on device: 'events.0'"
    assert threading.excepthook is before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_command_line_is_composed_waits_for_its_end(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """OmegaConf would fail in other ways, were it torn apart."""
    compose, done = command_module.compose_config, []

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        done.append(compose(*arguments))
        return done[0]

    monkeypatch.setattr(command_module, "compose_config", interrupted)
    result = run(command_with(lambda: done.append("worked")), "reward=a", "generator=b")
    assert (result.code, len(result.err.splitlines())) == (code, 1)
    assert result.err.startswith("stopped by ")
    assert len(done) == 1
