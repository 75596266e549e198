"""Shapes of held-out seeds against the true heads behind them. It never ranks, never tunes, never picks a length.

The generator began as a reconstruction of heads whose codes are directions of its latent space, so that a seed's latent
says which head it was meant to be: `true_codes`. With truncation, whose codes shrink with psi towards the average head,
the head of psi times the code is taken. Surfaces are compared from the cameras of `yaws`, where both have one:

- normals: mean angle between the surfaces over face and sides (skin, lips, brows, eyes, ears of the true head; no hair,
  glasses or neck), degrees.
- depth: mean difference along the rays over the whole head but the neck, each bounded; a missing surface is as bad as
  the bound.
- volume: intersection over union of the solids, above the shoulders.

Shape letters: R pixels a side, D points of the grid a side, K numbers of a code.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from dataset_preprocessing.human_heads.codes import CODE_NAMES, NUM_CODES
from dataset_preprocessing.human_heads.portrait import Portrait, portrait
from dataset_preprocessing.human_heads.truth import NOTHING, true_occupancy, true_parts
from eg3d.cameras import split_label
from eg3d.config_checks import at_least
from eg3d.head_model import Region
from eg3d.ops.density_grid.grid import GridSpec
from eg3d.progress import Advance, ignore, progress_bar
from eg3d.raster import depth_and_normals, vertex_normals
from eg3d.representations.mesh import LEVEL, NoSurface, extract_mesh
from eg3d.samples import Sample, SampleConfig, sample_seeds, seed_latents
from eg3d.training.warm_start import latents_to_codes
from paper_result_analyses.arms import START
from paper_result_analyses.figures import charts
from paper_result_analyses.measure.before_after import by_seed
from paper_result_analyses.measure.context import Context
from paper_result_analyses.measure.intervals import median_change
from paper_result_analyses.measure.protocol import Figure, Finding, Input, Measure, Table
from paper_result_analyses.measure.tables import Tables
from reward_model_training.intervals import Share, wilson
from reward_model_training.preferences.annotators.pieces import outer_solid

if TYPE_CHECKING:
    import trimesh

    from eg3d.data import ImageDataset
    from eg3d.generators.protocol import Generator

log = logging.getLogger(__name__)
SEEDS, SUMMARY = "truth", "truth_summary"
NECK_AND_BELOW = (Region.NECK, Region.BUST, Region.BASE)
FACE_AND_SIDES = (
    *(Region.SKIN, Region.LIPS, Region.BROW, Region.EAR),
    *(Region.EYE_WHITE, Region.IRIS, Region.PUPIL),
)
REQUIRED_NORMALS, REQUIRED_DEPTH, REQUIRED_OTHERS = 0.20, 0.80, 0.25
METRICS = ("normal_deg", "depth", "iou")
COLUMNS = {
    "arm": "network: start (before), tuned, control, continuation",
    "seed": "seed of the latent, not used in ranking, tracking or judging",
    "psi": "truncation strength; the true head is that of psi times the seed's code",
    "normal_deg": "mean angle to the true surface over face and sides, degrees",
    "depth": "mean depth error over the head without neck, world units, each at most `depth_bound`",
    "iou": "intersection over union of the solids above the shoulders",
    "seen": "share of face and sides where the generator has a surface",
}
SUMMARY_COLUMNS = {
    "arm": "network compared with start, same seeds",
    "psi": "truncation strength",
    "n": "seeds",
    "normal_deg": "median over seeds",
    "normal_change": "median of `normal_deg` / that of start - 1",
    "normal_change_low": "bootstrap 95 % interval over seeds",
    "normal_change_high": "bootstrap 95 % interval over seeds",
    "depth": "median over seeds",
    "depth_better": "seeds whose depth error fell",
    "depth_better_share": "depth_better / n",
    "depth_better_low": "Wilson 95 % interval",
    "depth_better_high": "Wilson 95 % interval",
    "depth_change": "median of `depth` / that of start - 1",
    "depth_change_low": "bootstrap 95 % interval over seeds",
    "depth_change_high": "bootstrap 95 % interval over seeds",
    "iou": "median over seeds",
    "iou_better_share": "share of seeds whose IoU rose",
}


@dataclass
class SurfaceConfig:
    """How finely shapes are compared with true heads."""

    yaws: list[float] = dataclasses.field(default_factory=lambda: [-0.6, 0.0, 0.6])  # radians
    resolution: int = 96  # px of a view
    grid_resolution: int = 96  # grid points per side
    depth_bound: float = 0.1  # world units
    shoulders_y: float = -0.25  # world units: volumes are compared above

    def validate(self) -> list[str]:
        faults = at_least(self, 1, "resolution") + at_least(self, 8, "grid_resolution")
        return faults + ([] if self.yaws else ["yaws: give at least one"])


@dataclass
class TruthConfig(SurfaceConfig):
    """Which held-out seeds are compared with their true heads."""

    first_seed: int = 200000
    num_seeds: int = 200
    psi: float = 1.0

    def validate(self) -> list[str]:
        return super().validate() + at_least(self, 1, "num_seeds")


class SurfaceView(NamedTuple):
    """What a camera sees of a surface through the centres of R x R pixels."""

    depth: np.ndarray  # [R, R] world units along the ray, 0 = nothing
    normals: np.ndarray  # [R, R, 3] unit length in the world, 0 = nothing


class TrueHead(NamedTuple):
    """What is known of the head behind a seed."""

    views: list[SurfaceView]
    is_face: list[np.ndarray]  # bool [R, R] of each view: face and sides
    is_head: list[np.ndarray]  # bool [R, R]: all but the neck and what is below
    solid: np.ndarray  # bool [D, D, D] of the grid


def num_codes(dataset: ImageDataset) -> int | None:
    """Numbers of a head's code where a data set is portraits of the head model, whose latents say heads; else None."""
    return NUM_CODES if dataset.recipe.get("code_names") == list(CODE_NAMES) else None


def true_codes(G: Generator, seeds: Sequence[int], *, num_codes: int) -> np.ndarray:
    """Codes [N, K] of the heads that seeds were meant to be: float32, standard normal."""
    return latents_to_codes(seed_latents(G, seeds).cpu(), num_codes).numpy()


def codes_behind(name: str, G: Generator, seeds: Sequence[int], num_codes: int | None) -> np.ndarray | None:
    """`true_codes` of the network that is called `name`, or None where nobody knows them.

    num_codes: as the data set says; None = its heads have no codes of the head model. Latents that are too short for
    codes are worth a line of the log.
    """
    if num_codes is None:
        return None
    try:
        return true_codes(G, seeds, num_codes=num_codes)
    except ValueError as error:
        log.warning("%s: %s; its shapes are not compared with true heads", name, error)
        return None


def true_head(codes: np.ndarray, cameras: Sequence[np.ndarray], cfg: SurfaceConfig, *, focal: float) -> TrueHead:
    """Views from cameras c2w [4, 4] each, and the solid, of the head with code [K]."""
    subject = portrait(codes)
    views, faces, heads = zip(*(true_view(subject, c2w, cfg.resolution, focal=focal) for c2w in cameras), strict=True)
    return TrueHead(list(views), list(faces), list(heads), true_occupancy(codes, cfg.grid_resolution))


def true_view(
    subject: Portrait, c2w: np.ndarray, resolution: int, *, focal: float
) -> tuple[SurfaceView, np.ndarray, np.ndarray]:
    """What c2w [4, 4] sees of a head, and where that is face and sides, and where head: bool [R, R] each."""
    depth, normals, part = true_parts(subject, c2w, resolution, focal=focal)
    is_head = (part != NOTHING) & ~np.isin(part, NECK_AND_BELOW)
    return SurfaceView(depth, normals), np.isin(part, FACE_AND_SIDES), is_head


def made_head(
    volume: np.ndarray, cameras: Sequence[np.ndarray], cfg: SurfaceConfig, *, box_warp: float, focal: float
) -> tuple[list[SurfaceView], np.ndarray]:
    """The same views and the solid of a whole grid of raw density [D, D, D]; nothing if nothing crosses the level."""
    blank = SurfaceView(np.zeros((cfg.resolution,) * 2), np.zeros((cfg.resolution, cfg.resolution, 3)))
    solid = outer_solid(volume, LEVEL)
    try:
        mesh = extract_mesh(volume, box_warp=box_warp, resolution=len(volume))
    except NoSurface:
        return [blank] * len(cameras), np.zeros_like(solid)
    return made_views(mesh, cameras, cfg.resolution, focal=focal), solid


def made_views(
    mesh: trimesh.Trimesh, cameras: Sequence[np.ndarray], resolution: int, *, focal: float
) -> list[SurfaceView]:
    """What cameras c2w [4, 4] each see of a mesh."""
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    normals = vertex_normals(vertices, faces)
    return [SurfaceView(*depth_and_normals(vertices, faces, normals, c2w, resolution, focal=focal)) for c2w in cameras]


def normal_angles(known: SurfaceView, made: SurfaceView) -> np.ndarray:
    """Degrees [R, R] between the normals of two surfaces; they mean something where both are seen."""
    return np.degrees(np.arccos(np.clip((known.normals * made.normals).sum(-1), -1, 1)))


def errors(true: TrueHead, views: Sequence[SurfaceView], solid: np.ndarray, cfg: SurfaceConfig) -> dict[str, float]:
    """`normal_deg`, `depth`, `iou` and `seen` of one shape, as the columns say."""
    angles, is_seen, depths = [], [], []
    for known, is_face, is_head, made in zip(true.views, true.is_face, true.is_head, views, strict=True):
        both = is_face & (made.depth > 0)
        angles.append(normal_angles(known, made)[both])
        is_seen.append(both[is_face])
        difference = np.where(made.depth > 0, np.abs(made.depth - known.depth), cfg.depth_bound)
        depths.append(np.minimum(difference, cfg.depth_bound)[is_head])
    above = np.linspace(-0.5, 0.5, solid.shape[1]) > cfg.shoulders_y
    wanted, found = true.solid[:, above], solid[:, above]
    angle, depth, seen = (np.concatenate(parts) for parts in (angles, depths, is_seen))
    return {
        "normal_deg": float(angle.mean()) if len(angle) else 180.0,
        "depth": float(depth.mean()),
        "iou": float((wanted & found).sum() / max((wanted | found).sum(), 1)),
        "seen": float(seen.mean()),
    }


def head_behind(G: Generator, code: np.ndarray, cfg: SurfaceConfig) -> TrueHead:
    """The head with code [K], seen by the cameras of `G`."""
    return true_head(code, _cameras(G, cfg), cfg, focal=float(G.camera.focal))


def sample_errors(G: Generator, sample: Sample, known: TrueHead, cfg: SurfaceConfig) -> dict[str, float]:
    """The `errors` of one sample of `G`."""
    volume = sample.field.density_grid(GridSpec(cfg.grid_resolution))[0].float().cpu().numpy()
    box_warp, focal = sample.field.box_warp, float(G.camera.focal)
    return errors(known, *made_head(volume, _cameras(G, cfg), cfg, box_warp=box_warp, focal=focal), cfg)


def camera_at(G: Generator, yaw: float) -> np.ndarray:
    """c2w [4, 4] of the cameras of `G`, `yaw` radians from the frontal one."""
    return split_label(G.camera.label(yaw))[0][0].double().numpy()


def _cameras(G: Generator, cfg: SurfaceConfig) -> list[np.ndarray]:
    return [camera_at(G, yaw) for yaw in cfg.yaws]


@torch.no_grad()
def truth(
    networks: Mapping[str, Generator], num_codes: int, cfg: TruthConfig, *, advance: Advance = ignore
) -> pd.DataFrame:
    """One row an arm and seed (COLUMNS). The true head of a seed is that of its latent in START, for all arms."""
    seeds = range(cfg.first_seed, cfg.first_seed + cfg.num_seeds)
    codes = cfg.psi * true_codes(networks[START], seeds, num_codes=num_codes)
    rows = []
    for seed, code in zip(seeds, codes, strict=True):
        known = None
        for arm, G in networks.items():
            known = head_behind(G, code, cfg) if known is None else known
            found = sample_errors(G, sample_seeds(G, [seed], SampleConfig(psi=cfg.psi)), known, cfg)
            rows.append({"arm": arm, "seed": seed, "psi": cfg.psi, **found})
            advance()
    return pd.DataFrame(rows, columns=list(COLUMNS))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, start among them (SUMMARY_COLUMNS). Raises ValueError when arms have different seeds."""
    values = {name: by_seed(table, name) for name in METRICS}
    rows = []
    for arm in table["arm"].unique():
        better = wilson(int((values["depth"][arm] < values["depth"][START]).sum()), len(values["depth"]))
        row = {"arm": arm, "psi": float(table["psi"].iloc[0]), "n": len(values["depth"])}
        row |= {name: float(values[name][arm].median()) for name in METRICS}
        row |= median_change(values["normal_deg"][arm], values["normal_deg"][START]).columns("normal_change")
        row |= median_change(values["depth"][arm], values["depth"][START]).columns("depth_change")
        row |= {"depth_better": better.count, "depth_better_share": better.value}
        row |= {"depth_better_low": better.low, "depth_better_high": better.high}
        row["iou_better_share"] = float((values["iou"][arm] > values["iou"][START]).mean())
        rows.append(row)
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def findings(tables: Tables) -> list[Finding]:
    """What was asked of the tuned arm and of the others, by the true heads."""
    rows, found = tables[SUMMARY].set_index("arm"), []
    for arm, row in rows.drop(index=START).iterrows():
        is_tuned = arm == "tuned"
        low, high, n = row["normal_change_low"], row["normal_change_high"], f"{int(row['n'])} seeds"
        wanted = f"{REQUIRED_NORMALS:.0%} less" if is_tuned else f"less than {REQUIRED_OTHERS} of the tuned arm's"
        tuned = float(rows.loc["tuned", "normal_change"]) if "tuned" in rows.index else float("nan")
        change = float(row["normal_change"])
        is_met = change <= -REQUIRED_NORMALS if is_tuned else abs(change) < REQUIRED_OTHERS * abs(tuned)
        what = f"{arm}: median normal error over face and sides against the true heads"
        found.append(Finding(what, wanted, f"{change:+.1%} ({low:+.1%} to {high:+.1%})", n, bool(is_met)))
        share = Share(int(row["depth_better"]), int(row["n"]), row["depth_better_low"], row["depth_better_high"])
        found.append(
            Finding.of_share(
                f"{arm}: held-out seeds whose depth error against the true head fell",
                share,
                of="seeds",
                required=f"{REQUIRED_DEPTH:.0%} or more" if is_tuned else "for comparison",
                is_met=share.value >= REQUIRED_DEPTH if is_tuned else None,
            )
        )
    return found


def run(context: Context) -> dict[str, pd.DataFrame]:
    cfg: TruthConfig = context.cfg
    num = num_codes(context.dataset)
    if num is None:
        raise ValueError(
            f"truth: the data set {context.dataset.path} holds no portraits of the head model, whose codes say which "
            "head a seed is; leave this measure out"
        )
    with progress_bar("shapes compared with true heads", len(context.networks) * cfg.num_seeds) as advance:
        table = truth(context.networks, num, cfg, advance=advance)
    return {SEEDS: table, SUMMARY: summary(table)}


MEASURE = Measure(
    name="truth",
    Config=TruthConfig,
    inputs=(Input.NETWORKS, Input.DATA),
    tables=(Table(SEEDS, COLUMNS), Table(SUMMARY, SUMMARY_COLUMNS)),
    run=run,
    figures=(
        Figure(
            "truth",
            "Error of the surface against the true head behind each held-out seed, before and after, one point a "
            "seed; below the line = nearer to the truth. Above: normals over face and sides. Below: depth.",
            tables=(SEEDS,),
            draw=charts.draw_truth,
        ),
    ),
    findings=findings,
)
