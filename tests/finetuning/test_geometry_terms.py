"""Reward and consistency: what they compute, whom their gradients reach, in whose step they go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import toy_draw
from torch import Tensor, nn
from toy_reward import ToyReward

from eg3d.checkpoints.store import load_generator
from eg3d.data import batches
from eg3d.finetuning.config import ConsistencyConfig, FinetuneConfig, RewardTermConfig, TrackingConfig
from eg3d.finetuning.objective import (
    LOSS_OFFSET,
    GeometryObjective,
    add_geometry_terms,
    clipped_reward_loss,
    density_difference,
    reward_scores,
)
from eg3d.finetuning.rewards import score_seeds, scores_of
from eg3d.finetuning.tracking import Trajectories
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.representations.sigma_field import SigmaField
from eg3d.samples import Sample, SampleConfig, sample_latents, sample_seeds
from eg3d.seeds import latents
from eg3d.training.config import OptimConfig
from eg3d.training.loop import Trainer
from eg3d.training.phases import Draw, Phase, optimizers_of

Make = Callable[..., FinetuneConfig]


class Setup:
    """A trainer with the geometry terms in place, as finetune() makes it."""

    def __init__(self, cfg: FinetuneConfig, reward: ToyReward | None = None) -> None:
        self.trainer, self.reward = Trainer(cfg), reward or ToyReward()
        self.frozen = load_generator(str(cfg.start)).eval().requires_grad_(False)
        self.objective = GeometryObjective(
            cfg, self.generator, self.frozen, self.reward, self.trainer.stats, self.trainer.counters
        )
        add_geometry_terms(self.trainer.phases, self.objective, cfg, self.trainer.objective.style_average)
        self.stream = batches(self.trainer.dataset, cfg.batch, seed=0, workers=1)

    @property
    def generator(self) -> TriPlaneGenerator:
        return self.trainer.generator

    def phase(self, name: str) -> Phase:
        return next(phase for phase in self.trainer.phases if phase.name == name)

    def draw(self, seed: int = 0) -> Draw:
        return toy_draw(self.trainer, seed)


STILL = OptimConfig(generator_lr=0.0, discriminator_lr=0.0)


def _weights(network: nn.Module) -> list[Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def _gradients(network: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]


def test_the_clip_cuts_the_value_and_the_gradient() -> None:
    term = RewardTermConfig(clip_low=-10, clip_high=10)
    for mean, wanted, slope in ((3.0, -3.0, -0.5), (10.5, -10.0, 0.0), (-11.0, 10.0, 0.0)):
        scores = torch.tensor([mean - 1, mean + 1], requires_grad=True)
        loss = clipped_reward_loss(scores, term)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(wanted + LOSS_OFFSET)
        assert scores.grad is not None
        assert scores.grad.tolist() == [slope, slope]


def test_outside_the_clip_the_reward_moves_nothing(finetune_config: Make) -> None:
    term = RewardTermConfig(micro_batch=2, allow_saturated=True)
    setup = Setup(finetune_config(consistency=ConsistencyConfig(weight=0), reward_term=term), ToyReward(scale=1e6))
    before = list(map(torch.clone, setup.generator.parameters()))
    setup.phase("Ggeometry").step(setup.draw(), micro_batch=4, num_images=0)
    assert setup.phase("Ggeometry").norms == {"reward": 0.0}
    assert all(torch.equal(a, b) for a, b in zip(before, setup.generator.parameters(), strict=True))


def test_separate_mode_has_its_own_adam_at_the_end(finetune_config: Make) -> None:
    setup = Setup(finetune_config(reward_lr=0.0031))
    names = [phase.name for phase in setup.trainer.phases]
    assert names == ["Gmain", "Greg", "Dmain", "Dreg", "Ggeometry"]
    phase = setup.phase("Ggeometry")
    assert [term.name for term in phase.terms] == ["reward", "consistency"]
    assert phase.optimizer is not setup.phase("Gmain").optimizer
    group = phase.optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.0031, (0.0, 0.99), 1e-8)
    assert phase.interval == 1
    assert set(optimizers_of(setup.trainer.phases)) == {"Gmain", "Dmain", "Ggeometry"}


def test_joint_mode_is_one_step_along_the_summed_gradient(finetune_config: Make) -> None:
    # With update_w_average the reward would move the truncation centre that the consistency after it uses.
    setup = Setup(finetune_config(mode="joint", reward_term=RewardTermConfig(update_w_average=False, micro_batch=2)))
    assert [phase.name for phase in setup.trainer.phases] == ["Gmain", "Greg", "Dmain", "Dreg"]
    main = setup.phase("Gmain")
    assert [term.name for term in main.terms] == ["adversarial", "reward", "consistency"]
    start, terms = _weights(setup.generator), main.terms
    with torch.no_grad():  # away from the frozen generator, where the consistency has a gradient
        for value in setup.frozen.parameters():
            value.mul_(1.01)

    def gradient_of(*names: str) -> list[Tensor]:
        """The gradients that the phase's one optimiser step sees, from the same weights and random state."""
        for value, old in zip(setup.generator.state_dict().values(), start, strict=True):
            value.copy_(old)
        main.terms = [term for term in terms if term.name in names]
        main.optimizer, seen = torch.optim.SGD(setup.generator.parameters(), lr=1.0), []
        main.optimizer.register_step_pre_hook(lambda *_: seen.append(_gradients(setup.generator)))
        main.step(setup.draw(), micro_batch=4, num_images=0)
        assert len(seen) == 1
        return seen[0]

    parts = [gradient_of(name) for name in ("adversarial", "reward", "consistency")]
    assert all(max(float(gradient.abs().max()) for gradient in part) > 0 for part in parts)
    for *summands, total in zip(*parts, gradient_of("adversarial", "reward", "consistency"), strict=True):
        assert torch.allclose(torch.stack(summands).sum(0), total, rtol=1e-5, atol=1e-7)


def test_the_control_keeps_the_consistency(finetune_config: Make) -> None:
    setup = Setup(finetune_config(reward_term=RewardTermConfig(weight=0, micro_batch=2)))
    assert [term.name for term in setup.phase("Ggeometry").terms] == ["reward_samples", "consistency"]
    setup.trainer.step(next(setup.stream))
    setup.trainer.step(next(setup.stream))
    collected = setup.trainer.stats.collect()
    assert collected["GradNorm/Ggeometry/consistency"]["mean"] > 0
    assert "GradNorm/Ggeometry/reward" not in collected


def test_without_weights_there_is_no_term(finetune_config: Make) -> None:
    off = {"reward_term": RewardTermConfig(weight=0), "consistency": ConsistencyConfig(weight=0)}
    for mode in ("joint", "separate"):
        trainer = Setup(finetune_config(mode=mode, **off)).trainer
        assert [phase.name for phase in trainer.phases] == ["Gmain", "Greg", "Dmain", "Dreg"]
        assert [term.name for term in trainer.phases[0].terms] == ["adversarial"]


@pytest.mark.parametrize("mode", ["joint", "separate"])
def test_reward_and_frozen_generator_do_not_change(finetune_config: Make, mode: str) -> None:
    setup = Setup(finetune_config(mode=mode))
    setup.reward.eval().requires_grad_(False)
    fixed = (setup.frozen, setup.reward)
    before = [_weights(network) for network in fixed]
    for _ in range(2):
        setup.trainer.step(next(setup.stream))
    for network, old in zip(fixed, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(_weights(network), old, strict=True))
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_the_terms_leave_super_resolution_alone(finetune_config: Make) -> None:
    setup = Setup(finetune_config())
    setup.generator.requires_grad_(True)
    loss = setup.objective.reward(setup.draw()) + setup.objective.consistency(setup.draw())
    loss.backward()
    reached = {name.split(".")[0] for name, p in setup.generator.named_parameters() if p.grad is not None}
    assert reached == {"backbone", "decoder"}


def test_the_reward_rises(finetune_config: Make) -> None:
    setup = Setup(finetune_config(reward_lr=0.01))
    seeds = list(range(8))
    before = score_seeds(setup.generator, setup.reward, seeds, SampleConfig())
    for k in range(6):
        setup.phase("Ggeometry").step(setup.draw(k), micro_batch=4, num_images=0)
    after = score_seeds(setup.generator, setup.reward, seeds, SampleConfig())
    assert (after > before).all()


def test_the_consistency_starts_at_zero_and_pulls_back(finetune_config: Make) -> None:
    consistency = ConsistencyConfig(weight=1.0, resolution=6, grid="exact")
    cfg = finetune_config(reward_term=RewardTermConfig(weight=0, micro_batch=4), consistency=consistency)
    setup = Setup(cfg)
    z = setup.draw().z
    assert float(density_difference(setup.generator, setup.frozen, z, cfg.consistency)) == 0
    with torch.no_grad():
        setup.generator.decoder.net[2].bias[0] += 1.0
    assert float(density_difference(setup.generator, setup.frozen, z, cfg.consistency)) == pytest.approx(1.0, abs=1e-5)
    for _ in range(5):
        setup.phase("Ggeometry").step(setup.draw(), micro_batch=4, num_images=0)
    assert float(density_difference(setup.generator, setup.frozen, z, cfg.consistency)) < 0.995


def test_the_reward_sampling_moves_the_mean_latent_only_when_told(finetune_config: Make) -> None:
    for moves in (True, False):
        term = RewardTermConfig(update_w_average=moves, micro_batch=2)
        setup = Setup(finetune_config(reward_term=term))
        mean = setup.generator.backbone.mapping.w_avg
        before = mean.clone()
        setup.objective.consistency(setup.draw())
        assert torch.equal(mean, before)
        setup.objective.reward(setup.draw())
        assert torch.equal(mean, before) is not moves
        frozen_mean = setup.frozen.backbone.mapping.w_avg
        reward_scores(setup.frozen, setup.reward, setup.draw().z, term)
        assert torch.equal(frozen_mean, before)  # an evaluated generator keeps its own


def test_the_camera_factor_scales_the_condition(finetune_config: Make) -> None:
    generator = Setup(finetune_config()).generator.eval()
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    label = generator.camera.canonical()
    for factor in (1.0, 0.0):
        ws = generator.mapping(z, factor * label.expand(2, -1), truncation_psi=0.6, truncation_cutoff=3)
        wanted = scores_of(ToyReward(), generator, Sample(ws, generator.field(ws)))
        term = RewardTermConfig(camera_factor=factor, psi=0.6, truncation_cutoff=3)
        assert torch.equal(reward_scores(generator, ToyReward(), z, term), wanted)


def test_scores_of_seeds_do_not_depend_on_the_batch(finetune_config: Make) -> None:
    setup = Setup(finetune_config())
    generator = setup.generator.eval()
    together = score_seeds(generator, setup.reward, [4, 5, 6], SampleConfig(psi=0.7), batch=3)
    singly = score_seeds(generator, setup.reward, [4, 5, 6], SampleConfig(psi=0.7), batch=1)
    assert torch.allclose(together, singly, atol=1e-5)
    alone = reward_scores(generator, setup.reward, latents([5], 8), RewardTermConfig(psi=0.7))
    assert float(alone.detach()) == pytest.approx(float(singly[1]), abs=1e-5)


@pytest.mark.parametrize("focal", [1.7, 4.2647])
@pytest.mark.parametrize("is_conditioned", [True, False])
@pytest.mark.parametrize("learnt", ["generator", "published", None])
def test_ranked_tuned_tracked_and_scored_samples_are_one(
    finetune_config: Make, focal: float, is_conditioned: bool, learnt: str | None
) -> None:
    """Whatever the focal length, and whatever camera the reward was learnt with, a seed names one shape."""
    generator = Setup(finetune_config()).generator.eval()
    camera = dataclasses.replace(generator.cfg.camera, focal=focal)
    generator.cfg = dataclasses.replace(generator.cfg, camera=camera, condition_on_camera=is_conditioned)
    reward = ToyReward()
    if learnt is not None:
        reward.sample = SampleConfig(conditioning=learnt)  # type: ignore[assignment]
    shown = SampleConfig(conditioning=learnt or "auto")  # what rankings and slabs were made with
    ranked = reward(SigmaField(resolution=8, grid="exact").extract(generator, sample_seeds(generator, [7], shown)))
    tracked = score_seeds(generator, reward, [7], TrackingConfig())
    scored = score_seeds(generator, reward, [7], SampleConfig(), batch=1)
    tuned = reward_scores(generator, reward, latents([7], 8), RewardTermConfig())
    assert torch.equal(ranked, tuned) and torch.equal(tracked, scored) and torch.equal(tracked, tuned.detach())


def test_the_two_cameras_give_two_shapes(finetune_config: Make) -> None:
    """The test above could not fail if the camera did not matter."""
    generator = Setup(finetune_config()).generator.eval()
    generator.cfg = dataclasses.replace(generator.cfg, camera=dataclasses.replace(generator.cfg.camera, focal=1.7))
    z = latents([7], 8)
    made = [sample_latents(generator, z, SampleConfig(conditioning=name)).ws for name in ("generator", "published")]
    assert not torch.equal(made[0], made[1])


def test_trajectories_replace_the_rows_of_a_repeated_tick(finetune_config: Make) -> None:
    setup = Setup(finetune_config())
    folder = setup.trainer.folder
    folder.mkdir(parents=True)
    tracking = setup.trainer.cfg.tracking  # type: ignore[attr-defined]
    trajectories = Trajectories(folder / "trajectories.csv", tracking, {"score": setup.reward})
    whole = []
    for ticks in ((0, 1, 2), (0, 1, 2, 1, 2), (0, 0, 1, 2)):
        for tick in ticks:
            trajectories.record(setup.generator, tick=tick, num_images=4 * tick)
        whole.append(trajectories.path.read_text(encoding="utf-8"))
    assert whole[0] == whole[1] == whole[2]
    assert whole[0].splitlines()[0] == "tick,num_images,seed,score"
    assert len(whole[0].splitlines()) == 1 + 3 * 3


def test_faults_of_the_terms() -> None:
    assert RewardTermConfig(weight=-1, clip_low=1, clip_high=1).validate() == [
        "weight: -1 is negative; a reward is maximised with a positive weight",
        "clip_low: 1 is not below clip_high 1",
    ]
    assert ConsistencyConfig(grid="skew").validate() == [
        "grid: 'skew' is not one of exact, skewed; did you mean 'skewed'?"
    ]


def test_a_config_of_a_run_names_all_its_faults(finetune_config: Make) -> None:
    cfg = finetune_config(mode="jointly", start=None, reward_term=RewardTermConfig(micro_batch=3))
    faults = cfg.validate()
    assert [fault.split(":")[0] for fault in faults] == ["mode", "start", "reward_term.micro_batch"]
    good = dataclasses.replace(cfg, mode="joint", start="x", reward_term=RewardTermConfig(micro_batch=8))
    assert good.validate() == []


def _moves(setup: Setup) -> list[Tensor]:
    """The mean codes that the centre moved towards in one step of the run, in order."""
    seen, mapping = [], setup.generator.backbone.mapping
    original = mapping.move_average
    mapping.move_average = lambda mean: (seen.append(mean.clone()), original(mean))  # type: ignore[method-assign]
    setup.trainer.step(next(setup.stream))
    return seen


@pytest.mark.parametrize("mode", ["separate", "joint"])
@pytest.mark.parametrize(("moves", "tuned", "alone"), [("once", 1 + 4, 1), ("published", 4 + 12, 4)])
def test_a_control_moves_the_centre_as_the_tuned_run_does(
    finetune_config: Make, mode: str, moves: str, tuned: int, alone: int
) -> None:
    """At the first step, which begins with the same weights, towards the very same codes."""

    def seen(**term: Any) -> list[Tensor]:
        reward_term = RewardTermConfig(micro_batch=1, average_moves=moves, **term)
        cfg = finetune_config(reward_term=reward_term, micro_batch=1, mode=mode, reward_lr=0.0, optim=STILL)
        setup = Setup(cfg)
        setup.trainer.objective.style_average.is_per_pass = moves == "published"
        return _moves(setup)

    wanted, control = seen(), seen(weight=0)
    assert len(wanted) == tuned
    assert len(control) == tuned
    assert all(torch.equal(one, other) for one, other in zip(wanted, control, strict=True))
    assert len(seen(weight=0, moves_average_without_weight=False)) == alone
    assert len(seen(update_w_average=False)) == len(seen(weight=0, update_w_average=False)) == alone


@pytest.mark.parametrize("mode", ["separate", "joint"])
def test_without_both_weights_the_centre_moves_only_when_told(finetune_config: Make, mode: str) -> None:
    for told, names in ((None, []), (False, []), (True, ["reward_samples"])):
        term = RewardTermConfig(weight=0, micro_batch=1, moves_average_without_weight=told)
        setup = Setup(finetune_config(mode=mode, reward_term=term, consistency=ConsistencyConfig(weight=0)))
        assert [term.name for phase in setup.trainer.phases for term in phase.terms if "reward" in term.name] == names
        assert len(_moves(setup)) == (5 if names else 1)
