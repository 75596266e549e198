"""The report of a run: one HTML file that needs no other, with its PNGs beside it.

Reads the tables of the measures and the stage records of the pipeline, draws the figures, and states every number with
its size and interval. What stands in for something else is called so. What is shown of a measure is its own business.
"""

from __future__ import annotations

import html
import logging
import os
import platform
from pathlib import Path
from typing import Any

import pandas as pd

from eg3d.progress import duration
from eg3d.run_folder import code_version, versions
from eg3d.safe_write import write_text
from paper_result_analyses.measure.protocol import Figure, Finding, Measure
from paper_result_analyses.measure.tables import Tables, read_sidecar
from paper_result_analyses.page import data_table, figure, findings_table, page, paragraph, section
from paper_result_analyses.registry import MEASURES, figures
from paper_result_analyses.stages import read_records

log = logging.getLogger(__name__)
STAND_INS = (
    '<p class="note">Everything below was made on portraits of a head model with a <strong>simulated annotator'
    "</strong>, which stands in for people: no person ranked anything. See the last section for what that leaves "
    "open.</p>"
)
LIMITS = (
    "Three things here stand in for what the paper used. The pictures are renderings of a statistical model of heads, "
    "not photographs (FFHQ is not shipped, and its licence does not allow it to be). The annotators are simulated: "
    "programs that compare a surface with that model, or score it by rules, so their agreement says that the method "
    "follows the preferences it was given, not that people would agree. Image distances use fixed random "
    "convolutions, not the Inception network, and compare only with other numbers of this report. Not reproduced "
    "here: training on FFHQ at 512 pixels, the released EG3D and reward weights, and the paper's study with people, "
    "which need data, weights, GPUs and raters. The same code runs them; only configs differ."
)


def write_report(folder: str | Path, *, title: str) -> Path:
    """Draw the figures of the run in `folder` and write `folder`/report.html; returns its path.

    Tables are read from `folder`/tables, stage records from `folder`/stages; what is not there is left out. Raises
    ValueError (one line that names the file) for a damaged one.
    """
    folder = Path(folder)
    measured = _measured(folder / "tables")
    found: list[Finding] = [finding for measure, tables in measured for finding in measure.findings(tables)]
    drawn = draw_figures(folder / "tables", folder)
    body = [
        STAND_INS,
        section("Results", findings_table(found)),
        *(figure(number, entry.caption, png) for number, entry, png in drawn),
        *(part for measure, tables in measured for part in _sections(measure, tables)),
        section("What was run", _stages(folder / "stages") + _machine()),
        section("Where the numbers come from", _sources(folder / "tables")),
        section("What this is not", paragraph(LIMITS)),
    ]
    write_text(folder / "report.html", page(title, body))
    return folder / "report.html"


def _measured(folder: Path) -> list[tuple[Measure, Tables]]:
    """Measures whose tables are there, with them; one that has only some of its tables is left out with a warning."""
    found = []
    for measure in MEASURES.values():
        tables = Tables(folder, measure.tables)
        missing = tables.missing()
        if not missing:
            found.append((measure, tables))
        elif len(missing) < len(measure.tables):
            log.warning("%s: left out of the report, %s lacks %s.csv", measure.name, folder, ".csv, ".join(missing))
    return found


def draw_figures(tables: str | Path, out: str | Path) -> list[tuple[int, Figure, Path]]:
    """Draw every figure that the tables in the folder `tables` have rows for; returns numbers, figures and PNG files.

    Raises ValueError (one line that names the file) for a damaged table.
    """
    drawn = []
    for number, measure, entry in figures():
        read = Tables(tables, measure.tables)
        if _can_be_drawn(entry, read):
            drawn.append((number, entry, entry.draw(read, Path(out) / f"figure{number}_{entry.name}.png")))
    return drawn


def _can_be_drawn(entry: Figure, tables: Tables) -> bool:
    """Whether the tables of a figure are there, with rows, and with the arm that it shows."""
    if not all(name in tables and len(tables[name]) for name in entry.tables):
        return False
    return entry.arm is None or entry.arm in set(tables[entry.tables[0]]["arm"])


def _sections(measure: Measure, tables: Tables) -> list[str]:
    return [
        section(part.title, "".join(paragraph(words) + data_table(table) for words, table in part.parts))
        for part in measure.sections(tables)
    ]


def _stages(folder: Path) -> str:
    records = read_records(folder)
    if not records:
        return ""
    rows = [
        {
            "stage": record["stage"],
            "the same by hand": record["command"],
            "seconds": round(record["seconds"], 1),
            "peak memory, GB": round(record["peak_memory_gb"], 2),
            "sessions": record["sessions"],
            "code": record["code_version"],
        }
        for record in records
    ]
    total = sum(record["seconds"] for record in records)
    at_once = [record["stage"] for record in records if record.get("beside")]
    beside = f" ({', '.join(at_once)} at once)" if at_once else ""
    peak = max(record["peak_memory_gb"] for record in records)
    command = html.escape(records[-1]["pipeline_command"])
    first = f"<p><code>{command}</code>: {duration(total)} in all stages{beside}, at most {peak:.2f} GB of memory.</p>"
    return first + data_table(pd.DataFrame(rows))


def _machine() -> str:
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    found = ", ".join(f"{name} {version}" for name, version in versions().items() if name != "code")
    return paragraph(
        f"Machine: {os.cpu_count()} CPU cores, {memory:.0f} GB of memory, {platform.system()} {platform.machine()}; "
        f"{found}; code {code_version()}."
    )


def _sources(folder: Path) -> str:
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.csv")):
        if path.name.startswith("."):  # half written by a run that was killed
            continue
        sidecar = read_sidecar(path)
        inputs = ", ".join(
            f"{name}: {item['file']} ({item['sha256'][:12]})" for name, item in sidecar.get("inputs", {}).items()
        )
        rows.append({"table": path.name, "rows": sidecar.get("rows"), "inputs (start of SHA-256)": inputs})
    return data_table(pd.DataFrame(rows)) if rows else paragraph("No tables yet.")
