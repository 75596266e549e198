"""Weights by gradient share and by a drift bound: they reach what was asked for, and else leave a run alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from run_records import lines_of, state_of
from tiny import toy_draw
from torch import Tensor, nn
from toy_reward import ToyReward

from eg3d.config_checks import faults_of
from eg3d.finetuning.config import (
    ConsistencyConfig,
    DriftConfig,
    FinetuneConfig,
    GradientNormsConfig,
    RewardTermConfig,
    WeightingConfig,
)
from eg3d.finetuning.drift import DriftBound
from eg3d.finetuning.loop import finetune
from eg3d.finetuning.weighting import GradientShares, Weights
from eg3d.training.loop import Trainer
from eg3d.training.phases import Draw, Phase, Term

Make = Callable[..., FinetuneConfig]
SHARES = {"adversarial": 0.5, "reward": 0.3, "consistency": 0.2}


def _draw(train_config: Callable[..., Any]) -> Draw:
    return toy_draw(Trainer(train_config()))


class Point(nn.Module):
    """A generator of one place."""

    def __init__(self, *place: float) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor(place))


def _phase(point: Point, terms: Sequence[Term], *, lr: float = 0.0) -> Phase:
    return Phase("toy", point, torch.optim.SGD(point.parameters(), lr=lr), list(terms))


@pytest.mark.parametrize("parts", [("adversarial", "reward", "consistency"), ("reward", "consistency")])
def test_gradients_come_to_their_shares(train_config: Callable[..., Any], parts: tuple[str, ...]) -> None:
    """Whatever they begin with: norms apart by a factor of 750, and twice as large in the second half."""
    shares = GradientShares(WeightingConfig(mode="gradient_share", shares=SHARES, half_life=3))
    point, gain, draw = Point(1.0, 2.0, 3.0), [1.0], _draw(train_config)
    sizes = {"adversarial": 0.3, "reward": 75.0, "consistency": 0.1}

    def term(part: str) -> Term:
        return Term(part, lambda _: shares.factor(part) * gain[0] * sizes[part] * point.place.sum())

    phase = _phase(point, [term(part) for part in parts])
    phase.after.append(shares.update)
    for step in range(60):
        gain[0] = 2.0 if step > 30 and step % 2 else 1.0
        phase.step(draw, micro_batch=4, num_images=0)
    total = sum(phase.norms.values())
    whole = sum(SHARES[part] for part in parts)
    assert {part: norm / total for part, norm in phase.norms.items()} == pytest.approx(
        {part: SHARES[part] / whole for part in parts}, rel=1e-4
    )
    assert shares.factor(parts[0]) == 1.0


def test_a_gradient_of_nothing_teaches_no_weight() -> None:
    """The consistency of the first step, and a reward outside its clip."""
    shares = GradientShares(WeightingConfig(mode="gradient_share", half_life=2, limit=50))
    shares.update({"reward": 8.0, "consistency": 0.0})
    assert shares.factor("consistency") == 1.0
    shares.update({"reward": 8.0, "consistency": 0.5})
    assert shares.factor("consistency") == pytest.approx(0.1 / 0.4 * 16)
    for _ in range(20):
        shares.update({"reward": 0.0, "consistency": 0.5 * shares.factor("consistency")})
    assert shares.factor("consistency") == pytest.approx(4.0)
    before = shares.state()
    shares.update({"reward": math.nan, "consistency": 1.0})
    assert shares.state() == before
    for _ in range(40):
        shares.update({"reward": 1e6, "consistency": 1e-6})
    assert shares.factor("consistency") == 50


def _pulled(train_config: Callable[..., Any], bound: DriftBound, *, steps: int) -> tuple[list[float], list[float]]:
    """A place that a quadratic pulls to 3, held to 0 by the multiplier: drifts and multipliers by step."""
    point, draw = Point(0.0), _draw(train_config)

    def held(_: Draw) -> Tensor:
        drift = point.place.abs().mean()
        bound.add(drift)
        return bound.multiplier * drift

    terms = [Term("reward", lambda _: (point.place - 3).square().sum()), Term("consistency", held, 0, bound)]
    phase, drifts, multipliers = _phase(point, terms, lr=0.02), [], []
    phase.after.append(lambda norms: bound.ascend())
    for _ in range(steps):
        phase.step(draw, micro_batch=4, num_images=0)
        drifts.append(float(point.place.detach().abs()))
        multipliers.append(bound.multiplier)
    return drifts, multipliers


def test_the_multiplier_holds_the_bound(train_config: Callable[..., Any]) -> None:
    """min (x - 3)^2 with |x| <= 1: x = 1, where the multiplier is 4."""
    bound = DriftBound(DriftConfig(bound=1.0, rate=0.05), 0.01)
    drifts, multipliers = _pulled(train_config, bound, steps=500)
    assert max(drifts) > 1.5  # it had to be called back
    assert max(drifts[-50:]) < 1.05 and min(drifts[-50:]) > 0.95
    assert multipliers[-1] == pytest.approx(4.0, rel=0.05)


def test_a_loose_bound_leaves_the_multiplier_at_its_floor(train_config: Callable[..., Any]) -> None:
    bound = DriftBound(DriftConfig(bound=10.0, rate=0.1, lowest=0.002), 0.01)
    drifts, multipliers = _pulled(train_config, bound, steps=300)
    assert multipliers[-1] == pytest.approx(0.002)
    assert drifts[-1] == pytest.approx(3.0, abs=0.01)
    tight = DriftBound(DriftConfig(bound=1e-9, rate=1.0, highest=7.0), 0.01)
    assert max(_pulled(train_config, tight, steps=20)[1]) == pytest.approx(7.0)  # and never above its ceiling


def test_a_run_keeps_the_densities_within_the_bound(finetune_config: Make) -> None:
    """The same run with and without: the bound is half of how far the densities go by themselves."""
    length = {"total_kimg": 0.08, "tick_kimg": 0.04, "reward_lr": 0.01, "grid": [1, 1]}
    free = lines_of(finetune(finetune_config(**length), ToyReward()).folder)
    far = free[-1]["Reward/consistency"]["mean"]
    cfg = finetune_config(**length, out=f"{finetune_config().out} held", drift=DriftConfig(bound=far / 2, lowest=10.0))
    run = finetune(cfg, ToyReward())
    held = lines_of(run.folder)
    assert held[-1]["Reward/consistency"]["mean"] < 0.65 * far
    assert held[-1]["Drift/multiplier"]["mean"] > 10
    assert held[-1]["Drift/share_of_bound"]["mean"] == pytest.approx(
        held[-1]["Reward/consistency"]["mean"] / (far / 2), rel=1e-4
    )
    assert '"drift": {"log_multiplier"' in state_of(run.folder)[1]["kept"]


@pytest.mark.parametrize("mode", ["separate", "joint"])
def test_a_run_by_gradient_share(finetune_config: Make, mode: str) -> None:
    shares = {"adversarial": 0.5, "reward": 0.3, "consistency": 0.2}
    weighting = WeightingConfig(mode="gradient_share", shares=shares, half_life=2)
    cfg = finetune_config(total_kimg=0.08, tick_kimg=0.02, mode=mode, weighting=weighting)
    last = lines_of(finetune(cfg, ToyReward()).folder)[-1]
    phase = {"separate": "Ggeometry", "joint": "Gmain"}[mode]
    norms = {part: last[f"GradNorm/{phase}/{part}"]["mean"] for part in ("reward", "consistency")}
    assert 0.3 / 0.2 / 2 < norms["reward"] / norms["consistency"] < 0.3 / 0.2 * 2
    assert last["Weight/consistency"]["mean"] != 0.01
    assert (last["Weight/reward"]["mean"] == 10.0) is (mode == "separate")
    if mode == "joint":
        assert 0.3 / 0.5 / 2 < norms["reward"] / last["GradNorm/Gmain/adversarial"]["mean"] < 0.3 / 0.5 * 2


def test_gradients_are_shown_as_seldom_as_told_and_change_nothing(
    finetune_config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plain = finetune(finetune_config(total_kimg=0.024, tick_kimg=0.004), ToyReward()).folder
    assert "Gradient/" not in caplog.text
    shown = finetune_config(
        total_kimg=0.024, tick_kimg=0.004, out=f"{plain} shown", gradient_norms=GradientNormsConfig(every_ticks=3)
    )
    run = finetune(shown, ToyReward()).folder
    lines = lines_of(run)
    names = [f"Gradient/{part}" for part in ("adversarial", "reward", "consistency")]
    assert [names[0] in line for line in lines] == [tick in (3, 6) for tick in range(7)]
    for name, norm in zip(names, ("Gmain/adversarial", "Ggeometry/reward", "Ggeometry/consistency"), strict=True):
        assert lines[3][name] == lines[3][f"GradNorm/{norm}"]
    ratio = lines[6]["Gradient/reward"]["mean"] / lines[6]["Gradient/consistency"]["mean"]
    assert lines[6]["Gradient/reward_over_consistency"]["mean"] == pytest.approx(ratio)
    assert caplog.text.count("Gradient/reward_over_consistency") == 2
    kept = [{k: v for k, v in line.items() if not k.startswith("Gradient/")} for line in lines]
    assert kept == lines_of(plain)
    one, other = state_of(plain), state_of(run)
    assert one[1] == other[1] and all(torch.equal(value, other[0][key]) for key, value in one[0].items())


def test_the_papers_weights_are_the_default(finetune_config: Make) -> None:
    weights = Weights(finetune_config())
    assert (weights.of("reward"), weights.of("consistency"), weights.kept()) == (10.0, 0.01, {})


def test_what_a_state_cannot_hold() -> None:
    with pytest.raises(ValueError, match="has norms of luck"):
        GradientShares(WeightingConfig()).restore({"sums": {"luck": [1.0, 1.0]}})
    with pytest.raises(ValueError, match="there is nothing to hold"):
        DriftBound(DriftConfig(), 0.01)


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"weighting": WeightingConfig(mode="share")}, ["weighting.mode: 'share' is not one of fixed, gradient_share"]),
        ({"weighting": WeightingConfig(shares={"reward": 1.0})}, ["weighting.shares: has reward; give each of"]),
        ({"weighting": WeightingConfig(shares=SHARES | {"reward": 0.0})}, ["weighting.shares: must be above 0"]),
        ({"weighting": WeightingConfig(limit=0.5, half_life=0)}, ["weighting.half_life: 0", "weighting.limit: 0.5"]),
        ({"drift": DriftConfig(bound=-1.0)}, ["drift.bound: -1.0 is not positive; give null for none"]),
        ({"drift": DriftConfig(lowest=2.0, highest=1.0)}, ["drift.highest: 1.0 is below lowest 2.0"]),
        ({"gradient_norms": GradientNormsConfig(every_ticks=-1)}, ["gradient_norms.every_ticks: -1 is below 0"]),
        (
            {"drift": DriftConfig(bound=1.0), "consistency": ConsistencyConfig(weight=0)},
            ["drift.bound: bounds what the consistency term measures, whose weight is 0"],
        ),
        (
            {"drift": DriftConfig(bound=1.0), "weighting": WeightingConfig(mode="gradient_share")},
            ["drift.bound: weighting.mode=gradient_share sets the same weight"],
        ),
    ],
)
def test_faults_are_named(finetune_config: Make, changes: dict[str, Any], faults: list[str]) -> None:
    found = faults_of(finetune_config(**changes, reward_term=RewardTermConfig(micro_batch=2)))
    assert len(found) == len(faults)
    assert all(any(one.startswith(fault) for one in found) for fault in faults), found
