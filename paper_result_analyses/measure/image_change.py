"""What fine-tuning does to the images: pixel statistics, identity against the start, distance to the data set.

Two sets of renders per arm, both of the same seeds: frontal ones, for comparisons of a seed with itself (one camera for
all, so that the pose gives nothing away), and ones from cameras of the data set, for comparisons with its images.

Identity: the frontal render of a seed is compared with the start's frontal renders of all seeds; rank 1 means that its
own start render is the closest one, chance is 1 / seeds. The head: where the start's frontal render of the seed is
opaque; around it all arms show the same background, which flatters a mean over the picture.
Shape letters: N images, R image side, r rendering side, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import pandas as pd
from torch import Tensor

from eg3d.metrics.random_convolutions import FEATURES_NAME, random_features, standardised
from eg3d.progress import Advance, ignore, progress_bar
from paper_result_analyses.arms import START
from paper_result_analyses.measure import image_sets
from paper_result_analyses.measure.context import Context
from paper_result_analyses.measure.image_sets import ImageSetConfig, draw_reference, features_of, render_seeds
from paper_result_analyses.measure.image_statistics import (
    covered,
    identity_ranks,
    kernel_distance_difference,
    psnr_db,
)
from paper_result_analyses.measure.intervals import for_people
from paper_result_analyses.measure.protocol import Finding, Input, Measure, Section, Table
from paper_result_analyses.measure.tables import Tables
from reward_model_training.intervals import mean_interval, wilson

if TYPE_CHECKING:
    from eg3d.data import ImageDataset
    from eg3d.generators.protocol import Generator

PAIRS, ARMS = "image_pairs", "image_arms"
PAIR_COLUMNS = {
    "arm": "network compared with start",
    "seed": "seed of the latent",
    "mean_abs_difference": "mean absolute pixel difference to the start's frontal render, grey levels of 255",
    "psnr_db": "peak signal-to-noise ratio to the start's frontal render, dB, whole picture",
    "head_psnr_db": "the same over the head; empty = the start's render is nowhere opaque",
    "head_share": "share of the picture that is head: opacity of the start's render at or above the threshold",
    "pixel_identity_rank": "rank of the seed's own start render by mean squared pixel difference, 1 = closest",
    "feature_identity_rank": "rank of the seed's own start render by distance of random-convolution features",
}
COMPARED = ("psnr_db", "head_psnr_db")  # columns of the table of pairs
ARM_COLUMNS = {
    "arm": "network",
    "other": "network that it is compared with, same seeds and cameras",
    "n": "seeds",
    "psnr_db_difference": "mean paired difference of psnr_db, `arm` minus `other`; empty where one is start",
    "psnr_db_difference_low": "Student 95 % interval",
    "psnr_db_difference_high": "Student 95 % interval",
    "head_psnr_db_difference": "mean paired difference of head_psnr_db, `arm` minus `other`; empty where one is start",
    "head_psnr_db_difference_low": "Student 95 % interval",
    "head_psnr_db_difference_high": "Student 95 % interval",
    "kid_difference": "kernel distance to the data set, `arm` minus `other`, all images at once",
    "kid_difference_low": "95 % interval by the jackknife over seeds and images",
    "kid_difference_high": "95 % interval by the jackknife over seeds and images",
}


@dataclass
class ImageChangeConfig(ImageSetConfig):
    """Which seeds are rendered, what of them is head, and how many images of the data set they are compared with."""

    head_opacity: float = 0.5  # of the start's render: pixels at or above it are head


def image_change(
    networks: Mapping[str, Generator],
    dataset: ImageDataset,
    cfg: ImageChangeConfig,
    *,
    advance: Advance = ignore,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tables of pairs (PAIR_COLUMNS), sets (image_sets) and arms (ARM_COLUMNS). `networks` needs a key "start"."""
    reference = draw_reference(dataset, cfg)
    frontal, features, sets = {}, {}, [image_sets.data_row(reference, cfg)]
    for arm, G in networks.items():
        frontal[arm] = render_seeds(G, G.camera.canonical(), cfg)
        advance()
        images = render_seeds(G, reference.cameras, cfg).images
        features[arm] = features_of(images, reference)
        sets.append(image_sets.set_row(arm, images, features[arm], reference, cfg))
        advance()
    before = frontal[START]
    is_head = covered(before.opacity, before.images.shape[-1], cfg.head_opacity)
    pairs = [
        pair_rows(arm, before.images, after.images, is_head, cfg) for arm, after in frontal.items() if arm != START
    ]
    table = pd.concat(pairs) if pairs else pd.DataFrame(columns=list(PAIR_COLUMNS))
    arms = arms_compared(table, features, reference.features)
    return table[list(PAIR_COLUMNS)], pd.DataFrame(sets, columns=list(image_sets.COLUMNS)), arms


def pair_rows(arm: str, before: Tensor, after: Tensor, is_head: Tensor, cfg: ImageChangeConfig) -> pd.DataFrame:
    """Rows of one arm from uint8 images [N, 3, R, R] before and after, same seeds in the same order.

    is_head: bool [N, R, R].
    """
    difference = after.double() - before.double()
    reference = random_features(before)
    features = [standardised(f, reference) for f in (random_features(after), reference)]
    return pd.DataFrame(
        {
            "arm": arm,
            "seed": range(cfg.first_seed, cfg.first_seed + len(before)),
            "mean_abs_difference": difference.abs().mean((1, 2, 3)).numpy(),
            "psnr_db": psnr_db(before, after),
            "head_psnr_db": psnr_db(before, after, is_head),
            "head_share": is_head.double().mean((1, 2)).numpy(),
            "pixel_identity_rank": identity_ranks(after.flatten(1).float(), before.flatten(1).float()),
            "feature_identity_rank": identity_ranks(*features),
        },
        columns=list(PAIR_COLUMNS),
    )


def arms_compared(pairs: pd.DataFrame, features: Mapping[str, Tensor], data: Tensor) -> pd.DataFrame:
    """One row a pair of arms (ARM_COLUMNS), from the table of pairs and standardised features [N, F] by arm."""
    rows = []
    by_seed = {name: pairs.pivot(index="seed", columns="arm", values=name) for name in COMPARED}
    for arm, other in combinations([*(arm for arm in features if arm != START), START], 2):
        row = {"arm": arm, "other": other, "n": len(features[arm])}
        for name, values in by_seed.items() if other != START else ():
            row |= mean_interval((values[arm] - values[other]).dropna().to_numpy()).columns(f"{name}_difference")
        row |= kernel_distance_difference(features[arm], features[other], data).columns("kid_difference")
        rows.append(row)
    return pd.DataFrame(rows, columns=list(ARM_COLUMNS))


def findings(tables: Tables) -> list[Finding]:
    """Whether a seed still shows the same head."""
    found = []
    for arm, rows in tables[PAIRS].groupby("arm", sort=False):
        for column, means in (("pixel_identity_rank", "pixels"), ("feature_identity_rank", "random features")):
            share = wilson(int((rows[column] == 1).sum()), len(rows))
            what = f"{arm}: own start render is the closest of all, by {means} (chance {1 / len(rows):.1%})"
            found.append(Finding.of_share(what, share, of="seeds", required="shown"))
    return found


def sections(tables: Tables) -> list[Section]:
    """Means of the table of pairs, the sets, and arms against each other."""
    columns = ["mean_abs_difference", "psnr_db", "head_psnr_db", "pixel_identity_rank", "feature_identity_rank"]
    means = tables[PAIRS].groupby("arm", sort=False)[columns].mean().round(3).reset_index()
    return [
        Section(
            "Images before and after",
            [
                (
                    "Same seed and frontal camera, before against after, means over seeds (plain pixel statistics; "
                    "head: where the start's render is opaque):",
                    means,
                ),
                (
                    f"Sets of images against the data set. KID is the kernel distance on {FEATURES_NAME}; the row of "
                    "the data set compares its own halves and is the floor of the measure. Gradient and Laplacian of "
                    "luma say how sharp pictures are; noise counts as sharpness.",
                    tables[image_sets.TABLE.name].round(4),
                ),
                (
                    "Arms against each other, same seeds and cameras: mean differences, first minus second, with 95 % "
                    "intervals.",
                    for_people(tables[ARMS], [f"{name}_difference" for name in (*COMPARED, "kid")]),
                ),
            ],
        )
    ]


def run(context: Context) -> dict[str, pd.DataFrame]:
    with progress_bar("sets rendered", 2 * len(context.networks)) as advance:
        pairs, sets, arms = image_change(context.networks, context.dataset, context.cfg, advance=advance)
    return {PAIRS: pairs, image_sets.TABLE.name: sets, ARMS: arms}


MEASURE = Measure(
    name="image_change",
    Config=ImageChangeConfig,
    inputs=(Input.NETWORKS, Input.DATA),
    tables=(
        Table(PAIRS, PAIR_COLUMNS),
        image_sets.TABLE,
        Table(ARMS, ARM_COLUMNS, text=("arm", "other")),
    ),
    run=run,
    findings=findings,
    sections=sections,
)
