"""Figures by number: which tables each one reads and which function draws it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paper_result_analyses.figures import charts, sheets

SIMULATED = "The annotator is simulated: a rule about surfaces that stands in for a person."


@dataclass(frozen=True)
class FigureEntry:
    """One figure of a report. `draw(folder of tables, PNG to write)` is fast and reads nothing else."""

    number: int
    name: str
    caption: str
    tables: tuple[str, ...]
    draw: Callable[[Path, Path], Path]

    @property
    def file(self) -> str:
        return f"figure{self.number}_{self.name}.png"


_ALL = (
    FigureEntry(
        1,
        "tuned",
        "Before and after fine-tuning with the reward: the same held-out seeds, not selected. Left the generator's own "
        "render, right two views of the surface of its density (marching cubes, our own shading).",
        (sheets.TABLE,),
        sheets.draw_tuned,
    ),
    FigureEntry(
        2,
        "control",
        "The same seeds in the control: the same run without the reward term.",
        (sheets.TABLE,),
        sheets.draw_control,
    ),
    FigureEntry(
        3,
        "preferences",
        "Share of held-out seeds preferred after tuning by the simulated annotator, without its noise, and share whose "
        f"reward rose; Wilson 95 % intervals. Dashed: the share asked for. {SIMULATED}",
        ("before_after_summary.csv",),
        charts.draw_preferences,
    ),
    FigureEntry(
        4,
        "rewards",
        "Reward of held-out seeds before and after. The reward model learnt from simulated rankings.",
        ("before_after.csv",),
        charts.draw_rewards,
    ),
    FigureEntry(
        5,
        "scores",
        f"Score of the simulated annotator before and after, one point a seed; above the line = better. {SIMULATED}",
        ("before_after.csv",),
        charts.draw_scores,
    ),
    FigureEntry(
        6,
        "trajectories",
        "Reward of fixed seeds along each fine-tuning run.",
        ("trajectories.csv",),
        charts.draw_trajectories,
    ),
)
FIGURES = {figure.number: figure for figure in _ALL}


def draw_all(tables: str | Path, out: str | Path) -> list[tuple[FigureEntry, Path]]:
    """Draw every figure whose tables are in the folder `tables` into `out`; returns figures and files, by number."""
    tables, out = Path(tables), Path(out)
    ready = [figure for figure in _ALL if all((tables / name).is_file() for name in figure.tables)]
    drawn = []
    for figure in ready:
        try:
            drawn.append((figure, figure.draw(tables, out / figure.file)))
        except ValueError:  # an arm that this run does not have
            continue
    return drawn
