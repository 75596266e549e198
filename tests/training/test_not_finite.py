"""Runs whose numbers go wrong: told step by step, ended after some, and nothing good is written over."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import Run
from run_records import assert_same_run, contents_of, lines_of
from tiny import flat_overrides

from eg3d import train as command
from eg3d.checkpoints.store import load_generator
from eg3d.training.config import OptimConfig, TrainConfig
from eg3d.training.loop import Trainer, train
from eg3d.training.objective import AdversarialObjective
from eg3d.training.phases import Phase, Term
from eg3d.training.recipe import adversarial_phases

Make = Callable[..., TrainConfig]


def _spoiling(*iterations: int) -> Callable[[AdversarialObjective], list[Phase]]:
    """The phases of a run whose Gmain has a loss that is NaN at some iterations."""

    def phases(objective: AdversarialObjective) -> list[Phase]:
        made = adversarial_phases(objective)
        factor = {True: math.nan, False: 0.0}
        weight = next(objective.generator.parameters())
        bad = Term("bad", lambda draw: weight.sum() * factor[objective.counters.iteration in iterations])
        next(phase for phase in made if phase.name == "Gmain").terms.append(bad)
        return made

    return phases


def test_skipped_steps_are_counted_and_the_run_goes_on(train_config: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run = Trainer(train_config(), phases=_spoiling(1, 2, 7)).run()
    lines = lines_of(run.folder)
    assert [line["Progress/skipped"]["mean"] for line in lines] == [0, 2, 2, 3]
    norm = lines[1]["GradNorm/Gmain/bad"]
    assert (norm["num"], norm["mean"], norm["nonfinite"]) == (1, 0.0, 2)
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if "not finite, skipped" in text] == [
        f"after {count} images Gmain: bad: loss nan, gradient nan: not finite, skipped" for count in (4, 28)
    ]
    assert "skipped 3" in said[-1] and "skipped" not in said[0]


def test_a_stopped_run_counts_on(train_config: Make, tmp_path: Path) -> None:
    cfg = train_config(total_kimg=0.024, max_skips=4)
    Trainer(cfg, phases=_spoiling(4, 5, 6)).run()
    again = train_config(max_skips=4)
    Trainer(again, phases=_spoiling(4, 5, 6)).run()
    whole = train_config(max_skips=4, out=str(tmp_path / "whole"))
    assert_same_run(Path(again.out), Trainer(whole, phases=_spoiling(4, 5, 6)).run().folder)
    ending = train_config(max_skips=3, out=str(tmp_path / "ending"), total_kimg=0.024)
    Trainer(ending, phases=_spoiling(4, 5, 6)).run()
    before = contents_of(Path(ending.out))
    message = r"after 24 images the last 3 steps of Gmain: bad: loss nan, gradient nan: not finite, the run ends"
    with pytest.raises(RuntimeError, match=message) as error:
        Trainer(train_config(max_skips=3, out=ending.out), phases=_spoiling(4, 5, 6)).run()
    assert "\n" not in str(error.value)
    after = contents_of(Path(ending.out))
    assert all(after[name] == before[name] for name in before if name.endswith((".safetensors", ".png")))


def test_absurd_rates_end_the_run_in_one_line(run: Run, train_config: Make, toy_networks: Path) -> None:
    optim = OptimConfig(generator_lr=1e30, discriminator_lr=1e30)
    cfg = train_config(start=str(toy_networks), optim=optim, total_kimg=0.4, tick_kimg=0.2)
    result = run(command, *flat_overrides(cfg))
    assert result.code == 1
    assert "the last 20 steps of" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
    assert "not finite, skipped" in result.out
    (snapshot,) = Path(cfg.out).glob("network-snapshot-*.safetensors")  # of the beginning, whole
    before, after = load_generator(toy_networks).state_dict(), load_generator(snapshot).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_weights_that_make_no_pictures_are_no_snapshot(train_config: Make, toy_networks: Path) -> None:
    """Finite weights, so large that every pixel is NaN, in a run too short for many skipped steps."""
    optim = OptimConfig(generator_lr=1e30, discriminator_lr=1e30)
    cfg = train_config(start=str(toy_networks), optim=optim, total_kimg=0.012, tick_kimg=0.012)
    with pytest.raises(RuntimeError, match="pictures after 12 images are not finite"):
        train(cfg)
    assert [path.name for path in Path(cfg.out).glob("network-*")] == ["network-snapshot-000000000.safetensors"]


@pytest.mark.parametrize("part", ["average", "optimiser"])
def test_a_state_that_is_not_finite_is_not_written(
    train_config: Make, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    cfg, before, original = train_config(total_kimg=0.012, tick_kimg=0.004, snapshot_ticks=1), {}, Trainer.step

    def spoil(trainer: Trainer, *args: object) -> None:
        original(trainer, *args)  # type: ignore[arg-type]
        if trainer.counters.num_images == 8:
            before.update({path: path.read_bytes() for path in trainer.folder.glob("*.safetensors")})
            state = next(iter(trainer.phases[0].optimizer.state.values()))
            tensor = trainer.average.backbone.mapping.w_avg if part == "average" else state["exp_avg_sq"]
            with torch.no_grad():
                tensor.view(-1)[0] = math.inf

    monkeypatch.setattr(Trainer, "step", spoil)
    name = r"backbone\.mapping\.w_avg of G_ema" if part == "average" else r"exp_avg_sq 0 of Gmain's Adam"
    with pytest.raises(RuntimeError, match=rf"after 8 images, {name} is not finite: training diverged") as error:
        train(cfg)
    assert "\n" not in str(error.value)
    assert len(before) == 3
    assert {path: path.read_bytes() for path in Path(cfg.out).glob("*.safetensors")} == before


def test_published_clean_up_goes_on_and_says_so(train_config: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        Trainer(train_config(nonfinite="published", max_skips=2), phases=_spoiling(*range(1, 9))).run()
    said = [record.getMessage() for record in caplog.records]
    assert "cleaned 8" in said[-1]
    assert any("not finite, cleaned, as published" in text for text in said)
