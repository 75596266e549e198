"""Does a generator make heads with relief? Two yes/no answers per seed, from its depth map and from its density mesh.

Nose nearest: in the depth map of the canonical camera, the pixel nearest to the camera (among those whose opacity is at
least `opacity`) lies in the window where a nose must be. The window is given in image fractions from the top left; its
default holds the nearest point of 499 of 500 portraits of the head model (landmark 30: x 0.496 to 0.504, y 0.558 to
0.655).

One main component: marching cubes of the whole density grid at `level`, its border masked, gives a surface of which the
largest connected piece holds at least `main_share` of the vertices.

Shape letters: R side of the depth map.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from eg3d.generators.protocol import Generator, device_of
from eg3d.ops.density_grid.grid import GridSpec
from eg3d.progress import Advance, ignore, progress_bar
from eg3d.representations.mesh import extract_mesh
from eg3d.samples import SampleConfig, sample_seeds
from paper_result_analyses.measure.context import Context
from paper_result_analyses.measure.protocol import Finding, Input, Measure, Table
from paper_result_analyses.measure.tables import Tables
from reward_model_training.intervals import Share, wilson

TABLE = "twin_geometry"
COLUMNS = {
    "psi": "truncation strength, 1 = off",
    "seed": "seed of the latent",
    "nearest_x": "nearest pixel, image fraction from the left; empty = nothing opaque",
    "nearest_y": "nearest pixel, image fraction from the top",
    "is_nose_nearest": "the nearest pixel lies in the nose window",
    "nose_prominence": "world units between the nose window's nearest pixel and the median face depth around it",
    "num_components": "connected pieces of the density mesh; 0 = no surface",
    "main_vertex_share": "share of the mesh's vertices in its largest piece",
    "is_one_main": "main_vertex_share reaches the threshold",
}


@dataclass
class GeometryConfig:
    """Which seeds, and what counts as a nose and as one piece."""

    first_seed: int = 400000
    num_seeds: int = 100
    psis: list[float] = field(default_factory=lambda: [0.7, 1.0])
    depth_resolution_px: int = 64
    nose_x: tuple[float, float] = (0.42, 0.58)  # image fractions
    nose_y: tuple[float, float] = (0.53, 0.68)
    face_x: tuple[float, float] = (0.3, 0.7)  # around the nose: what prominence is measured against
    face_y: tuple[float, float] = (0.4, 0.8)
    opacity: float = 0.5  # pixels below it show nothing
    grid_resolution: int = 64  # points a side of the density grid
    level: float = 10.0  # raw density of the surface
    border: float = 30 / 256  # fraction masked at each side, as published
    main_share: float = 0.95

    def validate(self) -> list[str]:
        faults = [f"num_seeds: must be at least 1, got {self.num_seeds}"] if self.num_seeds < 1 else []
        for name in ("nose_x", "nose_y", "face_x", "face_y"):
            low, high = getattr(self, name)
            if not 0 <= low < high <= 1:
                faults.append(f"{name}: expected two rising image fractions, got {low}, {high}")
        return faults


@torch.no_grad()
def twin_geometry(G: Generator, cfg: GeometryConfig, *, advance: Advance = ignore) -> pd.DataFrame:
    """One row a psi and seed, with the columns of COLUMNS. Canonical camera, constant noise, deterministic rays."""
    c = G.camera.canonical().to(device_of(G))
    rows = []
    for psi in cfg.psis:
        for seed in range(cfg.first_seed, cfg.first_seed + cfg.num_seeds):
            sample = sample_seeds(G, [seed], SampleConfig(psi=psi))
            view = G.render(
                sample.field, sample.ws, c, neural_rendering_resolution=cfg.depth_resolution_px, superresolve=False
            )
            face = face_relief(view.image_depth[0, 0], view.opacity[0, 0], cfg)
            volume = sample.field.density_grid(GridSpec(cfg.grid_resolution))[0]
            rows.append({"psi": psi, "seed": seed, **face, **mesh_pieces(volume, cfg, sample.field.box_warp)})
            advance()
    return pd.DataFrame(rows, columns=list(COLUMNS))


def face_relief(depth: Tensor, opacity: Tensor, cfg: GeometryConfig) -> dict[str, float | bool]:
    """Where a depth map [R, R] (world units) is nearest, whether that is the nose window, and how far it stands out.

    opacity [R, R], 0 to 1. Without an opaque pixel nothing is nearest and the answer is False.
    """
    is_shown = opacity >= cfg.opacity
    if not bool(is_shown.any()):
        return {"nearest_x": np.nan, "nearest_y": np.nan, "is_nose_nearest": False, "nose_prominence": np.nan}
    shown = torch.where(is_shown, depth, torch.full_like(depth, float("inf")))
    rows, columns = depth.shape
    y, x = divmod(int(shown.argmin()), columns)
    at_x, at_y = (x + 0.5) / columns, (y + 0.5) / rows
    is_nose = cfg.nose_x[0] <= at_x <= cfg.nose_x[1] and cfg.nose_y[0] <= at_y <= cfg.nose_y[1]
    nose = _window(depth.shape, cfg.nose_x, cfg.nose_y, depth.device)
    around = _window(depth.shape, cfg.face_x, cfg.face_y, depth.device) & ~nose & is_shown
    is_seen = bool(around.any()) and bool((nose & is_shown).any())
    prominence = float(depth[around].median() - shown[nose].min()) if is_seen else np.nan
    return {"nearest_x": at_x, "nearest_y": at_y, "is_nose_nearest": is_nose, "nose_prominence": prominence}


def mesh_pieces(volume: Tensor, cfg: GeometryConfig, box_warp: float = 1.0) -> dict[str, float | int | bool]:
    """Pieces of the surface in a whole grid of raw density [D, D, D]."""
    try:
        mesh = extract_mesh(volume, level=cfg.level, box_warp=box_warp, resolution=volume.shape[0], border=cfg.border)
    except ValueError:  # nothing crosses the level
        return {"num_components": 0, "main_vertex_share": 0.0, "is_one_main": False}
    sizes = component_sizes(np.asarray(mesh.faces), len(mesh.vertices))
    share = float(sizes[0] / sizes.sum())
    return {"num_components": len(sizes), "main_vertex_share": share, "is_one_main": share >= cfg.main_share}


def component_sizes(faces: np.ndarray, num_vertices: int) -> np.ndarray:
    """Vertices of each connected piece of a mesh with faces [F, 3], largest first; loose vertices do not count."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(num_vertices, num_vertices))
    _, label = connected_components(graph, directed=False)
    sizes = np.bincount(label[np.unique(faces)])
    return np.sort(sizes[sizes > 0])[::-1]


def shares(table: pd.DataFrame) -> dict[float, dict[str, Share]]:
    """By psi: the share of seeds with the nose nearest (`nose`) and with one main component (`mesh`)."""
    return {
        float(psi): {
            "nose": wilson(int(rows["is_nose_nearest"].sum()), len(rows)),
            "mesh": wilson(int(rows["is_one_main"].sum()), len(rows)),
        }
        for psi, rows in table.groupby("psi")
    }


def _window(shape: torch.Size, across: tuple[float, float], down: tuple[float, float], device: torch.device) -> Tensor:
    """bool [R, R]: pixels whose centres lie in a window of image fractions."""
    y = (torch.arange(shape[0], device=device) + 0.5) / shape[0]
    x = (torch.arange(shape[1], device=device) + 0.5) / shape[1]
    is_row, is_column = (y >= down[0]) & (y <= down[1]), (x >= across[0]) & (x <= across[1])
    return is_row[:, None] & is_column[None, :]


def findings(tables: Tables) -> list[Finding]:
    """Both answers for every psi."""
    found = []
    for psi, share in shares(tables[TABLE]).items():
        for key, what in (("nose", "nose region nearest in the depth map"), ("mesh", "density mesh is one main piece")):
            what = f"generator at psi {psi:g}: {what}"
            found.append(Finding.of_share(what, share[key], of="seeds", required="shown"))
    return found


def run(context: Context) -> dict[str, pd.DataFrame]:
    cfg: GeometryConfig = context.cfg
    with progress_bar("shapes looked at", len(cfg.psis) * cfg.num_seeds) as advance:
        return {TABLE: twin_geometry(context.start, cfg, advance=advance)}


MEASURE = Measure(
    name="geometry",
    Config=GeometryConfig,
    inputs=(Input.START,),
    tables=(Table(TABLE, COLUMNS, text=()),),
    run=run,
    findings=findings,
)
