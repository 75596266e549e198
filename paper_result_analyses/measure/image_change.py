"""What fine-tuning does to the images: pixel statistics, identity against the start, distance to the data set.

Two sets of renders per arm, both of the same seeds: frontal ones, for comparisons of a seed with itself (one camera for
all, so that the pose gives nothing away), and ones from cameras of the data set, for comparisons with its images.

Identity: the frontal render of a seed is compared with the start's frontal renders of all seeds; rank 1 means that its
own start render is the closest one, chance is 1 / seeds. Shape letters: N images, R image side, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from eg3d.config_checks import at_least
from eg3d.metrics.kid import kernel_distance
from eg3d.metrics.random_convolutions import random_features, standardised
from eg3d.pictures import to_uint8
from eg3d.samples import SampleConfig, sample_seeds
from paper_result_analyses.measure.before_after import START

if TYPE_CHECKING:
    from eg3d.data import ImageDataset
    from eg3d.generators.protocol import Generator

DATA = "data set"
PAIR_COLUMNS = {
    "arm": "network compared with start",
    "seed": "seed of the latent",
    "mean_abs_difference": "mean absolute pixel difference to the start's frontal render, grey levels of 255",
    "psnr_db": "peak signal-to-noise ratio to the start's frontal render, dB",
    "pixel_identity_rank": "rank of the seed's own start render by mean squared pixel difference, 1 = closest",
    "feature_identity_rank": "rank of the seed's own start render by distance of random-convolution features",
}
SET_COLUMNS = {
    "arm": "network, or the data set",
    "images": "number of images, cameras drawn from the data set",
    "pixel_mean": "mean grey level of all pixels, 0 to 255",
    "pixel_std": "standard deviation of all pixels, grey levels",
    "kid": "kernel distance to the data set on fixed random convolutions (not Inception), mean over subsets",
    "kid_std": "its standard deviation over subsets",
    "kid_subset": "images of each subset",
}


@dataclass
class ImageChangeConfig(SampleConfig):
    """Which seeds are rendered, and how many images of the data set they are compared with."""

    first_seed: int = 200000
    num_seeds: int = 200
    data_images: int = 1000  # of the data set, drawn without replacement (all, where it has fewer)
    subset_size: int = 100  # of the kernel distance
    seed: int = 0  # of the draws
    batch: int = 16

    def validate(self) -> list[str]:
        return super().validate() + at_least(self, 2, "num_seeds")


@torch.no_grad()
def render_seeds(G: Generator, cameras: Tensor, cfg: ImageChangeConfig) -> Tensor:
    """uint8 renders [num_seeds, 3, R, R] from cameras [1, 25] or [num_seeds, 25], conditioned on the canonical one."""
    device = next(G.parameters()).device
    seeds = list(range(cfg.first_seed, cfg.first_seed + cfg.num_seeds))
    cameras = cameras.expand(len(seeds), -1).to(device)
    images = []
    for start in range(0, len(seeds), cfg.batch):
        sample = sample_seeds(G, seeds[start : start + cfg.batch], cfg)
        rendered = G.render(sample.field, sample.ws, cameras[start : start + len(sample)])
        images.append(to_uint8(rendered.final).cpu())
    return torch.cat(images)


def image_change(
    networks: Mapping[str, Generator],
    dataset: ImageDataset,
    cfg: ImageChangeConfig,
    *,
    advance: Callable[[], None] = lambda: None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of pairs (PAIR_COLUMNS) and of sets (SET_COLUMNS). `networks` needs a key "start"."""
    rng = np.random.RandomState(cfg.seed)
    cameras = dataset.labels[rng.randint(len(dataset), size=cfg.num_seeds)]
    drawn = np.sort(rng.permutation(len(dataset))[: cfg.data_images])
    real = dataset.images([int(index) for index in drawn])
    reference = random_features(real)
    frontal, sets = {}, [_set_row(DATA, real, None, None, cfg)]
    for arm, G in networks.items():
        frontal[arm] = render_seeds(G, G.camera.canonical(), cfg)
        advance()
        sets.append(_set_row(arm, render_seeds(G, cameras, cfg), reference, standardised(reference, reference), cfg))
        advance()
    pairs = [pair_rows(arm, frontal[START], images, cfg) for arm, images in frontal.items() if arm != START]
    table = pd.concat(pairs) if pairs else pd.DataFrame(columns=list(PAIR_COLUMNS))
    return table[list(PAIR_COLUMNS)], pd.DataFrame(sets, columns=list(SET_COLUMNS))


def pair_rows(arm: str, before: Tensor, after: Tensor, cfg: ImageChangeConfig) -> pd.DataFrame:
    """Rows of one arm from uint8 images [N, 3, R, R] before and after, same seeds in the same order."""
    difference = after.double() - before.double()
    squared = difference.square().mean((1, 2, 3)).numpy()
    reference = random_features(before)
    features = [standardised(f, reference) for f in (random_features(after), reference)]
    return pd.DataFrame(
        {
            "arm": arm,
            "seed": range(cfg.first_seed, cfg.first_seed + len(before)),
            "mean_abs_difference": difference.abs().mean((1, 2, 3)).numpy(),
            "psnr_db": [20 * math.log10(255) - 10 * math.log10(max(value, 1e-6)) for value in squared],
            "pixel_identity_rank": identity_ranks(after.flatten(1).float(), before.flatten(1).float()),
            "feature_identity_rank": identity_ranks(*features),
        }
    )


def identity_ranks(after: Tensor, before: Tensor) -> np.ndarray:
    """Rank of row i of `before` [N, F] among all its rows by distance to row i of `after` [N, F]; 1 = closest.

    The distance is Euclidean. Another row that is exactly as close does not push a row back.
    """
    distance = torch.cdist(after.double(), before.double())
    return (distance < distance.diagonal()[:, None]).sum(1).numpy() + 1


def _set_row(
    arm: str, images: Tensor, reference: Tensor | None, scaled_reference: Tensor | None, cfg: ImageChangeConfig
) -> dict[str, float | int | str]:
    """One row of the table of sets; a data set without a reference is compared half against half (the noise floor)."""
    features = random_features(images)
    if reference is None or scaled_reference is None:
        scaled = standardised(features, features)
        order = torch.from_numpy(np.random.RandomState(cfg.seed).permutation(len(images)))
        half = len(images) // 2
        kid = kernel_distance(scaled[order[:half]], scaled[order[half:]], subset_size=cfg.subset_size)
    else:
        kid = kernel_distance(standardised(features, reference), scaled_reference, subset_size=cfg.subset_size)
    pixels = images.double()
    row: dict[str, float | int | str] = {
        "arm": arm,
        "images": len(images),
        "pixel_mean": float(pixels.mean()),
        "pixel_std": float(pixels.std()),
    }
    return row | {"kid": kid.mean, "kid_std": kid.std, "kid_subset": kid.subset_size}
