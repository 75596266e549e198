"""Building blocks of a page in one HTML file that needs no other: sections, tables, figures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from paper_result_analyses.measure.protocol import Finding

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
_VERDICTS = {True: ("met", "met"), False: ("unmet", "not met"), None: ("", "")}  # CSS class, words


def page(title: str, body: Sequence[str]) -> str:
    """A whole HTML document of blocks."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def section(title: str, content: str) -> str:
    """A titled part; `content` is HTML."""
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def paragraph(text: str) -> str:
    """Plain words."""
    return f"<p>{html.escape(text)}</p>"


def data_table(table: pd.DataFrame) -> str:
    """A small table as it is; missing values are empty cells."""
    return f'<div class="scroll">{table.to_html(index=False, border=0, na_rep="", justify="left")}</div>'


def findings_table(rows: Sequence[Finding]) -> str:
    """Findings with what was asked for and whether it was met."""
    if not rows:
        return paragraph("No tables yet.")
    cells = []
    for row in rows:
        css, words = _VERDICTS[row.is_met]
        text = "".join(f"<td>{html.escape(part)}</td>" for part in (row.what, row.required))
        numbers = "".join(f'<td class="number">{html.escape(part)}</td>' for part in (row.measured, row.n))
        cells.append(f'<tr>{text}{numbers}<td class="{css}">{words}</td></tr>')
    head = "<tr><th>figure</th><th>asked for</th><th>measured (95 % interval)</th><th>n</th><th></th></tr>"
    return f'<div class="scroll"><table>{head}{"".join(cells)}</table></div>'


def figure(number: int, caption: str, png: Path) -> str:
    """A picture inside the page, with its number and caption."""
    data = base64.b64encode(png.read_bytes()).decode("ascii")
    alt = html.escape(caption)
    return (
        f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption><strong>Figure {number}.</strong> '
        f"{alt}</figcaption></figure>"
    )
