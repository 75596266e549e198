"""Tiny networks and a tiny reward for the tests of this folder: seconds, not quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eg3d.checkpoints.store import save_networks
from eg3d.generators.eg3d import GeneratorConfig, TriPlaneGenerator
from eg3d.networks.discriminator import DiscriminatorConfig, DualDiscriminator
from eg3d.rendering.renderer import RenderingConfig
from eg3d.representations.sigma_field import SigmaField

SIDE = 16  # px of the images


def tiny_generator(seed: int = 0, *, z_dim: int = 8) -> TriPlaneGenerator:
    cfg = GeneratorConfig(
        z_dim=z_dim,
        w_dim=8,
        plane_resolution=8,
        plane_channels=4,
        channel_base=64,
        channel_max=8,
        decoder_hidden=8,
        feature_channels=4,
        img_resolution=SIDE,
        neural_rendering_resolution=8,
        superresolution="2X",
        sr_channels=[4, 4],
        sr_input_resolution=8,
        sr_num_fp16_res=0,
        rendering=RenderingConfig(depth_resolution=4, depth_resolution_importance=4),
    )
    torch.manual_seed(seed)
    G = TriPlaneGenerator(cfg)
    with torch.no_grad():  # so that some density crosses the surface's level
        G.decoder.net[2].weight[0] *= 60
        G.decoder.net[2].bias[0] += 8
    return G


def save_tiny_networks(path: Path, seed: int = 0, *, z_dim: int = 8, extra: dict[str, Any] | None = None) -> Path:
    cfg = DiscriminatorConfig(img_resolution=SIDE, channel_base=64, channel_max=8, num_fp16_res=0, mapping_layers=1)
    G, D = tiny_generator(seed, z_dim=z_dim), DualDiscriminator(cfg)
    save_networks(path, {"G": G, "D": D, "G_ema": G}, configs={"G": G.cfg, "D": cfg, "G_ema": G.cfg}, extra=extra)
    return path


def save_tiny_reward(folder: Path) -> Path:
    from reward_model_training.bundle import save_reward
    from reward_model_training.card import RewardCard
    from reward_model_training.models import ModelConfig, build_model
    from reward_model_training.models.backbones.sigma_unet3d import SigmaUNetConfig
    from reward_model_training.models.heads import ScoreHeadsConfig

    torch.manual_seed(1)
    unet = SigmaUNetConfig(f_maps=[2, 4], num_groups=1, final_size_out=8)
    model = ModelConfig(backbone=unet, heads=ScoreHeadsConfig(trunk_hidden=[8, 8], trunk_out=8, head_hidden=[8, 4]))
    slab = SigmaField(resolution=16, grid="exact")
    metric = {
        "split": "test",
        "filter": "no_goodseeds",
        "pairs": "best_worst",
        "head": "scalar",
        "reference": "noise_free_simulated",
        "n_examples": 10,
        "n_correct": 9,
        "accuracy": 0.9,
        "ci_low": 0.6,
        "ci_high": 0.98,
    }
    return save_reward(folder, build_model(model), RewardCard(model=model, representation=slab, metrics=[metric]))
