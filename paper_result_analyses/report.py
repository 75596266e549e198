"""The report of a run: one HTML file that needs no other, with its PNGs beside it.

Reads the tables of the measure steps and the stage records of the pipeline, draws the figures, and states every number
with its size and interval. What stands in for something else is called so.
"""

from __future__ import annotations

import base64
import html
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from eg3d.metrics.random_convolutions import FEATURES_NAME
from eg3d.progress import duration
from eg3d.run_folder import code_version, versions
from eg3d.safe_write import write_text
from paper_result_analyses.measure import before_after, image_change, reward_accuracy, twin_geometry
from paper_result_analyses.measure.intervals import Share, wilson
from paper_result_analyses.measure.tables import read_sidecar, read_table
from paper_result_analyses.registry import draw_all

REQUIRED_ACCURACY, REQUIRED_ROSE, REQUIRED_PREFERRED = 0.85, 0.95, 0.70
REQUIRED_SEEDS = 200  # held-out pairs for the simulated annotator

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.35rem 0.6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
th { background: #f5f5f3; } td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.met { color: #1b7f6b; font-weight: 600; } .unmet { color: #a8380f; font-weight: 600; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #444; font-size: 0.9rem; margin-top: 0.4rem; }
code { background: #f5f5f3; padding: 0.1rem 0.3rem; overflow-wrap: anywhere; }
.note { background: #fbf6e9; border-left: 4px solid #d9b44a; padding: 0.6rem 1rem; }
"""


@dataclass(frozen=True)
class Finding:
    """One line of the table of results."""

    what: str
    required: str
    measured: str
    n: str
    verdict: str = ""  # met | not met | ""


def write_report(folder: str | Path, *, title: str) -> Path:
    """Draw the figures of the run in `folder` and write `folder`/report.html; returns its path.

    Tables are read from `folder`/tables, stage records from `folder`/stages; what is not there is left out.
    """
    folder = Path(folder)
    figures = draw_all(folder / "tables", folder)
    body = [
        f"<h1>{html.escape(title)}</h1>",
        stand_ins(),
        _section("Results", _findings(findings(folder / "tables"))),
        *(_figure(figure.number, figure.caption, path) for figure, path in figures),
        _section("Images before and after", _images(folder / "tables")),
        _section("What was run", _stages(folder) + _machine()),
        _section("Where the numbers come from", _sources(folder / "tables")),
        _section("What this is not", f"<p>{LIMITS}</p>"),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


LIMITS = (
    "Three things here stand in for what the paper used. The pictures are renderings of synthetic heads that this"
    " project makes, not photographs (FFHQ is not shipped, and its licence does not allow it to be). The "
    "annotator is simulated: a rule that scores roughness, stray pieces, holes, relief and symmetry of a surface, so "
    "its agreement says that the method follows the preferences it was given, not that people would agree. Image "
    "distances use fixed random convolutions, not the Inception network, and compare only with other numbers of "
    "this report. Not reproduced here: training on FFHQ at 512 pixels, the released EG3D and reward weights, and "
    "the paper's study with people, which need data, weights, GPUs and raters. The same code runs them; only "
    "configs differ."
)


def stand_ins() -> str:
    """The paragraph that every reader must see first."""
    return (
        '<p class="note">Everything below was made on synthetic heads with a <strong>simulated annotator</strong>, '
        "which stands in for people: no person ranked anything. See the last section for what that leaves open.</p>"
    )


def findings(tables: Path) -> list[Finding]:
    """Every figure that the run must show, as far as its tables are there."""
    found: list[Finding] = []
    if (path := tables / "reward_accuracy.csv").is_file():
        found += _reward_findings(read_table(path, columns=reward_accuracy.COLUMNS))
    if (path := tables / "before_after_summary.csv").is_file():
        found += _preference_findings(read_table(path, columns=before_after.SUMMARY_COLUMNS))
    if (path := tables / "image_pairs.csv").is_file():
        found += _identity_findings(read_table(path, columns=image_change.PAIR_COLUMNS))
    if (path := tables / "twin_geometry.csv").is_file():
        found += _geometry_findings(read_table(path, columns=twin_geometry.COLUMNS))
    return found


def _reward_findings(table: pd.DataFrame) -> list[Finding]:
    what = "Held-out accuracy of the reward: scalar head, regular samples, noise-free simulated order, "
    found = []
    for pairs, words in (("best_worst", "best against worst of a batch"), ("all", "all pairs of a batch")):
        row, is_headline = reward_accuracy.held_out_row(table, pairs), pairs == "best_worst"
        asked = f"{REQUIRED_ACCURACY:.2f} or more" if is_headline else "for comparison"
        if row is None:
            found += [Finding(what + words, asked, "not in the bundle", "0")] if is_headline else []
            continue
        share = Share(int(row["n_correct"]), int(row["n_examples"]), float(row["ci_low"]), float(row["ci_high"]))
        met = _verdict(share.value >= REQUIRED_ACCURACY) if is_headline else ""
        found.append(Finding(what + words, asked, _text(share), f"{share.total} pairs", met))
    return found


def _preference_findings(table: pd.DataFrame) -> list[Finding]:
    rows, found = table.set_index("arm"), []
    for arm, row in rows.iterrows():
        rose = Share(int(row["reward_rose"]), int(row["n"]), row["reward_rose_low"], row["reward_rose_high"])
        share = Share(int(row["preferred"]), int(row["n"]), row["preferred_low"], row["preferred_high"])
        n = f"{share.total} seeds"
        is_tuned = arm == "tuned"
        found.append(
            Finding(
                f"{arm}: held-out seeds whose reward rose",
                "95 of 100 or more" if is_tuned else "for comparison",
                _text(rose),
                n,
                _verdict(rose.value >= REQUIRED_ROSE) if is_tuned else "",
            )
        )
        short = "" if share.total >= REQUIRED_SEEDS else f" (of {REQUIRED_SEEDS}; here {share.total})"
        wanted = f"70 % or more{short}" if is_tuned else "clearly fewer" if arm == "control" else "for comparison"
        found.append(
            Finding(
                f"{arm}: held-out seeds that the simulated annotator prefers to the shape before",
                wanted,
                _text(share),
                n,
                _verdict(share.value >= REQUIRED_PREFERRED) if is_tuned else "",
            )
        )
    for arm, row in rows.iterrows():
        share = Share(int(row["clearly"]), int(row["n"]), row["clearly_low"], row["clearly_high"])
        what = f"{arm}: preferred by more than one standard deviation of the scores at the start (simulated)"
        found.append(Finding(what, "for comparison", _text(share), f"{share.total} seeds"))
    if {"tuned", "control"} <= set(rows.index):
        row = rows.loc["tuned"]
        low, high = row["preferred_minus_control_low"], row["preferred_minus_control_high"]
        measured = f"{row['preferred_minus_control']:+.1%} ({low:+.1%} to {high:+.1%})"
        n = f"{int(row['n'])} seeds"
        found.append(
            Finding("simulated preference, tuned minus control", "clearly above 0", measured, n, _verdict(low > 0))
        )
    for arm, row in rows.iterrows():
        low, high = row["simulated_score_change_low"], row["simulated_score_change_high"]
        measured = f"{row['simulated_score_change']:+.3f} of 10 ({low:+.3f} to {high:+.3f})"
        found.append(
            Finding(f"{arm}: mean change of the simulated score", "for comparison", measured, f"{int(row['n'])} seeds")
        )
    return found


def _identity_findings(table: pd.DataFrame) -> list[Finding]:
    found = []
    for arm, rows in table.groupby("arm", sort=False):
        for column, means in (("pixel_identity_rank", "pixels"), ("feature_identity_rank", "random features")):
            share = wilson(int((rows[column] == 1).sum()), len(rows))
            what = f"{arm}: own start render is the closest of all, by {means} (chance {1 / len(rows):.1%})"
            found.append(Finding(what, "shown", _text(share), f"{len(rows)} seeds"))
    return found


def _geometry_findings(table: pd.DataFrame) -> list[Finding]:
    found = []
    for psi, share in twin_geometry.shares(table).items():
        n = f"{share['nose'].total} seeds"
        found.append(
            Finding(f"generator at psi {psi:g}: nose region nearest in the depth map", "shown", _text(share["nose"]), n)
        )
        found.append(
            Finding(f"generator at psi {psi:g}: density mesh is one main piece", "shown", _text(share["mesh"]), n)
        )
    return found


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "not met"


def _text(share: Share) -> str:
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"


def _findings(rows: list[Finding]) -> str:
    if not rows:
        return "<p>No tables yet.</p>"
    cells = []
    for row in rows:
        css = {"met": "met", "not met": "unmet"}.get(row.verdict, "")
        verdict = f'<td class="{css}">{row.verdict}</td>'
        text = "".join(f"<td>{html.escape(part)}</td>" for part in (row.what, row.required))
        numbers = "".join(f'<td class="number">{html.escape(part)}</td>' for part in (row.measured, row.n))
        cells.append(f"<tr>{text}{numbers}{verdict}</tr>")
    head = "<tr><th>figure</th><th>asked for</th><th>measured (95 % interval)</th><th>n</th><th></th></tr>"
    return f'<div class="scroll"><table>{head}{"".join(cells)}</table></div>'


def _images(tables: Path) -> str:
    parts = []
    if (path := tables / "image_pairs.csv").is_file():
        pairs = read_table(path, columns=image_change.PAIR_COLUMNS)
        columns = ["mean_abs_difference", "psnr_db", "pixel_identity_rank", "feature_identity_rank"]
        means = pairs.groupby("arm", sort=False)[columns].mean().round(3).reset_index()
        parts.append(
            "<p>Same seed and frontal camera, before against after, means over seeds (plain pixel statistics):</p>"
        )
        parts.append(_table(means))
    if (path := tables / "image_sets.csv").is_file():
        sets = read_table(path, columns=image_change.SET_COLUMNS).round(4)
        parts.append(
            f"<p>Sets of images against the data set. KID is the kernel distance on {html.escape(FEATURES_NAME)}; "
            "the row of the data set compares its own halves and is the floor of the measure.</p>"
        )
        parts.append(_table(sets))
    return "".join(parts) or "<p>Not measured in this run.</p>"


def _stages(folder: Path) -> str:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "stages").glob("*.json")]
    records.sort(key=lambda record: record["position"])
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
    peak = max(record["peak_memory_gb"] for record in records)
    command = html.escape(records[-1].get("pipeline_command", ""))
    first = f"<p><code>{command}</code>: {duration(total)} in all stages, at most {peak:.2f} GB of memory.</p>"
    return first + _table(pd.DataFrame(rows))


def _machine() -> str:
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    found = ", ".join(f"{name} {version}" for name, version in versions().items() if name != "code")
    return (
        f"<p>Machine: {os.cpu_count()} CPU cores, {memory:.0f} GB of memory, {platform.system()} {platform.machine()}; "
        f"{html.escape(found)}; code {html.escape(code_version())}.</p>"
    )


def _sources(tables: Path) -> str:
    rows: list[dict[str, Any]] = []
    for path in sorted(tables.glob("*.csv")):
        sidecar = read_sidecar(path)
        inputs = ", ".join(
            f"{name}: {item['file']} ({item['sha256'][:12]})" for name, item in sidecar.get("inputs", {}).items()
        )
        rows.append({"table": path.name, "rows": sidecar.get("rows"), "inputs (start of SHA-256)": inputs})
    return _table(pd.DataFrame(rows)) if rows else "<p>No tables yet.</p>"


def _table(table: pd.DataFrame) -> str:
    return f'<div class="scroll">{table.to_html(index=False, border=0, na_rep="", justify="left")}</div>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def _figure(number: int, caption: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    alt = html.escape(caption)
    return (
        f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption><strong>Figure {number}.</strong> '
        f"{alt}</figcaption></figure>"
    )
