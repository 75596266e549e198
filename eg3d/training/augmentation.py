"""Augmentation inside the training step: what the discriminator gets, and how the strength adapts."""

from __future__ import annotations

import torch
from torch import Tensor

from eg3d.cameras import transformed_labels
from eg3d.networks.augment import AugmentPipe
from eg3d.networks.discriminator import resize_raw
from eg3d.random_streams import Rng
from eg3d.training.config import AugmentationConfig
from eg3d.training.counters import Counters
from eg3d.training.ranks import Ranks


def augment_pipe(cfg: AugmentationConfig, device: torch.device) -> AugmentPipe | None:
    """The pipe of a run at its start; None where the config has no augmentation."""
    if cfg.mode == "none":
        return None
    return AugmentPipe(cfg.pipe, cfg.p if cfg.mode == "fixed" else 0.0).to(device)


def adapt(pipe: AugmentPipe, cfg: AugmentationConfig, counters: Counters, ranks: Ranks, *, batch: int) -> None:
    """Every `cfg.interval` iterations of mode ada, move the pipe's probability by the signs counted since then."""
    if cfg.mode != "ada" or counters.iteration % cfg.interval:
        return
    total, count = summed_signs(counters, ranks)
    counters.forget_signs()
    if count > 0:
        num_images = batch * cfg.interval
        p = adapted_p(float(pipe.p), total / count, target=cfg.target, num_images=num_images, kimg=cfg.kimg)
        pipe.p.fill_(p)


def summed_signs(counters: Counters, ranks: Ranks) -> tuple[float, float]:
    """Sum and number of the signs that the discriminator gave to real images, over all processes."""
    total, count = ranks.sum(torch.tensor([counters.real_signs, counters.real_count], device=ranks.device)).tolist()
    return total, count


def augmented(pipe: AugmentPipe, images: dict[str, Tensor], c: Tensor, rng: Rng) -> tuple[dict[str, Tensor], Tensor]:
    """Final and raw images of a batch under the same transforms, and the cameras [N, 25] that see them so.

    The published code leaves the cameras as they were, and so contradicts the pictures that it shows. Raw images are
    enlarged, transformed and shrunk again, as published. With p = 0 everything is returned as it is.
    """
    if float(pipe.p) == 0:
        return images, c
    parts, size = [images["image"]], images["image"].shape[-1]
    if "image_raw" in images:
        parts.append(resize_raw(images["image_raw"], size))
    changed, maps = pipe(torch.cat(parts, dim=1), rng)
    is_still = (maps == torch.eye(3).to(maps)).flatten(1).all(1, keepdim=True)
    c = torch.where(is_still, c, transformed_labels(c, maps))
    found = dict(zip(("image", "image_raw"), changed.split(3, dim=1)))
    if "image_raw" in images:
        found["image_raw"] = resize_raw(found["image_raw"], images["image_raw"].shape[-1])
    return found, c


def adapted_p(p: float, mean_sign: float, *, target: float, num_images: int, kimg: float) -> float:
    """The next probability: up when the discriminator is right about more real images than `target` allows, else down.

    mean_sign is the mean sign of its logits of real images, num_images how many were shown since the last change; kimg
    is how long it takes from 0 to 1. Source: ADA (2020), section 3 (its r_t heuristic), kept within 0 and 1.
    """
    direction = (mean_sign > target) - (mean_sign < target)
    return min(max(p + direction * num_images / (1000 * kimg), 0.0), 1.0)
