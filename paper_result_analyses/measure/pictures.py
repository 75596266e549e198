"""Renders and shaded meshes of the same seeds by every arm, as PNG files with a table that lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import PIL.Image
import torch

from eg3d.config_checks import at_least
from eg3d.ops.density_grid.grid import GridSpec
from eg3d.pictures import to_uint8
from eg3d.progress import Advance, ignore, progress_bar
from eg3d.representations.mesh import extract_mesh
from eg3d.safe_write import atomic_path
from eg3d.samples import SampleConfig, sample_seeds
from paper_result_analyses.arms import CONTROL
from paper_result_analyses.figures.sheets import MESH, RENDER, draw_pair
from paper_result_analyses.measure.context import Context
from paper_result_analyses.measure.protocol import Figure, Input, Measure, Table
from paper_result_analyses.measure.shading import shade_mesh

if TYPE_CHECKING:
    from eg3d.generators.protocol import Generator

TABLE = "pictures"
COLUMNS = {
    "arm": "network: start, tuned, control, continuation",
    "seed": "seed of the latent",
    "kind": "render (the generator's image) or shaded mesh (level set of its density, our rasteriser)",
    "yaw": "radians from the frontal camera",
    "file": "PNG, relative to the folder of this table",
}


@dataclass
class PicturesConfig(SampleConfig):
    """Which seeds are shown: the first held-out ones, so that nobody picks."""

    first_seed: int = 200000
    num_seeds: int = 6
    mesh_yaws: list[float] = field(default_factory=lambda: [-0.4, 0.4])  # radians
    resolution: int = 224  # px of a shaded mesh
    grid_resolution: int = 128  # points a side of the density grid behind a mesh
    level: float = 10.0  # raw density of the surface
    border: float = 30 / 256  # fraction masked at each side, as published

    def validate(self) -> list[str]:
        return super().validate() + at_least(self, 1, "num_seeds")


@torch.no_grad()
def pictures(
    networks: Mapping[str, Generator],
    cfg: PicturesConfig,
    folder: str | Path,
    *,
    advance: Advance = ignore,
) -> pd.DataFrame:
    """Write the PNGs into `folder`/pictures; returns the table (COLUMNS) that lists them."""
    folder, rows = Path(folder), []
    for arm, G in networks.items():
        for seed in range(cfg.first_seed, cfg.first_seed + cfg.num_seeds):
            for kind, yaw, picture in seed_pictures(G, seed, cfg):
                file = f"pictures/{arm}_{seed}_{kind.replace(' ', '_')}_{yaw:+.2f}.png"
                _save(folder / file, picture)
                rows.append({"arm": arm, "seed": seed, "kind": kind, "yaw": yaw, "file": file})
            advance()
    return pd.DataFrame(rows, columns=list(COLUMNS))


@torch.no_grad()
def seed_pictures(G: Generator, seed: int, cfg: PicturesConfig) -> list[tuple[str, float, np.ndarray]]:
    """(kind, yaw, uint8 picture [R, R, 3]) of one seed: the frontal render, then its mesh from each yaw."""
    sample = sample_seeds(G, [seed], cfg)
    frontal = G.camera.canonical().to(sample.ws)
    image = to_uint8(G.render(sample.field, sample.ws, frontal).final[0]).permute(1, 2, 0).cpu().numpy()
    made = [(RENDER, 0.0, image)]
    volume = sample.field.density_grid(GridSpec(cfg.grid_resolution))[0]
    try:
        mesh = extract_mesh(
            volume,
            level=cfg.level,
            box_warp=sample.field.box_warp,
            resolution=cfg.grid_resolution,
            border=cfg.border,
        )
    except ValueError:  # nothing crosses the level: an empty picture says so
        blank = np.full((cfg.resolution, cfg.resolution, 3), 255, np.uint8)
        return made + [(MESH, yaw, blank) for yaw in cfg.mesh_yaws]
    return made + [(MESH, yaw, shade_mesh(mesh, G.camera.label(yaw), cfg.resolution)) for yaw in cfg.mesh_yaws]


def _save(path: Path, picture: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        PIL.Image.fromarray(picture).save(temporary)


def run(context: Context) -> dict[str, pd.DataFrame]:
    with progress_bar("seeds drawn", len(context.networks) * context.cfg.num_seeds) as advance:
        return {TABLE: pictures(context.networks, context.cfg, context.folder, advance=advance)}


MEASURE = Measure(
    name="pictures",
    Config=PicturesConfig,
    inputs=(Input.NETWORKS,),
    tables=(Table(TABLE, COLUMNS, text=("arm", "kind", "file"), file_column="file"),),
    run=run,
    figures=(
        Figure(
            "tuned",
            "Before and after fine-tuning with the reward: the same held-out seeds, not selected. Left the generator's "
            "own render, right two views of the surface of its density (marching cubes, our own shading).",
            tables=(TABLE,),
            draw=partial(draw_pair, arm="tuned"),
            arm="tuned",
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
