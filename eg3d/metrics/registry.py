"""Figures by name: what each measures, with how many images, and what it reports.

| name | reals | fakes | figure |
| --- | --- | --- | --- |
| fid50k_full | all | 50 000 | Frechet distance |
| kid50k_full | up to 1 000 000 | 50 000 | kernel distance, 100 subsets of 1000 |
| pr50k3_full | up to 200 000 | 50 000 | precision and recall, k = 3 |
| is50k | none | 50 000 | inception score, 10 splits: mean and deviation |
| ppl2_wend | none | 50 000 paths | perceptual path length |
| fid50k, kid50k, pr50k3 | up to 50 000, mirrored ones too when asked for | 50 000 | as above |

Any other count gives a short form for testing, with or without k for thousands: fid1k, fid24_full, kid100, is200, pr24,
pr1k3_full, ppl8_wend. They have the same definition and are not comparable with the full ones, since FID falls with the
number of images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from eg3d.data import ImageDataset
from eg3d.metrics.collect import measured
from eg3d.metrics.detectors import STAND_IN, detector_identity
from eg3d.metrics.fid import frechet_distance, moments
from eg3d.metrics.inception_score import inception_score
from eg3d.metrics.kid import kernel_distance
from eg3d.metrics.measurements import FakeFeatures, GeneratedImages, Measurement, PathLengths, RealFeatures, Rows
from eg3d.metrics.ppl import path_length
from eg3d.metrics.precision_recall import precision_recall
from eg3d.progress import Bar, no_bar

PUBLISHED = ("fid50k_full", "kid50k_full", "pr50k3_full", "is50k", "ppl2_wend", "fid50k", "kid50k", "pr50k3")
EQUIVARIANCE = ("eqt50k_int", "eqt50k_frac", "eqr50k")
PATHS = 50_000
MAX_REAL_FULL = {"fid": None, "kid": 1_000_000, "pr": 200_000}
MAX_REAL = 50_000
NEIGHBOURS = 3
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
SPLITS = 10
DETECTORS = {"fid": "inception", "kid": "inception", "is": "inception", "pr": "vgg16", "ppl": "vgg16"}
_NAME = re.compile(r"(?:(?P<kind>fid|kid|is)(?P<n>\d+)(?P<k>k?)|pr(?P<pr_n>\d+)(?P<pr_k>k3)?)(?P<full>_full)?")
_NO_CLASSES = "{} needs a detector with classes: inception, or one of your own that gives probabilities"
_PATHS_NAME = re.compile(r"ppl(\d+)(k?)_wend")


@dataclass(frozen=True)
class Metric:
    """One figure: what to measure for it. A name stands for exactly one."""

    name: str
    kind: str  # fid | kid | is | pr | ppl
    num_fakes: int  # images, or paths of ppl
    max_reals: int | None = None  # None = all
    is_full: bool = False  # reals never mirrored, more of them

    @property
    def needs_reals(self) -> bool:
        return self.kind in MAX_REAL_FULL

    @property
    def default_detector(self) -> str:
        """The network that the published figure of this kind uses."""
        return DETECTORS[self.kind]


def parse_metric(name: str) -> Metric:
    """The metric of a name. Raises ValueError that lists the published names."""
    if name in EQUIVARIANCE:
        raise ValueError(f"metric {name!r} needs a generator with an input transform, which EG3D has not")
    if name == "ppl2_wend":
        return Metric(name, "ppl", PATHS)
    if found := _PATHS_NAME.fullmatch(name):
        return Metric(name, "ppl", _count(name, *found.groups()))
    found = _NAME.fullmatch(name)
    if found is None or (found["kind"] == "is" and found["full"]):
        raise ValueError(
            f"metric {name!r} is unknown; known are {', '.join(PUBLISHED)}, and short forms such as fid1k or pr200"
        )
    kind = found["kind"] or "pr"
    count = _count(name, found["n"] or found["pr_n"], found["k"] or found["pr_k"])
    is_full = found["full"] is not None
    return Metric(name, kind, count, MAX_REAL_FULL.get(kind) if is_full else MAX_REAL, is_full)


def _count(name: str, digits: str, thousands: str | None) -> int:
    count = int(digits) * (1000 if thousands else 1)
    if count < 2:
        raise ValueError(f"metric {name!r} asks for {count} images; give a count of at least 2")
    return count


@dataclass(frozen=True)
class Evaluation:
    """What figures are made of, and how."""

    images: GeneratedImages
    detector: str = "auto"  # a name of eg3d.metrics.detectors, or auto: the published one of each metric
    devices: Sequence[torch.device] = (torch.device("cpu"),)
    cache: str | Path | None = None


@dataclass(frozen=True)
class Step:
    """One measurement of a figure."""

    title: str
    measurement: Measurement
    count: int


def steps(metric: Metric, evaluation: Evaluation) -> dict[str, Step]:
    """The measurements of a metric: "real" where it has reals, "fake" always.

    "full" figures take reals and cameras of the data set as it is, never mirrored. Raises ValueError for a data set of
    fewer than two images, or a detector without the classes that a score needs.
    """
    name = detector_name(metric, evaluation)
    if metric.kind == "is" and name in (STAND_IN, "vgg16"):
        raise ValueError(_NO_CLASSES.format(metric.name))
    images = replace(evaluation.images, is_mirrored=evaluation.images.is_mirrored and not metric.is_full)
    if metric.kind == "ppl":
        return {"fake": Step("paths", PathLengths(images, name), metric.num_fakes)}
    found = {"fake": Step("generated images", FakeFeatures(images, name), metric.num_fakes)}
    if metric.needs_reals:
        total = len(ImageDataset(images.data, mirror=images.is_mirrored))
        count = min(total, metric.max_reals or total)
        if count < 2:
            raise ValueError(f"{images.data} holds {count} image; {metric.name} needs at least 2")
        found["real"] = Step("real images", RealFeatures(images.data, name, images.is_mirrored), count)
    return found


def detector_name(metric: Metric, evaluation: Evaluation) -> str:
    """The detector that a metric uses in an evaluation."""
    return metric.default_detector if evaluation.detector == "auto" else evaluation.detector


def evaluate(metric: Metric, evaluation: Evaluation, *, bar: Bar = no_bar) -> dict[str, Any]:
    """Results of a metric by name, with the detector that made them and the counts, as plain data.

    `bar(title, samples)` opens a progress bar of each step. Raises ValueError if the detector cannot serve.
    """
    detector = detector_identity(detector_name(metric, evaluation))
    rows = {}
    planned = steps(metric, evaluation)
    for role, step in planned.items():
        with bar(step.title, step.count) as advance:
            rows[role] = measured(
                step.measurement, step.count, devices=evaluation.devices, cache=evaluation.cache, advance=advance
            )
    return {
        "results": figures(metric, rows.get("real"), rows["fake"], seed=evaluation.images.seed),
        "metric": metric.name,
        "detector": detector,
        "num_real": planned["real"].count if "real" in planned else 0,
        "num_fake": planned["fake"].count,
    }


def figures(metric: Metric, real: Rows | None, fake: Rows, *, seed: int) -> dict[str, float]:
    """The numbers of a metric from measured rows; names are those of the published result files."""
    if metric.kind == "ppl":
        return {metric.name: path_length(fake["distances"].numpy())}
    if metric.kind == "is":
        if "probabilities" not in fake:
            raise ValueError(_NO_CLASSES.format(metric.name))
        mean, std = inception_score(fake["probabilities"], num_splits=SPLITS)
        return {f"{metric.name}_mean": mean, f"{metric.name}_std": std}
    assert real is not None
    pair = real["features"], fake["features"]
    if metric.kind == "fid":
        return {metric.name: frechet_distance(moments(pair[0]), moments(pair[1]))}
    if metric.kind == "kid":
        return {
            metric.name: kernel_distance(*pair, subset_size=KID_SUBSET_SIZE, num_subsets=KID_SUBSETS, seed=seed).mean
        }
    precision, recall = precision_recall(*pair, k=NEIGHBOURS)
    return {f"{metric.name}_precision": precision, f"{metric.name}_recall": recall}
