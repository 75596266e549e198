"""Reward and density consistency as loss terms. Source: Sculpting NeRF Geometry (2026), method; code facts as noted.

Letters: N batch, X Y Z the slab, D the consistency grid.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from eg3d.finetuning.config import ConsistencyConfig, FinetuneConfig, RewardTermConfig
from eg3d.generator import TriPlaneGenerator
from eg3d.representations.sigma_field import SigmaFieldConfig, sigma_field, sigma_grid
from eg3d.training.phases import Draw, Phase, Term
from eg3d.training.stats import Stats

LOSS_OFFSET = 1e-6  # published: added to the clipped reward loss, without effect on gradients


class Reward(Protocol):
    """A frozen reward model: raw density [N, X, Y, Z] of its `slab` to scores [N], differentiable in the density."""

    slab: SigmaFieldConfig

    def __call__(self, slab: Tensor) -> Tensor: ...


class GeometryObjective:
    """The two terms of one run; the reward and the frozen generator get no gradients to their weights."""

    def __init__(
        self,
        cfg: FinetuneConfig,
        generator: TriPlaneGenerator,
        frozen: TriPlaneGenerator,
        reward: Reward,
        stats: Stats,
    ) -> None:
        self.cfg, self.generator, self.frozen = cfg, generator, frozen
        self.reward_model, self.stats = reward, stats

    def reward(self, draw: Draw) -> Tensor:
        """-lambda_r * clip(mean score of the micro-batch) + 1e-6."""
        term = self.cfg.reward_term
        planes = reward_planes(self.generator, draw.z, term)
        scores = self.reward_model(sigma_field(self.generator, planes, self.reward_model.slab))
        self.stats.report("Reward/score", scores.mean())
        return term.weight * clipped_reward_loss(scores, term)

    def consistency(self, draw: Draw) -> Tensor:
        """lambda_c * L1 of raw density against the frozen generator."""
        difference = density_difference(self.generator, self.frozen, draw.z, self.cfg.consistency)
        self.stats.report("Reward/consistency", difference)
        return self.cfg.consistency.weight * difference

    def terms(self) -> list[Term]:
        """The terms whose weight is not 0, in the order of the log."""
        size, terms = self.cfg.reward_term.micro_batch, []
        if self.cfg.reward_term.weight > 0:
            terms.append(Term("reward", self.reward, size))
        if self.cfg.consistency.weight > 0:
            terms.append(Term("consistency", self.consistency, size))
        return terms


def clipped_reward_loss(scores: Tensor, term: RewardTermConfig) -> Tensor:
    """-clip(mean score) + 1e-6 for scores [N]; the gradient is 0 outside the clip."""
    return -scores.mean().clamp(term.clip_low, term.clip_high) + LOSS_OFFSET


def reward_planes(generator: TriPlaneGenerator, z: Tensor, term: RewardTermConfig) -> Tensor:
    """Tri-planes [N, 3, C, H, W] for the reward: canonical camera, constant noise, the term's truncation."""
    c = generator.cfg.camera.label().to(z).expand(len(z), -1) * term.camera_factor
    ws = generator.mapping(
        z,
        c,
        truncation_psi=term.psi,
        truncation_cutoff=term.truncation_cutoff,
        update_emas=term.update_w_average and generator.training,
    )
    return generator.planes(ws, noise_mode="const")


def density_difference(
    generator: TriPlaneGenerator, frozen: TriPlaneGenerator, z: Tensor, cfg: ConsistencyConfig
) -> Tensor:
    """Mean |sigma_G - sigma_G0| of raw density over a D^3 grid of the box; gradients flow to `generator` only."""
    made = _consistency_grid(generator, z, cfg)
    with torch.no_grad():
        wanted = _consistency_grid(frozen, z, cfg)
    return (made - wanted).abs().mean()


def add_geometry_terms(phases: list[Phase], objective: GeometryObjective, cfg: FinetuneConfig) -> None:
    """Put the terms where `cfg.mode` says: into the generator's main step, or into a phase of their own at the end."""
    terms = objective.terms()
    if not terms:
        return
    if cfg.mode == "joint":
        main = next(phase for phase in phases if phase.name == "Gmain")
        main.terms += terms
        return
    optimizer = torch.optim.Adam(objective.generator.parameters(), lr=cfg.reward_lr, betas=(0.0, 0.99), eps=1e-8)
    phases.append(Phase("Ggeometry", objective.generator, optimizer, terms))


def _consistency_grid(generator: TriPlaneGenerator, z: Tensor, cfg: ConsistencyConfig) -> Tensor:
    c = generator.cfg.camera.label().to(z).expand(len(z), -1)
    ws = generator.mapping(z, c, truncation_psi=cfg.psi, truncation_cutoff=cfg.truncation_cutoff)
    return sigma_grid(generator, generator.planes(ws, noise_mode="const"), cfg.resolution, grid=cfg.grid)
