"""Toy configs: networks of a few thousand weights and runs of a second."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eg3d.data import batches
from eg3d.generators.eg3d import GeneratorConfig
from eg3d.generators.protocol import Rendered
from eg3d.networks.discriminator import DiscriminatorConfig
from eg3d.rendering.renderer import RenderingConfig
from eg3d.training.config import AdversarialLossConfig, TrainConfig
from eg3d.training.loop import Trainer
from eg3d.training.phases import Draw, draw_samples

NUM_IMAGES, NUM_CODES, SIDE = 12, 5, 16


def tiny_generator_config() -> GeneratorConfig:
    return GeneratorConfig(
        z_dim=8,
        w_dim=8,
        plane_resolution=8,
        plane_channels=2,
        channel_base=64,
        channel_max=8,
        decoder_hidden=4,
        feature_channels=4,
        img_resolution=SIDE,
        neural_rendering_resolution=8,
        superresolution="2X",
        sr_channels=[4, 4],
        sr_input_resolution=8,
        sr_num_fp16_res=0,
        rendering=RenderingConfig(depth_resolution=4, depth_resolution_importance=2),
    )


def tiny_discriminator_config() -> DiscriminatorConfig:
    return DiscriminatorConfig(
        img_resolution=SIDE, channel_base=64, channel_max=8, mapping_layers=1, mbstd_group_size=2, num_fp16_res=0
    )


def tiny_train_config(out: Path, data: Path) -> TrainConfig:
    """9 steps of 4 images in 3 ticks, the lazy phases out of step with the ticks."""
    return TrainConfig(
        out=str(out),
        data=str(data),
        device="cpu",
        threads=1,
        workers=1,
        batch=4,
        total_kimg=0.036,
        tick_kimg=0.012,
        snapshot_ticks=10,
        grid=[2, 1],
        generator=tiny_generator_config(),
        discriminator=tiny_discriminator_config(),
        loss=AdversarialLossConfig(r1_interval=3, density_reg_interval=2, density_reg_points=20, blur_init_sigma=1.0),
    )


def toy_draw(trainer: Trainer, key: int = 5) -> Draw:
    """A batch of the trainer's own images with fresh latents and streams."""
    n, dataset = trainer.cfg.batch, trainer.dataset
    real = next(batches(dataset, n, seed=0, workers=1))
    z_dim = trainer.generator.cfg.z_dim
    return draw_samples(dataset.labels, real, z_dim=z_dim, batch=n, key=(key,), group=trainer.share.group)


def _items(name: str, value: Any) -> list[tuple[str, Any]]:
    return [(f"{name}.{key}", item) for key, item in value.items()] if isinstance(value, dict) else [(name, value)]


def _word(value: Any) -> str:
    """As Hydra's grammar writes it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_word(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else value if isinstance(value, str) else json.dumps(value)


def flat_overrides(config: Any, prefix: str = "") -> list[str]:
    """A config dataclass as the command line that gives it."""
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found += flat_overrides(value, f"{prefix}{field.name}.")
        else:
            found += (
                [f"{prefix}{field.name}.{k}={_word(v)}" for k, v in value.items()] if isinstance(value, dict) else []
            )
            found += [] if isinstance(value, dict) else [f"{prefix}{field.name}={_word(value)}"]
    return found


def rendered_with(**parts: Tensor) -> Rendered:
    """A render of which only some parts matter."""
    names = ("image_raw", "image_raw_clean", "image_depth", "opacity", "depth_spread")
    return Rendered(**{**dict.fromkeys(names, torch.empty(0)), **parts})
