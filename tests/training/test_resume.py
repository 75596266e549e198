"""A run that was stopped anywhere and started again ends in the same weights, with the same log."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from run_records import assert_same_run, contents_of, kill_after_first_tick, lines_of, start, state_of
from tiny import flat_overrides, tiny_generator_config, tiny_train_config

from eg3d.checkpoints.store import load_generator
from eg3d.data import Batch
from eg3d.stop_signals import Stopped as StoppedBySignal
from eg3d.training.config import AdversarialLossConfig, AugmentationConfig, OptimConfig, TrainConfig, WarmStartConfig
from eg3d.training.loop import Trainer, train
from eg3d.training.stats import StatsWriter

Make = Callable[..., TrainConfig]
WARM = WarmStartConfig(reconstruction_kimg=0.008, discriminator_kimg=0.008)


class Stopped(BaseException):
    """Stands in for the power cut."""


def _stop_at(monkeypatch: pytest.MonkeyPatch, method: str, call: int, *, before: bool) -> None:
    """Stop the run at the `call`-th call of a Trainer method, before or after its work."""
    original, calls = getattr(Trainer, method), []

    def stopping(self: Trainer, *args: object) -> object:
        calls.append(method)
        if len(calls) == call and before:
            raise Stopped
        result = original(self, *args)
        if len(calls) == call:
            raise Stopped
        return result

    monkeypatch.setattr(Trainer, method, stopping)


def _run_with_stop(cfg: TrainConfig, method: str, call: int, *, before: bool) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        _stop_at(monkeypatch, method, call, before=before)
        with pytest.raises(Stopped):
            train(cfg)
    train(cfg)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, toy_images: Path) -> Path:
    """A run that nothing stopped."""
    cfg = tiny_train_config(tmp_path_factory.mktemp("whole") / "run", toy_images)
    return train(dataclasses.replace(cfg, warm_start=WARM)).folder


@pytest.mark.parametrize(
    ("method", "call", "before"),
    [
        ("_save_state", 1, True),  # the first tick is logged, nothing is saved
        ("step", 4, False),  # just after the warm start and its first tick
        ("_save_state", 3, True),  # a tick is logged and not saved
        ("_save_state", 4, True),  # all steps done, the end not saved
        ("_save_state", 4, False),  # nothing left to do
    ],
)
def test_stopped_anywhere(train_config: Make, whole: Path, method: str, call: int, before: bool) -> None:
    cfg = train_config(warm_start=WARM)
    _run_with_stop(cfg, method, call, before=before)
    assert_same_run(Path(cfg.out), whole)
    assert [line["num_images"] for line in lines_of(whole)] == [0, 12, 24, 36]


@pytest.mark.parametrize(("method", "call", "before"), [("_save_state", 3, True), ("step", 7, False)])
def test_stopped_with_augmentation_and_micro_batches(
    train_config: Make, tmp_path: Path, method: str, call: int, before: bool
) -> None:
    """The state is written between two changes of p, whose half of the evidence it keeps."""
    augmentation = AugmentationConfig(mode="ada", target=-1.0, interval=2, kimg=0.1)
    settings = {"augmentation": augmentation, "micro_batch": 2, "mirror": True}
    cfg = train_config(**settings)
    _run_with_stop(cfg, method, call, before=before)
    whole = train(train_config(out=str(tmp_path / "whole"), **settings)).folder
    assert_same_run(Path(cfg.out), whole)
    tensors, metadata = state_of(whole)
    assert float(tensors["network/augment_pipe/p"]) > 0
    assert json.loads(metadata["counters"])["real_count"] == 4


def test_killed_command(train_config: Make, tmp_path: Path) -> None:
    cfg = train_config(total_kimg=0.12)
    process = start(["-m", "eg3d.train"], flat_overrides(cfg))
    kill_after_first_tick(process, Path(cfg.out))
    assert json.loads(state_of(Path(cfg.out))[1]["counters"])["num_images"] < 120
    again = start(["-m", "eg3d.train"], flat_overrides(cfg))
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0, output
    assert "resuming at" in output
    assert output.splitlines()[-1] == f"snapshot: {cfg.out}/network-snapshot-000000120.safetensors"
    whole = train(dataclasses.replace(cfg, out=str(tmp_path / "whole"))).folder
    assert_same_run(Path(cfg.out), whole)


def test_more_training_continues_a_finished_run(train_config: Make, tmp_path: Path) -> None:
    short = train_config(total_kimg=0.024)
    train(short)
    train(dataclasses.replace(short, total_kimg=0.036))
    whole = train(train_config(out=str(tmp_path / "whole"))).folder
    assert_same_run(Path(short.out), whole)


def test_a_run_that_is_shortened_ends_with_a_snapshot_of_where_it_was(train_config: Make) -> None:
    cfg = train_config()
    with pytest.MonkeyPatch.context() as monkeypatch:
        _stop_at(monkeypatch, "step", 7, before=False)
        with pytest.raises(Stopped):
            train(cfg)
    run = train(dataclasses.replace(cfg, total_kimg=0.016))
    assert run.num_images == 24  # the tick before the stop
    assert load_generator(run.snapshot).cfg == cfg.generator
    assert_same_run(train(cfg).folder, train(train_config(out=f"{cfg.out} whole")).folder)


CHANGES = {
    "optim.generator_lr: the run has 0.0025, now 0.5": {"optim": OptimConfig(generator_lr=0.5)},
    "loss.r1_gamma: the run has 1.0, now 77.0": {"loss": AdversarialLossConfig(r1_interval=3, r1_gamma=77)},
    "seed: the run has 0, now 1": {"seed": 1},
    "batch: the run has 4, now 2": {"batch": 2},
    "generator.decoder_hidden: the run has 4, now 5": {
        "generator": dataclasses.replace(tiny_generator_config(), decoder_hidden=5)
    },
    "one image a forward pass: the run has false, now true": {"micro_batch": 1},
}


@pytest.mark.parametrize("difference", CHANGES)
def test_another_setting_cannot_continue_a_run(train_config: Make, difference: str) -> None:
    cfg = train_config(total_kimg=0.004)
    train(cfg)
    before = contents_of(Path(cfg.out))
    with pytest.raises(ValueError, match=re.escape(difference)) as error:
        train(train_config(**CHANGES[difference]))
    assert "\n" not in str(error.value)
    assert contents_of(Path(cfg.out)) == before


def test_another_data_set_or_start_cannot_continue_a_run(
    train_config: Make, toy_networks: Path, toy_images: Path, tmp_path: Path
) -> None:
    cfg = train_config(total_kimg=0.004, start=str(toy_networks))
    train(cfg)
    images = shutil.copytree(toy_images, tmp_path / "other")
    (images / "dataset.json").write_text((images / "dataset.json").read_text() + "\n")
    with pytest.raises(ValueError, match=r"data: the run has images\d* \(SHA-256 \w{8}\.\.\.\), now other \("):
        train(dataclasses.replace(cfg, data=str(images)))
    start = tmp_path / "start.safetensors"
    start.write_bytes(_another_weight(toy_networks))
    with pytest.raises(ValueError, match=r"start: the run has toy\.safetensors \(.*, now start\.safetensors \("):
        train(dataclasses.replace(cfg, start=str(start)))


def _another_weight(networks: Path) -> bytes:
    """The file with one bit of its last tensor changed."""
    data = bytearray(networks.read_bytes())
    data[-1] ^= 1
    return bytes(data)


def test_moved_and_renamed_files_continue_a_run(
    train_config: Make, toy_networks: Path, toy_images: Path, tmp_path: Path
) -> None:
    def config(out: Path, data: Path, start: Path, kimg: float) -> TrainConfig:
        return train_config(out=str(out), data=str(data), start=str(start), total_kimg=kimg)

    first = config(tmp_path / "run", toy_images, toy_networks, 0.012)
    train(first)
    folder = shutil.move(first.out, tmp_path / "moved")
    images = shutil.copytree(toy_images, tmp_path / "images of faces")
    start = shutil.copy(toy_networks, tmp_path / "renamed.safetensors")
    moved = train(config(folder, images, start, 0.036)).folder
    whole = train(config(tmp_path / "whole", toy_images, toy_networks, 0.036)).folder
    assert_same_run(moved, whole)


def test_a_run_is_not_overwritten(train_config: Make) -> None:
    train(train_config(total_kimg=0.004))
    with pytest.raises(ValueError, match="holds a run already"):
        train(train_config(resume=False))


def test_a_state_without_a_record_is_nobodys(train_config: Make) -> None:
    cfg = train_config(total_kimg=0.004)
    train(cfg)
    (Path(cfg.out) / "run.json").unlink()
    with pytest.raises(ValueError, match=r"has a state\.safetensors, but no record of its run"):
        train(cfg)
    assert not (Path(cfg.out) / "run.json").exists()


def test_statistics_that_are_cut_short_or_damaged_are_dropped(tmp_path: Path) -> None:
    whole = '{"num_images": 4, "Loss/a": {"num": 1, "mean": 0.5, "std": 0.0}}\n'
    later, cut = whole.replace("4", "8", 1), '{"Loss/a": {"num": 1}'
    odd = ['{"num_images": "many"}', '{"num_images": 1e999}', "[" * 100_000, '{"num_images": 4, "\xff": 1}']
    text = "\n".join([whole + later + cut, *odd])
    (tmp_path / "stats.jsonl").write_text(text, encoding="latin-1")
    StatsWriter(tmp_path, num_images=4).close()
    assert (tmp_path / "stats.jsonl").read_text(encoding="utf-8") == whole


@pytest.mark.parametrize("call", [1, 2, 4, 7])
def test_a_signal_saves_the_last_finished_step(
    train_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """In the middle of a tick too: the statistics of its first part are part of the state."""
    cfg, calls, original = train_config(warm_start=WARM), [], Trainer.step

    def asked(self: Trainer, real: Batch) -> None:
        calls.append(self.counters.num_images)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, real)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", asked)
        with pytest.raises(StoppedBySignal, match=rf"SIGTERM: the state after {4 * call} images is saved") as stop:
            train(cfg)
    assert stop.value.exit_code == 143
    assert calls[-1] == 4 * (call - 1)  # the step was finished, and no other begun
    assert json.loads(state_of(Path(cfg.out))[1]["counters"])["num_images"] == 4 * call
    train(cfg)
    assert_same_run(Path(cfg.out), train(train_config(warm_start=WARM, out=str(tmp_path / "whole"))).folder)


def test_stopped_at_every_step(train_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"augmentation": AugmentationConfig(mode="ada", target=-1.0, interval=2, kimg=0.1), "total_kimg": 0.024}
    original, cfg = Trainer.step, train_config(**settings)

    def asked(self: Trainer, real: Batch) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        original(self, real)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", asked)
        for _ in range(6):
            with pytest.raises(StoppedBySignal) as stop:
                train(cfg)
            assert stop.value.exit_code == 130
    train(cfg)
    assert_same_run(Path(cfg.out), train(train_config(out=str(tmp_path / "whole"), **settings)).folder)
