"""Samples of seeds as files: three views in one PNG, and the shape. Shape letters: N seeds, V views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from eg3d.fields.protocol import Field
from eg3d.generators.protocol import Generator, device_of
from eg3d.pictures import save_grid
from eg3d.progress import Advance, ignore
from eg3d.representations.shape import ShapeConfig
from eg3d.viewing.views import (
    ViewingConfig,
    for_viewing,
    pictures_at_once,
    render,
    viewed_seeds,
    with_fov,
)
from eg3d.viewing.written import Written

YAWS = (0.4, 0.0, -0.4)  # radians from the frontal camera, as published
PITCH = -0.2  # radians, as published


@dataclass(frozen=True)
class SamplesConfig:
    """Which files are written for which seeds."""

    seeds: Sequence[int]
    outdir: Path
    viewing: ViewingConfig = field(default_factory=ViewingConfig)
    fov_deg: float | None = None  # diagonal field of view; None = the network's own cameras
    shape: ShapeConfig | None = None  # None = pictures only
    batch: int = 1  # seeds of one call; more is faster on a GPU, and may change the last bit of a picture


@dataclass(frozen=True)
class SeedViews:
    """One seed, seen by all cameras."""

    seed: int
    field: Field  # of one sample
    images: Tensor  # [V, 3, R, R], -1 to 1, on the CPU


@torch.no_grad()
def seed_views(
    G: Generator,
    seeds: Sequence[int],
    labels: Tensor,
    cfg: ViewingConfig,
    *,
    conditioning: Tensor,
    batch: int = 1,
) -> Iterator[SeedViews]:
    """Pictures of each seed from cameras `labels` [V, 25], in order; the field is made once a seed.

    conditioning [1, 25] is the camera that the mapping sees. `batch` seeds go through the network together: with 1, a
    picture is the same to the bit whatever the other seeds are, with more it is the same but for rounding.
    """
    G = for_viewing(G, cfg)
    num_views, at_once = len(labels), pictures_at_once(G)
    for start in range(0, len(seeds), batch):
        group = list(seeds[start : start + batch])
        sample = viewed_seeds(G, group, cfg, c=conditioning)
        which = torch.arange(len(group), device=device_of(G)).repeat_interleave(num_views)
        cameras = labels.repeat(len(group), 1)
        images = torch.cat(
            [
                render(G, sample.rows(part), c, cfg).final.float().cpu()
                for part, c in zip(which.split(at_once), cameras.split(at_once), strict=True)
            ]
        )
        for index, seed in enumerate(group):
            yield SeedViews(seed, sample.field[index : index + 1], images[index * num_views : (index + 1) * num_views])


def generate_samples(G: Generator, cfg: SamplesConfig, *, advance: Advance = ignore) -> Written:
    """Write seedNNNN.png, and seedNNNN.<format> of the shape, into cfg.outdir; each file appears whole.

    The mapping sees the frontal camera with the same field of view, as published: another fov_deg is another sample.
    """
    camera = with_fov(G.camera, cfg.fov_deg)
    labels = torch.cat([camera.label(yaw, PITCH) for yaw in YAWS])
    written = Written()
    for views in seed_views(G, cfg.seeds, labels, cfg.viewing, conditioning=camera.label(), batch=cfg.batch):
        stem = Path(cfg.outdir) / f"seed{views.seed:04d}"
        picture = stem.with_suffix(".png")
        save_grid(views.images, picture, columns=len(YAWS))
        written.files.append(picture)
        if cfg.shape is not None:
            written.add_shape(views.field, stem, cfg.shape)
        advance()
    return written
