"""Sheets of pictures: the same seeds side by side, render, surface and its error, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import PIL.Image

from paper_result_analyses.arms import START
from paper_result_analyses.figures.drawing import blank, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from paper_result_analyses.measure.tables import Tables

RENDER, SURFACE, ANGLE = "render", "surface", "angle"  # kinds of pictures
TRUE_HEAD = "true head"  # whose surface stands among those of the arms
NOT_COMPARED = 255  # in a picture of angles, whose other values are degrees

COLUMN_NAMES = {START: "before", "tuned": "after", TRUE_HEAD: "true head"}  # of others their own
CELL_INCHES = 1.07  # across
GAP, MARGIN, LEFT = 0.06, 0.16, 0.30  # inches between cells, between groups, and for the names of seeds
HEAD, FOOT = 0.62, 0.50  # inches above the cells, and below, for the colour bar
WINDOW = (0.14, 0.86, 0.02, 0.94)  # part of a picture that is shown: left, right, top, bottom
SIDE_SHIFT = 0.1  # of a picture: how far the window goes towards the back of a head in profile
LARGEST_ANGLE = 40.0  # degrees: the end of the colours
COLOURS = "YlOrRd"
FONT = 12


class Column(NamedTuple):
    """One picture of every seed."""

    arm: str
    kind: str
    yaw: float


class Group(NamedTuple):
    """Columns of one kind of picture, side by side."""

    title: str
    columns: Sequence[Column]


def draw_pair(tables: Tables, out: Path, *, arm: str) -> Path:
    """One row a seed: renders and surfaces of the start beside those of `arm` and, where it is known, of the true head;
    then the angles between each and the true surface, with their means."""
    table = tables["pictures"]
    seeds, groups = list(table.loc[table["arm"] == arm, "seed"].unique()), _groups(table, arm)
    num_columns = sum(len(group.columns) for group in groups)
    across, high = CELL_INCHES, CELL_INCHES * (WINDOW[3] - WINDOW[2]) / (WINDOW[1] - WINDOW[0])
    width = LEFT + num_columns * (across + GAP) + len(groups) * (MARGIN - GAP)
    has_angles = any(group.columns[0].kind == ANGLE for group in groups)
    height = HEAD + len(seeds) * (high + GAP) + (FOOT if has_angles else 0)
    figure, x = blank(width, height), LEFT

    def box(left: float, top: float, wide: float, tall: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + tall) / height, wide / width, tall / height))

    def write(text: str, left: float, top: float, **look: Any) -> None:
        figure.text(left / width, 1 - top / height, text, ha="center", va="center", **{"fontsize": FONT, **look})

    for group in groups:
        wide = len(group.columns) * (across + GAP) - GAP
        write(group.title, x + wide / 2, 0.17, weight="bold")
        if group.columns[0].kind == ANGLE:
            _colour_bar(figure, box(x, height - FOOT + 0.04, wide, 0.12))
        for column in group.columns:
            write(COLUMN_NAMES.get(column.arm, column.arm), x + across / 2, 0.45)
            for row, seed in enumerate(seeds):
                at = box(x, HEAD + row * (high + GAP), across, high)
                _show(at, tables.folder / _file(table, column, seed), column)
            x += across + GAP
        x += MARGIN - GAP
    for row, seed in enumerate(seeds):
        write(f"seed {seed}", 0.14, HEAD + row * (high + GAP) + high / 2, fontsize=FONT - 2, rotation=90)
    return save(figure, out)


def _groups(table: pd.DataFrame, arm: str) -> list[Group]:
    """What is shown, as far as the table has it."""
    shown, groups = table[["arm", "kind", "yaw"]].drop_duplicates(), []
    for kind, yaw in shown[["kind", "yaw"]].drop_duplicates().itertuples(index=False, name=None):
        there = set(shown.loc[(shown["kind"] == kind) & (shown["yaw"] == yaw), "arm"])
        columns = [Column(each, kind, yaw) for each in (START, arm, TRUE_HEAD) if each in there]
        groups.append(Group(_title(kind, yaw), columns))
    return sorted(groups, key=lambda group: (RENDER, SURFACE, ANGLE).index(group.columns[0].kind))


def _title(kind: str, yaw: float) -> str:
    if kind == RENDER:
        return "render"
    if kind == ANGLE:
        return "angle to true surface"
    return "surface, front" if yaw == 0 else f"surface, {abs(np.degrees(yaw)):.0f}° to the side"


def _file(table: pd.DataFrame, column: Column, seed: int) -> str:
    is_it = (table["arm"] == column.arm) & (table["seed"] == seed)
    is_it &= (table["kind"] == column.kind) & (table["yaw"] == column.yaw)
    return str(table.loc[is_it, "file"].iloc[0])


def _show(axes: Axes, path: Path, column: Column) -> None:
    """The window of one picture; of a picture of angles, colours and the mean."""
    with PIL.Image.open(path) as image:
        pixels = np.asarray(image)
    rows, columns = pixels.shape[:2]
    if column.kind == ANGLE:
        degrees = np.ma.masked_equal(pixels, NOT_COMPARED)
        axes.imshow(degrees, cmap=COLOURS, vmin=0, vmax=LARGEST_ANGLE, interpolation="antialiased")
        if degrees.count():
            words = f"mean {degrees.mean():.1f}°"
            axes.text(0.5, 1.0, words, transform=axes.transAxes, ha="center", va="top", fontsize=FONT)
    else:
        axes.imshow(pixels, interpolation="bilinear")
    left, right, top, bottom = WINDOW
    shift = SIDE_SHIFT * np.sin(column.yaw)
    axes.set(
        xlim=((left + shift) * columns - 0.5, (right + shift) * columns - 0.5),
        ylim=(bottom * rows - 0.5, top * rows - 0.5),
    )
    axes.set_axis_off()
    axes.set_aspect("auto")


def _colour_bar(figure: Figure, axes: Axes) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(0, LARGEST_ANGLE), COLOURS)
    bar = figure.colorbar(colours, cax=axes, orientation="horizontal", extend="max")
    bar.set_ticks([0, 10, 20, 30, 40], labels=["0°", "10°", "20°", "30°", "40°"], fontsize=FONT - 2)
    bar.outline.set_visible(False)  # type: ignore[operator]
