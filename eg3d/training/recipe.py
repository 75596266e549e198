"""Which phases a run has: the published four, before them the warm start where the config has one."""

from __future__ import annotations

import torch

from eg3d.training import schedules
from eg3d.training.config import TrainConfig
from eg3d.training.objective import AdversarialObjective
from eg3d.training.phases import Phase, Term
from eg3d.training.warm_start import ReconstructionObjective, warm_start_phases


def adversarial_phases(objective: AdversarialObjective) -> list[Phase]:
    """Gmain, Greg, Dmain, Dreg in their published order, before them the warm start where the config has one."""
    cfg, loss, warm = objective.cfg, objective.loss, objective.cfg.warm_start
    generator, discriminator = objective.generator, objective.discriminator
    has_density = loss.density_reg > 0 and loss.density_reg_interval > 0
    has_r1 = loss.r1_gamma > 0 and loss.r1_interval > 0
    g_opt = adam(cfg, generator, cfg.optim.generator_lr, loss.density_reg_interval if has_density else None)
    d_opt = adam(cfg, discriminator, cfg.optim.discriminator_lr, loss.r1_interval if has_r1 else None)
    d_start = 1000 * warm.reconstruction_kimg
    g_start = d_start + 1000 * warm.discriminator_kimg
    known = ReconstructionObjective(warm, generator, objective.stats, objective.style_average)
    phases = warm_start_phases(known)
    phases.append(Phase("Gmain", generator, g_opt, [Term("adversarial", objective.generator_main)], 1, g_start))
    if has_density:
        phases.append(Phase("Greg", generator, g_opt, objective.density_terms(), loss.density_reg_interval, g_start))
    d_terms = [Term("fake", objective.discriminator_fake), Term("real", objective.discriminator_real)]
    phases.append(Phase("Dmain", discriminator, d_opt, d_terms, 1, d_start, average=objective.style_average))
    if has_r1:
        phases.append(Phase("Dreg", discriminator, d_opt, [Term("r1", objective.r1)], loss.r1_interval, d_start))
    return phases


def adam(cfg: TrainConfig, network: torch.nn.Module, lr: float, lazy_interval: int | None) -> torch.optim.Adam:
    """Adam with the lazy-regularisation scaling of rate and betas."""
    ratio, optim = schedules.lazy_ratio(lazy_interval), cfg.optim
    betas = (float(optim.beta1) ** ratio if optim.beta1 else 0.0, optim.beta2**ratio)
    return torch.optim.Adam(network.parameters(), lr=lr * ratio, betas=betas, eps=optim.eps)
