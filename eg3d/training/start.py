"""What a run begins with: new networks, those of a file, or new ones that take over what fits; torch's settings."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import torch

from eg3d.checkpoints.store import load_discriminator, load_triplane_generator
from eg3d.data import ImageDataset
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.networks.discriminator import DualDiscriminator
from eg3d.training.config import TrainConfig
from eg3d.training.loaded import check_told, with_changes
from eg3d.training.transfer import transfer
from eg3d.training.warm_start import scale_styles


@dataclass(frozen=True)
class StartingNetworks:
    """G, D and the average of G."""

    generator: TriPlaneGenerator
    discriminator: DualDiscriminator
    average: TriPlaneGenerator


def starting_networks(
    cfg: TrainConfig, dataset: ImageDataset, device: torch.device, *, given: Collection[str] = ()
) -> StartingNetworks:
    """G, D and G_ema on `device`; their weights follow from config, seed and `start` alone.

    given: dotted names of settings that the user gave, though they may be defaults. Raises ValueError when the networks
    make images of another size than the data set has, or when the config says what their file contradicts.
    """
    if cfg.start and cfg.start_config == "file":
        generator, average = loaded_generator(cfg, cfg.start_net), loaded_generator(cfg, "G_ema")
        discriminator = cast(DualDiscriminator, with_changes(load_discriminator(cfg.start), cfg.start_changes))
        told: tuple[tuple[str, Any, Any], ...] = (
            ("generator", cfg.generator, generator.cfg),
            ("discriminator", cfg.discriminator, discriminator.cfg),
        )
        for group, one, found in told:
            check_told(group, one, found, given=given, source=cfg.start)
    else:
        generator, discriminator = _new_networks(cfg, dataset)
        average = copy.deepcopy(generator)
        if cfg.start:
            transfer(generator, load_triplane_generator(cfg.start, net=cfg.start_net), f"{cfg.start}, {cfg.start_net}")
            transfer(discriminator, load_discriminator(cfg.start), f"{cfg.start}, D")
            transfer(average, load_triplane_generator(cfg.start, net="G_ema"), f"{cfg.start}, G_ema")
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if network.cfg.img_resolution != dataset.resolution:
            raise ValueError(
                f"data: {dataset.path} has {dataset.resolution}-pixel images, the {name} makes "
                f"{network.cfg.img_resolution}; give a data set of that size"
            )
    for network in (generator, discriminator, average):
        network.to(device).requires_grad_(False)
    return StartingNetworks(generator.train(), discriminator.train(), average.eval())


def loaded_generator(cfg: TrainConfig, net: str) -> TriPlaneGenerator:
    """A generator of the file that the run starts from, with `start_changes`."""
    return cast(TriPlaneGenerator, with_changes(load_triplane_generator(str(cfg.start), net=net), cfg.start_changes))


def _new_networks(cfg: TrainConfig, dataset: ImageDataset) -> tuple[TriPlaneGenerator, DualDiscriminator]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        generator = TriPlaneGenerator(cfg.generator)
        discriminator = DualDiscriminator(cfg.discriminator)
    scale_styles(generator, cfg.warm_start.style_scale)
    if cfg.generator.c_dim:
        generator.get_buffer("dataset_label_std").copy_(dataset.label_std())
    return generator, discriminator


def set_backends(*, cudnn_benchmark: bool) -> None:
    """Published: no TF32 and no fp16 sums; cuDNN may try its algorithms where the config lets it."""
    torch.backends.cudnn.benchmark = cudnn_benchmark
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
