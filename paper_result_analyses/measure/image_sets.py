"""Sets of images beside the data set: kernel distance, sharpness, pixels. Renders have the cameras of the data set.

Shape letters: N images, M images of the data set, R image side, r rendering side, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from eg3d.config_checks import at_least
from eg3d.generators.protocol import device_of
from eg3d.metrics.kid import kernel_distance
from eg3d.metrics.random_convolutions import random_features, standardised
from eg3d.pictures import to_uint8
from eg3d.progress import Advance, ignore
from eg3d.samples import SampleConfig, sample_seeds
from paper_result_analyses.measure.image_statistics import sharpness
from paper_result_analyses.measure.protocol import Table

if TYPE_CHECKING:
    from eg3d.data import ImageDataset
    from eg3d.generators.protocol import Generator

DATA = "data set"
COLUMNS = {
    "arm": "network, or the data set",
    "images": "number of images, cameras drawn from the data set",
    "pixel_mean": "mean grey level of all pixels, 0 to 255",
    "pixel_std": "standard deviation of all pixels, grey levels",
    "gradient": "sharpness: mean length of the gradient of luma, grey levels per pixel, mean over images",
    "laplacian_rms": "sharpness: root mean square of the Laplacian of luma, grey levels per pixel squared, mean over "
    "images",
    "kid": "kernel distance to the data set on fixed random convolutions (not Inception), mean over subsets",
    "kid_subset_std": "standard deviation over subsets: how much one subset varies, not the error of `kid`",
    "kid_subset": "images of each subset",
}
TABLE = Table("image_sets", COLUMNS)


@dataclass
class ImageSetConfig(SampleConfig):
    """Which seeds are rendered, and how many images of the data set they are compared with."""

    first_seed: int = 200000
    num_seeds: int = 200
    data_images: int = 1000  # of the data set, drawn without replacement (all, where it has fewer)
    subset_size: int = 100  # of the kernel distance
    seed: int = 0  # of the draws
    batch: int = 16

    def validate(self) -> list[str]:
        return super().validate() + at_least(self, 3, "num_seeds") + at_least(self, 2, "data_images", "subset_size")


class Renders(NamedTuple):
    """Pictures of seeds in order."""

    images: Tensor  # uint8 [N, 3, R, R]
    opacity: Tensor  # [N, 1, r, r], 0 to 1


class Reference(NamedTuple):
    """What sets are compared with."""

    cameras: Tensor  # [N, 25] of the renders, drawn from the data set
    images: Tensor  # uint8 [M, 3, R, R]
    raw_features: Tensor  # [M, F] as they come

    @property
    def features(self) -> Tensor:
        """Features [M, F] in units of their own spread."""
        return standardised(self.raw_features, self.raw_features)


@torch.no_grad()
def render_seeds(G: Generator, cameras: Tensor, cfg: ImageSetConfig) -> Renders:
    """Renders of cfg.num_seeds seeds from cameras [1, 25] or [num_seeds, 25], conditioned on the canonical one."""
    seeds = list(range(cfg.first_seed, cfg.first_seed + cfg.num_seeds))
    cameras = cameras.expand(len(seeds), -1).to(device_of(G))
    images, opacity = [], []
    for start in range(0, len(seeds), cfg.batch):
        sample = sample_seeds(G, seeds[start : start + cfg.batch], cfg)
        rendered = G.render(sample.field, sample.ws, cameras[start : start + len(sample)])
        images.append(to_uint8(rendered.final).cpu())
        opacity.append(rendered.opacity.cpu())
    return Renders(torch.cat(images), torch.cat(opacity))


def draw_reference(dataset: ImageDataset, cfg: ImageSetConfig) -> Reference:
    """Cameras and images of the data set, drawn by cfg.seed."""
    rng = np.random.RandomState(cfg.seed)
    cameras = dataset.labels[rng.randint(len(dataset), size=cfg.num_seeds)]
    drawn = np.sort(rng.permutation(len(dataset))[: cfg.data_images])
    images = dataset.images([int(index) for index in drawn])
    return Reference(cameras, images, random_features(images))


def features_of(images: Tensor, reference: Reference) -> Tensor:
    """Features [N, F] of images uint8 [N, 3, R, R], in units of their spread over the data set."""
    return standardised(random_features(images), reference.raw_features)


def data_row(reference: Reference, cfg: ImageSetConfig) -> dict[str, float | int | str]:
    """The row (COLUMNS) of the data set itself, its halves against each other: the floor of the kernel distance."""
    order = torch.from_numpy(np.random.RandomState(cfg.seed).permutation(len(reference.images)))
    features, half = reference.features[order], len(order) // 2
    return _row(DATA, reference.images, features[:half], features[half:], cfg)


def set_row(
    arm: str, images: Tensor, features: Tensor, reference: Reference, cfg: ImageSetConfig
) -> dict[str, float | int | str]:
    """The row (COLUMNS) of one set, uint8 [N, 3, R, R], with its features [N, F]."""
    return _row(arm, images, features, reference.features, cfg)


def image_sets(
    networks: Mapping[str, Generator], dataset: ImageDataset, cfg: ImageSetConfig, *, advance: Advance = ignore
) -> pd.DataFrame:
    """One row (COLUMNS) for the data set, and one a network: the same seeds and cameras."""
    reference = draw_reference(dataset, cfg)
    rows = [data_row(reference, cfg)]
    for arm, G in networks.items():
        images = render_seeds(G, reference.cameras, cfg).images
        rows.append(set_row(arm, images, features_of(images, reference), reference, cfg))
        advance()
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(
    arm: str, images: Tensor, features: Tensor, others: Tensor, cfg: ImageSetConfig
) -> dict[str, float | int | str]:
    kid, pixels, sharp = (
        kernel_distance(features, others, subset_size=cfg.subset_size),
        images.double(),
        sharpness(images),
    )
    return {
        "arm": arm,
        "images": len(images),
        "pixel_mean": float(pixels.mean()),
        "pixel_std": float(pixels.std()),
        "gradient": float(sharp.gradient.mean()),
        "laplacian_rms": float(sharp.laplacian_rms.mean()),
        "kid": kid.mean,
        "kid_subset_std": kid.subset_std,
        "kid_subset": kid.subset_size,
    }
