"""Reward and density consistency as loss terms. Source: Sculpting NeRF Geometry (2026), "Fine-tuning EG3D geometry".

    L_G = 1/2 L_adv + lambda_r L_r + lambda_c L_c   (mode "joint"; the adversarial term here has no 1/2, as in the code)
    L_r = -clip(r, low, high) + 1e-6                r the mean score of a micro-batch, clip to [-10, 10]
    L_c = E_z mean_x |sigma_raw_G(x) - sigma_raw_G0(x)|     x the points of a 64^3 grid, G0 the frozen start

lambda_r and lambda_c are fixed in the paper; weighting.py has what else can decide about them.
In mode "separate", the reported run, lambda_r L_r + lambda_c L_c has an Adam and a step of its own, so that only the
ratio lambda_r : lambda_c and the learning rate count. The offset 1e-6 is the released code's and has no gradient.
Letters: N batch, D the consistency grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from eg3d.finetuning.config import ConsistencyConfig, FinetuneConfig, RewardTermConfig
from eg3d.finetuning.rewards import Reward, name_of, sampled_for, scores_of
from eg3d.finetuning.score_watch import ScoreWatch
from eg3d.finetuning.weighting import Norms, Weights, norm_reporter
from eg3d.generators.protocol import Generator
from eg3d.ops.density_grid.grid import GridSpec
from eg3d.samples import SampleConfig, sample_latents, style_codes
from eg3d.training.counters import Counters
from eg3d.training.phases import Draw, Phase, Term
from eg3d.training.stats import Stats
from eg3d.training.style_average import StyleAverage

LOSS_OFFSET = 1e-6
PUBLISHED_MOVES = 3  # the released code maps a sample's latent once for each of the three chunks of its points


class GeometryObjective:
    """The two terms of one run; the reward and the frozen generator get no gradients to their weights."""

    def __init__(
        self,
        cfg: FinetuneConfig,
        generator: Generator,
        frozen: Generator,
        reward: Reward,
        stats: Stats,
        counters: Counters,
        weights: Weights | None = None,
    ) -> None:
        self.cfg, self.generator, self.frozen = cfg, generator, frozen
        self.reward_model, self.stats, self.counters = reward, stats, counters
        self.weights = weights or Weights(cfg)
        self.watch = ScoreWatch(cfg.reward_term, name_of(reward), counters)

    def reward(self, draw: Draw) -> Tensor:
        """lambda_r L_r of a micro-batch, a scalar."""
        term = self.cfg.reward_term
        scores = reward_scores(self.generator, self.reward_model, draw.z, term)
        self.watch.add(scores)
        self.stats.report("Reward/score", scores.mean())
        return self.weights.of("reward") * clipped_reward_loss(scores, term)

    def reward_samples(self, draw: Draw) -> None:
        """The style codes of a micro-batch as the reward would be given them, for the truncation centre alone."""
        term = self.cfg.reward_term
        move_average(self.generator, draw.z, sampled_for(self.reward_model, term), times=moves_of(term))

    def consistency(self, draw: Draw) -> Tensor:
        """lambda_c L_c, a scalar: L1 of raw density against the frozen generator."""
        difference = density_difference(self.generator, self.frozen, draw.z, self.cfg.consistency)
        self.stats.report("Reward/consistency", difference)
        if self.weights.drift is not None:
            self.weights.drift.add(difference)
        return self.weights.of("consistency") * difference

    def terms(self) -> list[Term]:
        """The terms whose weight is not 0, in the order of the log; a control's first one only moves the centre."""
        size, terms = self.cfg.reward_term.micro_batch, []
        if self.cfg.reward_term.weight > 0:
            terms.append(Term("reward", self.reward, size, self.watch))
        elif moves_without_weight(self.cfg):
            terms.append(Term("reward_samples", self.reward_samples, size))
        if self.cfg.consistency.weight > 0:
            terms.append(Term("consistency", self.consistency, size, self.weights.drift))
        return terms

    def after_step(self) -> list[Callable[[Norms], None]]:
        """What the phase of the terms calls after its step."""
        mover = self.weights.mover(self.stats)
        return [] if mover is None else [mover]


def clipped_reward_loss(scores: Tensor, term: RewardTermConfig) -> Tensor:
    """L_r = -clip(mean score) + 1e-6 of scores [N], a scalar; the gradient is 0 outside the clip."""
    return -scores.mean().clamp(term.clip_low, term.clip_high) + LOSS_OFFSET


def moves_without_weight(cfg: FinetuneConfig) -> bool:
    """Whether a run without a reward's weight moves the truncation centre as one with it does."""
    told = cfg.reward_term.moves_average_without_weight
    return cfg.reward_term.update_w_average and (cfg.consistency.weight > 0 if told is None else told)


def reward_scores(generator: Generator, reward: Reward, z: Tensor, term: RewardTermConfig) -> Tensor:
    """Scores [N] of latents z [N, z_dim]: canonical camera, constant noise, truncated as the term says.

    Differentiable in the generator. In training, reward sampling moves the centre of truncation if the term says so.
    """
    sampling, moves = sampled_for(reward, term), term.update_w_average and generator.training
    if moves:
        move_average(generator, z, sampling, times=moves_of(term) - 1)  # the sample below moves it once more
    return scores_of(reward, generator, sample_latents(generator, z, sampling, update_emas=moves))


def moves_of(term: RewardTermConfig) -> int:
    """How often a pass of the reward moves the centre of truncation."""
    return PUBLISHED_MOVES if term.average_moves == "published" else 1


@torch.no_grad()
def move_average(generator: Generator, z: Tensor, sampling: SampleConfig, *, times: int) -> None:
    """Move the centre of truncation by the samples of latents z [N, z_dim]."""
    for _ in range(times):
        style_codes(generator, z, sampling, update_emas=True)


def density_difference(generator: Generator, frozen: Generator, z: Tensor, cfg: ConsistencyConfig) -> Tensor:
    """L_c: mean |sigma_raw_G - sigma_raw_G0| over a D^3 grid of the box, a scalar, for latents z [N, z_dim].

    Gradients flow to `generator` only.
    """
    made = _consistency_grid(generator, z, cfg)
    with torch.no_grad():
        wanted = _consistency_grid(frozen, z, cfg)
    return (made - wanted).abs().mean()


def add_geometry_terms(
    phases: list[Phase], objective: GeometryObjective, cfg: FinetuneConfig, average: StyleAverage
) -> None:
    """Put the terms where `cfg.mode` says: into the generator's main step, or into a phase of their own at the end.

    average: the run's mean style code, which the samples of the reward move.
    """
    _place_terms(phases, objective, cfg, average)
    if cfg.gradient_norms.every_ticks > 0:
        report = norm_reporter(cfg.gradient_norms, objective.stats, objective.counters)
        for phase in (phase for phase in phases if phase.name in ("Gmain", "Ggeometry")):
            phase.after.append(report)


def _place_terms(phases: list[Phase], objective: GeometryObjective, cfg: FinetuneConfig, average: StyleAverage) -> None:
    terms = objective.terms()
    if not terms:
        return
    if cfg.mode == "joint":
        main = next(phase for phase in phases if phase.name == "Gmain")
        main.terms += terms
        main.average = average
        main.after += objective.after_step()
        return
    optimizer = torch.optim.Adam(objective.generator.parameters(), lr=cfg.reward_lr, betas=(0.0, 0.99), eps=1e-8)
    network = cast(nn.Module, objective.generator)
    phases.append(Phase("Ggeometry", network, optimizer, terms, average=average, after=objective.after_step()))


def _consistency_grid(generator: Generator, z: Tensor, cfg: ConsistencyConfig) -> Tensor:
    """Raw density [N, D, D, D] of latents z [N, z_dim]."""
    return sample_latents(generator, z, cfg).field.density_grid(GridSpec(cfg.resolution, cfg.grid))
