"""Renders and surfaces of the same seeds by every arm, as PNG files with a table that lists them.

Where the data set is portraits of the head model, also the true head behind each seed, and how far surfaces are turned
from its. Shape letter: R picture side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import PIL.Image
import torch

from dataset_preprocessing.human_heads.portrait import Portrait, portrait
from eg3d.config_checks import at_least
from eg3d.ops.density_grid.grid import GridSpec
from eg3d.pictures import to_uint8
from eg3d.progress import Advance, ignore, progress_bar
from eg3d.representations.mesh import NoSurface, extract_mesh
from eg3d.safe_write import atomic_path
from eg3d.samples import Sample, SampleConfig, sample_seeds
from paper_result_analyses.arms import CONTROL, START, TUNED
from paper_result_analyses.figures.sheets import ANGLE, NOT_COMPARED, RENDER, SURFACE, TRUE_HEAD, draw_pair
from paper_result_analyses.measure import truth
from paper_result_analyses.measure.context import Context
from paper_result_analyses.measure.protocol import Figure, Input, Measure, Table
from paper_result_analyses.measure.shading import shade_mesh

if TYPE_CHECKING:
    import trimesh

    from eg3d.generators.protocol import Generator

TABLE = "pictures"
COLUMNS = {
    "arm": "network: start, tuned, control, continuation; or the true head behind the seed",
    "seed": "seed of the latent",
    "kind": "render (the generator's image), surface (level set of its density, shaded by our rasteriser) or angle (to "
    "the true surface where both are seen, over face and sides: grey level = degrees, 255 = not compared)",
    "yaw": "radians from the frontal camera",
    "file": "PNG, relative to the folder of this table",
}


@dataclass
class PicturesConfig(SampleConfig):
    """Which seeds are shown: the first held-out ones, so that nobody picks."""

    first_seed: int = 200000
    num_seeds: int = 4
    surface_yaws: list[float] = field(default_factory=lambda: [0.0, 0.9])  # radians
    angle_yaw: float = 0.0  # radians: from where angles to the true surface are seen
    resolution: int = 288  # px of a surface
    grid_resolution: int = 128  # points a side of the density grid behind a surface
    level: float = 10.0  # raw density of the surface
    border: float = 30 / 256  # fraction masked at each side, as published

    def validate(self) -> list[str]:
        return super().validate() + at_least(self, 1, "num_seeds", "resolution")


class Picture(NamedTuple):
    """One picture of a seed."""

    kind: str
    yaw: float
    pixels: np.ndarray  # uint8 [R, R, 3], or degrees [R, R] where it shows angles


@torch.no_grad()
def pictures(
    networks: Mapping[str, Generator],
    cfg: PicturesConfig,
    folder: str | Path,
    *,
    num_codes: int | None = None,
    advance: Advance = ignore,
) -> pd.DataFrame:
    """Write the PNGs into `folder`/pictures; returns the table (COLUMNS) that lists them.

    num_codes: as for `truth.codes_behind`; where the heads behind the seeds of START are known, their surfaces and the
    angles to them are among the pictures.
    """
    import trimesh

    folder, rows = Path(folder), []
    seeds = range(cfg.first_seed, cfg.first_seed + cfg.num_seeds)
    codes = truth.codes_behind(START, networks[START], seeds, num_codes)
    for number, seed in enumerate(seeds):
        subject = None if codes is None else portrait(cfg.psi * codes[number])
        shown = {arm: seed_pictures(G, seed, cfg, subject) for arm, G in networks.items()}
        if subject is not None:
            mesh = trimesh.Trimesh(subject.vertices, subject.faces, process=False)
            shown[TRUE_HEAD] = surfaces(mesh, networks[START], cfg)
        for arm, made in shown.items():
            for kind, yaw, pixels in made:
                file = f"pictures/{arm.replace(' ', '_')}_{seed}_{kind}_{yaw:+.2f}.png"
                _save(folder / file, pixels)
                rows.append({"arm": arm, "seed": seed, "kind": kind, "yaw": yaw, "file": file})
        advance(len(networks))
    return pd.DataFrame(rows, columns=list(COLUMNS))


@torch.no_grad()
def seed_pictures(G: Generator, seed: int, cfg: PicturesConfig, subject: Portrait | None = None) -> list[Picture]:
    """The frontal render of a seed, its surface from each yaw and, with the true head, the angles to its surface."""
    sample = sample_seeds(G, [seed], cfg)
    frontal = G.camera.canonical().to(sample.ws)
    image = to_uint8(G.render(sample.field, sample.ws, frontal).final[0]).permute(1, 2, 0).cpu().numpy()
    mesh = _mesh(sample, cfg)
    made = [Picture(RENDER, 0.0, image), *surfaces(mesh, G, cfg)]
    return made if subject is None else [*made, Picture(ANGLE, cfg.angle_yaw, angles(mesh, G, subject, cfg))]


def surfaces(mesh: trimesh.Trimesh | None, G: Generator, cfg: PicturesConfig) -> list[Picture]:
    """A mesh from each yaw of the cameras of `G`; without one the pictures are empty."""
    blank = np.full((cfg.resolution, cfg.resolution, 3), 255, np.uint8)
    return [
        Picture(SURFACE, yaw, blank if mesh is None else shade_mesh(mesh, G.camera.label(yaw), cfg.resolution))
        for yaw in cfg.surface_yaws
    ]


def angles(mesh: trimesh.Trimesh | None, G: Generator, subject: Portrait, cfg: PicturesConfig) -> np.ndarray:
    """Degrees between a mesh and the true surface where both are seen, over face and sides; NOT_COMPARED elsewhere.

    uint8 [R, R].
    """
    found = np.full((cfg.resolution, cfg.resolution), NOT_COMPARED, np.uint8)
    if mesh is None:
        return found
    c2w, focal = truth.camera_at(G, cfg.angle_yaw), float(G.camera.focal)
    known, is_face, _ = truth.true_view(subject, c2w, cfg.resolution, focal=focal)
    (made,) = truth.made_views(mesh, [c2w], cfg.resolution, focal=focal)
    both = is_face & (made.depth > 0)
    found[both] = truth.normal_angles(known, made)[both].round()
    return found


def _mesh(sample: Sample, cfg: PicturesConfig) -> trimesh.Trimesh | None:
    """The surface of one sample; None where nothing crosses the level."""
    volume, box_warp = sample.field.density_grid(GridSpec(cfg.grid_resolution))[0], sample.field.box_warp
    try:
        return extract_mesh(
            volume, level=cfg.level, box_warp=box_warp, resolution=cfg.grid_resolution, border=cfg.border
        )
    except NoSurface:
        return None


def _save(path: Path, picture: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        PIL.Image.fromarray(picture).save(temporary)


def run(context: Context) -> dict[str, pd.DataFrame]:
    networks, cfg, num_codes = context.networks, context.cfg, truth.num_codes(context.dataset)
    with progress_bar("seeds drawn", len(networks) * cfg.num_seeds) as advance:
        return {TABLE: pictures(networks, cfg, context.folder, num_codes=num_codes, advance=advance)}


MEASURE = Measure(
    name="pictures",
    Config=PicturesConfig,
    inputs=(Input.NETWORKS, Input.DATA),
    tables=(Table(TABLE, COLUMNS, text=("arm", "kind", "file"), file_column="file"),),
    run=run,
    figures=(
        Figure(
            "tuned",
            "Before and after fine-tuning with the reward: the first held-out seeds, not selected. The generator's own "
            "render, then the surface of its density (marching cubes, our own shading). Where the data set says the "
            "true head behind a seed, its surface is beside, and the angles between each surface and the true one over "
            "face and sides, with their mean.",
            tables=(TABLE,),
            draw=partial(draw_pair, arm=TUNED),
            arm=TUNED,
        ),
        Figure(
            "control",
            "The same seeds in the control: the same run without the reward term.",
            tables=(TABLE,),
            draw=partial(draw_pair, arm=CONTROL),
            arm=CONTROL,
        ),
    ),
)
