"""The running average of the generator's weights, G_ema: what samples, metrics and fine-tuning take. Source: EG3D."""

from __future__ import annotations

import torch

from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.training import schedules
from eg3d.training.config import TrainConfig


@torch.no_grad()
def update_average(
    average: TriPlaneGenerator, generator: TriPlaneGenerator, cfg: TrainConfig, *, num_images: int
) -> None:
    """average <- beta * average + (1 - beta) * generator for parameters; buffers are copied, as published.

    num_images are those shown before this step; the half-life is `cfg.ema_kimg`, batch * 10 / 32 where that is None.
    """
    half_life = cfg.batch * 10 / 32 if cfg.ema_kimg is None else cfg.ema_kimg
    beta = schedules.ema_beta(num_images, batch=cfg.batch, ema_kimg=half_life, rampup=cfg.ema_rampup)
    for mean, value in zip(average.parameters(), generator.parameters(), strict=True):
        mean.copy_(value.lerp(mean, beta))
    for kept, buffer in zip(average.buffers(), generator.buffers(), strict=True):
        kept.copy_(buffer)
