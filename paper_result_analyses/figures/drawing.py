"""What every figure shares: a canvas without a display, the colours of the arms, a file that is the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eg3d.safe_write import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"start": "#7a7a7a", "tuned": "#1b7f6b", "control": "#c8762b", "continuation": "#6a5acd"}
NAMES = {
    "start": "before",
    "tuned": "tuned with the reward",
    "control": "control (no reward)",
    "continuation": "plain continuation",
}
DPI = 150


def blank(width: float, height: float) -> Figure:
    """A figure of `width` by `height` inches without axes, whose parts are put by hand."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def canvas(width: float, height: float, *, rows: int = 1, columns: int = 1):
    """A figure of `width` by `height` inches and its array of axes [rows, columns]."""
    figure = blank(width, height)
    figure.set_layout_engine("constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Figure, path: str | Path) -> Path:
    """Write the PNG atomically, without the time or version that would change its bytes."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, metadata={"Software": None})
    return Path(path)


def plain(axes) -> None:
    """Only the two axes that carry numbers, and a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
