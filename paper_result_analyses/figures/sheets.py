"""Sheets of pictures: the same seeds side by side, render and shaded mesh, before and after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import PIL.Image

from paper_result_analyses.arms import START
from paper_result_analyses.figures.drawing import NAMES, canvas, save

if TYPE_CHECKING:
    from paper_result_analyses.measure.tables import Tables

RENDER, MESH = "render", "shaded mesh"  # kinds of pictures
CELL_INCHES = 1.28


def draw_pair(tables: Tables, out: Path, *, arm: str) -> Path:
    """One row a seed: render and shaded meshes of the start, then those of `arm`."""
    table, arms = tables["pictures"], (START, arm)
    seeds = list(table.loc[table["arm"] == arm, "seed"].unique())
    views = list(table[["kind", "yaw"]].drop_duplicates().itertuples(index=False, name=None))
    columns = len(arms) * len(views)
    figure, axes = canvas(CELL_INCHES * columns + 0.4, CELL_INCHES * len(seeds) + 0.5, rows=len(seeds), columns=columns)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    for column, (name, (kind, yaw)) in enumerate((name, view) for name in arms for view in views):
        title = kind if kind == RENDER else f"{kind}\nyaw {yaw:+.1f} rad"
        axes[0, column].set_title(f"{NAMES[name]}\n{title}", fontsize=7.5)
        for row, seed in enumerate(seeds):
            _show(axes[row, column], tables.folder / _file(table, name, seed, kind, yaw))
    for row, seed in enumerate(seeds):
        axes[row, 0].set_ylabel(f"seed {seed}", fontsize=7)
    return save(figure, out)


def _file(table: pd.DataFrame, arm: str, seed: int, kind: str, yaw: float) -> str:
    is_it = (table["arm"] == arm) & (table["seed"] == seed) & (table["kind"] == kind) & (table["yaw"] == yaw)
    return str(table.loc[is_it, "file"].iloc[0])


def _show(axes, path: Path) -> None:
    with PIL.Image.open(path) as image:
        axes.imshow(np.asarray(image), interpolation="bilinear")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
