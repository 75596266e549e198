"""A judge beside the reward: when it speaks, what it keeps, how a run ends by it and goes on as if never stopped."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import math
import os
import signal
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run
from run_records import assert_same_run, contents_of, lines_of, rows_of, state_of
from tiny import flat_overrides
from toy_reward import ToyReward

from eg3d import train_rlhf
from eg3d.checkpoints.store import load_generator, read_metadata
from eg3d.config_checks import faults_of
from eg3d.finetuning.config import DriftConfig, FinetuneConfig, JudgeConfig, RewardTermConfig, WeightingConfig
from eg3d.finetuning.judge import BEST_SNAPSHOT, Change, History, Look, OneAtATime, RunJudge, judge_from
from eg3d.finetuning.loop import finetune
from eg3d.stop_signals import Stopped as StoppedBySignal
from eg3d.training.loop import Trainer
from eg3d.training.snapshots import TrainingRun

Make = Callable[..., FinetuneConfig]
SLAB = {"name": "sigma_field", "resolution": 8, "grid": "exact"}
# 7 ticks, a step each, whose average follows at once.
TICKS = {"total_kimg": 0.024, "tick_kimg": 0.004, "grid": [1, 1], "ema_kimg": 0.001, "reward_lr": 0.01}


def judge_table(**changes: Any) -> dict[str, Any]:
    """The table `judge` of a config; its seeds are so much truncated that they are nearly one shape."""
    settings = {
        "num_seeds": 4,
        "batch": 2,
        "psi": 0.01,
        "truncation_cutoff": None,
        "_target_": "toy_reward.moderate",
        "representation": SLAB,
    }
    return FinetuneConfig().judge | settings | changes


def judged(cfg: FinetuneConfig) -> TrainingRun:
    """A run as the command does it."""
    return finetune(cfg, ToyReward(), judge=judge_from(cfg, device="cpu"))


def judge_rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "judge.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def note_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))["judge"]


def means_of(rows: Sequence[dict[str, str]], column: str) -> list[float]:
    """Mean of a column, tick by tick."""
    ticks = sorted({int(row["tick"]) for row in rows})
    return [statistics.fmean(float(row[column]) for row in rows if int(row["tick"]) == tick) for tick in ticks]


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory, toy_images: Path, toy_networks: Path) -> float:
    """The density that the judge likes: that of tick 3 of a run, so that the reward passes it."""
    from tiny import tiny_train_config

    from eg3d.finetuning.config import ConsistencyConfig, TrackingConfig

    base = tiny_train_config(tmp_path_factory.mktemp("wanted") / "run", toy_images)
    shared = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    cfg = FinetuneConfig(
        **shared | {"start": str(toy_networks), "ema_rampup": None} | TICKS,
        reward={"_target_": "toy_reward.load"},
        reward_term=RewardTermConfig(micro_batch=2),
        consistency=ConsistencyConfig(resolution=6, grid="exact"),
        tracking=TrackingConfig(num_seeds=0),
        judge=judge_table(),
    )
    rewards = means_of(judge_rows(judged(cfg).folder), "reward")
    assert rewards == sorted(rewards)  # the toy's reward rises at every tick
    return rewards[3]


def test_a_run_whose_reward_is_gamed_ends_by_itself(
    finetune_config: Make, wanted: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cfg = finetune_config(**TICKS, snapshot_ticks=1, judge=judge_table(wanted=wanted, stop=True))
    run = judged(cfg)
    folder = run.folder
    assert run.num_images == 20  # best at tick 3, fallen at ticks 4 and 5, of 6
    assert run.ended.startswith("at tick 5 (20 images) the reward is over-optimised: since tick 3 (12 images) it rose")
    (said,) = [record.getMessage() for record in caplog.records if "over-optimised" in record.getMessage()]
    assert "\n" not in said and "toy_reward.moderate fell by" in said and "2 looks in a row" in said
    assert run.best == folder / BEST_SNAPSHOT
    best, then = (load_generator(path) for path in (run.best, folder / "network-snapshot-000000012.safetensors"))
    for one, other in zip(best.state_dict().values(), then.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    facts = read_metadata(run.best)["extra"]
    rows = judge_rows(folder)
    assert [row["seed"] for row in rows[:4]] == ["350000", "350001", "350002", "350003"]
    scores = means_of(rows, "score")
    assert max(scores) == scores[3] and len(scores) == 6
    note = note_of(folder)
    assert note["best"] == {"tick": 3, "num_images": 12, "score": facts["judge_score"], "snapshot": BEST_SNAPSHOT}
    assert facts["judge_score"] == pytest.approx(scores[3]) and note["ended"] == run.ended
    for line, score in zip(lines_of(folder), scores, strict=True):
        assert line["Judge/mean"]["mean"] == pytest.approx(score)
    assert "Judge/mean" in caplog.text and run.snapshot.exists()


def test_an_ended_run_does_nothing_when_it_is_started_again(
    finetune_config: Make, wanted: float, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = finetune_config(**TICKS, judge=judge_table(wanted=wanted, stop=True))
    first = judged(cfg)
    before = contents_of(first.folder)
    caplog.set_level(logging.INFO)
    again = judged(dataclasses.replace(cfg, total_kimg=0.04))
    assert again == first
    assert "nothing is left to do, the run has ended: at tick 5 (20 images) the reward" in caplog.text
    after = contents_of(first.folder)
    assert {name for name in after if after[name] != before.get(name)} == {"config.yaml", "run.json"}  # its session
    longer = judged(dataclasses.replace(cfg, judge=judge_table(wanted=wanted, stop=False)))
    assert (longer.num_images, longer.ended) == (24, "") and note_of(first.folder)["ended"] is None
    whole = judged(dataclasses.replace(cfg, out=f"{cfg.out} whole", judge=judge_table(wanted=wanted)))
    assert_same_run(longer.folder, whole.folder)


def test_a_judge_that_only_looks_leaves_the_run_as_it_was(
    finetune_config: Make, wanted: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    alone = finetune(finetune_config(**TICKS), ToyReward())
    assert "kept" not in state_of(alone.folder)[1]  # a run without a judge has the state that it always had
    cfg = finetune_config(**TICKS, out=f"{alone.folder} judged", judge=judge_table(wanted=wanted))
    run = judged(cfg)
    one, other = state_of(alone.folder), state_of(run.folder)
    assert all(torch.equal(value, other[0][key]) for key, value in one[0].items())
    assert one[1]["counters"] == other[1]["counters"] and rows_of(alone.folder) == rows_of(run.folder)
    kept = [{k: v for k, v in line.items() if not k.startswith("Judge/")} for line in lines_of(run.folder)]
    assert kept == lines_of(alone.folder)
    assert caplog.text.count("over-optimised") == 1 and "judge.stop=true would end it" in caplog.text
    assert run.ended == "" and read_metadata(run.best)["extra"]["num_images"] == 12  # type: ignore[arg-type]


def test_a_control_is_judged_and_never_called_over_optimised(finetune_config: Make, wanted: float) -> None:
    table = judge_table(wanted=wanted, stop=True, patience=1, standard_errors=0)
    run = judged(finetune_config(**TICKS, judge=table, reward_term=RewardTermConfig(weight=0, micro_batch=2)))
    assert (run.num_images, run.ended) == (24, "") and run.best is not None


class Stopped(BaseException):
    """Stands in for the power cut."""


BALANCES: dict[str, dict[str, Any]] = {
    "weighting": {"weighting": WeightingConfig(mode="gradient_share", half_life=2)},
    "drift": {"drift": DriftConfig(bound=0.01, rate=0.5)},
}


@pytest.mark.parametrize(
    ("balance", "owner", "method", "call"),
    [
        ("weighting", Trainer, "_save_state", 5),
        ("weighting", RunJudge, "settle", 4),  # between the state of the best tick and its snapshot
        ("drift", RunJudge, "settle", 6),  # between the last state and the record of the end
        ("drift", Trainer, "step", 4),
    ],
)
def test_stopped_anywhere_it_goes_on_as_if_it_had_not(
    finetune_config: Make, wanted: float, tmp_path: Path, balance: str, owner: type, method: str, call: int
) -> None:
    table = judge_table(wanted=wanted, stop=True)
    cfg = finetune_config(**TICKS, judge=table, **BALANCES[balance])
    whole = judged(dataclasses.replace(cfg, out=str(tmp_path / "whole")))
    original, calls = getattr(owner, method), []

    def stopping(self: Any, *args: object) -> None:
        calls.append(1)
        if len(calls) == call:
            raise Stopped
        original(self, *args)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(owner, method, stopping)
        with pytest.raises(Stopped):
            judged(cfg)
    run = judged(cfg)
    assert_same_run(run.folder, whole.folder)
    assert judge_rows(run.folder) == judge_rows(whole.folder) and rows_of(run.folder) == rows_of(whole.folder)
    assert note_of(run.folder) == note_of(whole.folder) and run.ended == whole.ended
    assert run.best is not None and whole.best is not None
    ours, theirs = (load_generator(path).state_dict() for path in (run.best, whole.best))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    kept = json.loads(state_of(run.folder)[1]["kept"])
    assert set(kept) == {"judge", balance}


@pytest.mark.parametrize("balance", BALANCES)
def test_a_signal_in_the_middle_of_a_tick(finetune_config: Make, wanted: float, tmp_path: Path, balance: str) -> None:
    """The state between two ticks has the judge's history and the running averages of half a tick."""
    length = TICKS | {"tick_kimg": 0.012}
    cfg = finetune_config(**length, mode="joint", judge=judge_table(wanted=wanted), **BALANCES[balance])
    original, calls = Trainer.step, []

    def asked(self: Trainer, real: Any) -> None:
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, real)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Trainer, "step", asked)
        with pytest.raises(StoppedBySignal):
            judged(cfg)
    assert json.loads(state_of(Path(cfg.out))[1]["counters"])["num_images"] == 20
    run, whole = judged(cfg), judged(dataclasses.replace(cfg, out=str(tmp_path / "whole")))
    assert_same_run(run.folder, whole.folder)
    assert judge_rows(run.folder) == judge_rows(whole.folder) and note_of(run.folder) == note_of(whole.folder)


def test_a_best_snapshot_that_is_gone_is_told(
    finetune_config: Make, wanted: float, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = finetune_config(**TICKS, judge=judge_table(wanted=wanted))
    run = judged(cfg)
    assert run.best is not None
    run.best.unlink()
    assert judged(cfg).best is None
    assert "not the networks of tick 3, which the judge liked best" in caplog.text


@pytest.mark.parametrize("limit", [-1e9, "wanted"])
def test_a_judge_that_gives_no_number_ends_the_run_in_one_line(
    finetune_config: Make, wanted: float, limit: float | str
) -> None:
    """At the start, and in the middle of a run, whose last state is as it was."""
    value = wanted if limit == "wanted" else limit
    table = judge_table(_target_="toy_reward.nothing_after", limit=value)
    cfg = finetune_config(**TICKS, judge=table)
    message = r"judge: toy_reward\.nothing_after gave nan .*\(first: seed 35000\d\).*mend the judge"
    with pytest.raises(ValueError, match=message) as error:
        judged(cfg)
    assert "\n" not in str(error.value)
    if limit == "wanted":
        assert json.loads(state_of(Path(cfg.out))[1]["counters"])["tick"] >= 1
        with pytest.raises(ValueError, match=message):
            judged(cfg)


def test_judges_that_give_no_tensor_are_taken(finetune_config: Make, wanted: float) -> None:
    one = judge_table(_target_="toy_reward.moderate_one", one_at_a_time=True, wanted=wanted)
    cfg = finetune_config(total_kimg=0.004, judge=one)
    assert isinstance(judge_from(cfg, device="cpu"), OneAtATime)
    rows = judge_rows(judged(cfg).folder)
    other = finetune_config(total_kimg=0.004, judge=judge_table(wanted=wanted), out=f"{cfg.out} other")
    wanted_rows = judge_rows(judged(other).folder)
    assert [float(row["score"]) for row in rows] == pytest.approx([float(row["score"]) for row in wanted_rows])


def test_the_reward_may_have_to_rise_on_the_tracked_seeds(finetune_config: Make, wanted: float) -> None:
    table = judge_table(wanted=wanted, stop=True, reward_seeds="tracking")
    run = judged(finetune_config(**TICKS, judge=table))
    assert run.num_images == 20
    assert list(judge_rows(run.folder)[0]) == ["tick", "num_images", "seed", "score"]


def test_it_looks_as_seldom_as_it_is_told(finetune_config: Make) -> None:
    run = judged(finetune_config(**TICKS, judge=judge_table(every_ticks=2, seeds=[9, 7])))
    assert [(row["tick"], row["seed"]) for row in judge_rows(run.folder)] == [
        (tick, seed) for tick in "0246" for seed in "97"
    ]
    assert ["Judge/mean" in line for line in lines_of(run.folder)] == [True, False] * 3 + [True]


def test_another_judge_cannot_continue_a_run(finetune_config: Make, tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"good")

    def config(**changes: Any) -> FinetuneConfig:
        table = judge_table(_target_="toy_reward.load", path=str(weights), representation=None)
        return finetune_config(total_kimg=0.004, judge=table | changes)

    def go(cfg: FinetuneConfig) -> None:
        finetune(cfg, ToyReward(), judge=ToyReward())

    go(config())
    for changes, message in (
        ({"first_seed": 7}, r"judge\.first_seed: the run has 350000, now 7"),
        ({"gain": 2.0}, r"judge\.gain: the run has \"no such setting\"|judge\.gain"),
    ):
        with pytest.raises(ValueError, match=message):
            go(config(**changes))
    weights.write_bytes(b"gold")
    with pytest.raises(ValueError, match=r"judge\.path: the run has weights\.bin \(SHA-256 "):
        go(config())
    with pytest.raises(ValueError, match="the config names one and none was given"):
        finetune(config(), ToyReward())


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"first_seed": 300001}, "judge.first_seed: 2 of the judge's 4 seeds are tracked too, 300001 to 300002; give"),
        ({"seeds": [1, 300002]}, "judge.first_seed: 1 of the judge's 2 seeds are tracked too, 300002 to 300002; give"),
        ({"num_seeds": 1}, "judge.num_seeds: a standard error needs 2 seeds or more, got 1"),
        ({"seeds": [3, 3]}, "judge.seeds: give every seed once, from 0 on"),
        ({"every_ticks": 0}, "judge.every_ticks: 0 is below 1"),
        ({"patience": "often"}, "judge.patience: Value 'often'"),
        ({"reward_seeds": "both"}, "judge.reward_seeds: 'both' is not one of judge, tracking"),
        ({"_target_": None}, "judge._target_: give the dotted name of a judge that takes representation"),
        ({"psi": math.nan}, "judge.psi: nan is not a finite number"),
    ],
)
def test_faults_of_a_judge_are_one_line_each(finetune_config: Make, changes: dict[str, Any], fault: str) -> None:
    (found,) = faults_of(finetune_config(judge=judge_table(**changes)))
    assert found.startswith(fault) and "\n" not in found


def _look(tick: int, scores: Sequence[float], rewards: Sequence[float]) -> Look:
    return Look(tick, 4 * tick, tuple(scores), tuple(rewards))


def test_changes_are_paired_by_seed() -> None:
    """Seeds that differ by hundreds from each other, all of which fell by the same: no error at all."""
    change = Change.between([0.0, 500.0, -300.0], [-1.0, 499.0, -301.0])
    assert (change.mean, change.error) == (-1.0, 0.0)
    assert Change.between([0.0, 0.0], [1.0, 3.0]).error == pytest.approx(math.sqrt(2) / math.sqrt(2))


def test_what_counts_as_over_optimised() -> None:
    cfg = JudgeConfig(num_seeds=4, patience=2)
    base = [1.0, 2.0, 3.0, 4.0]
    clearly, hardly = [x - 1 for x in base], [0.0, 3.0, 1.9, 4.9]  # both lower on average
    higher = [x + 1 for x in base]
    cases = [
        (clearly, higher, True),
        (hardly, higher, False),  # within its standard error
        (clearly, base, False),  # the reward does not rise
        (clearly, clearly, False),  # both fall: no gaming of the reward
        (base, higher, False),
    ]
    for scores, rewards, is_gamed in cases:
        history = History(cfg)
        assert not history.add(_look(0, base, base)).is_gamed
        assert history.add(_look(1, scores, rewards)).is_gamed is is_gamed
        assert not history.is_told
        history.add(_look(2, scores, rewards))
        assert history.is_told is is_gamed
    control = History(cfg, is_tuned=False)
    control.add(_look(0, base, base))
    assert not control.add(_look(1, clearly, higher)).is_gamed


def test_a_judge_that_comes_back_begins_anew() -> None:
    cfg, base = JudgeConfig(num_seeds=2, patience=2), [1.0, 2.0]
    history, told = History(cfg), []
    for tick, change in enumerate([0.0, -1.0, 0.0, -1.0, -1.0, -1.0, 0.5, -1.0, -1.0]):
        history.add(_look(tick, [x + change for x in base], [x + tick for x in base]))
        told.append(history.is_told)
    assert told == [False, False, False, False, True, False, False, False, True]  # once a time
    assert history.best is not None and history.best.tick == 6
    ending = History(dataclasses.replace(cfg, stop=True))
    ending.restore(json.loads(json.dumps(history.state())))
    assert ending.state() == history.state()
    ending.add(_look(9, base, [20.0, 21.0]))
    assert ending.is_told  # a run that may end now, and whose reward is gamed still


def test_the_command_ends_with_the_reason_and_exit_code_0(finetune_config: Make, wanted: float, run: Run) -> None:
    cfg = finetune_config(**TICKS, judge=judge_table(wanted=wanted, stop=True))
    words = flat_overrides(cfg)
    for _ in range(2):
        done = run(train_rlhf, *words)
        assert done.code == 0, done.err
        assert f"judge's best: {cfg.out}/{BEST_SNAPSHOT}" in done.out
        assert done.out.splitlines()[-1].startswith("ended:        at tick 5 (20 images) the reward is over-optimised")
    assert "judge: runs toy_reward.moderate, as the configuration says (judge._target_)" in done.out
    assert "nothing is left to do" in done.out


def test_the_command_refuses_seeds_that_are_tracked_and_judges_that_there_are_not(
    finetune_config: Make, run: Run
) -> None:
    words = flat_overrides(finetune_config(judge=judge_table()))
    wrong = run(train_rlhf, *words, "judge.first_seed=300000")
    assert wrong.code == 2 and wrong.the_error().startswith("judge.first_seed: 3 of the judge's 4 seeds are tracked")
    wrong = run(train_rlhf, *words, "judge.patiense=3")
    assert wrong.code == 1 and "judge: got an unexpected keyword argument 'patiense'" in wrong.the_error()
    wrong = run(train_rlhf, *words, "judge._target_=toy_reward.nobody")
    assert wrong.code == 1 and wrong.the_error().startswith("judge._target_: ")


def test_the_simulated_annotator_judges(finetune_config: Make) -> None:
    table = FinetuneConfig().judge | {
        "_target_": "reward_model_training.preferences.simulated_judge.load",
        "resolution": 16,
        "num_seeds": 2,
    }
    rows = judge_rows(judged(finetune_config(total_kimg=0.004, judge=table)).folder)
    assert all(0 <= float(row["score"]) <= 10 for row in rows)
    from reward_model_training.preferences.simulated_judge import load

    for settings, message in (
        ({"annotator": {"levle": 1}}, r"judge\.annotator: .* has no field levle"),
        ({"annotator": {"reach": -1}}, "reach: must be above 0"),
        ({"annotator": {"name": "nobody"}}, r"judge\.annotator, name: 'nobody' is not one of"),
        ({"grid": "round"}, "judge: grid: 'round' is not one of"),
    ):
        with pytest.raises(ValueError, match=message):
            load(**settings)
