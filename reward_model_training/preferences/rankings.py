"""Ranking tables: who put which seeds in which order.

Schema of `rankings.csv` (UTF-8, header line, one ranking a row):

| column | meaning |
| --- | --- |
| batch | integer name of the batch of shapes that was shown together |
| annotator | who ranked; the stand-in of this project writes "simulated" |
| psi | truncation strength of the shapes, 1 = off |
| rank1 ... rank6 | seeds, best first; 2 to 6 of them, then blank cells |

Tables that mix strengths or generators have twelve columns more; a blank cell says the same as no column:

| column | meaning |
| --- | --- |
| psi1 ... psi6 | truncation strength of the shape at that rank; blank = psi, which then is the strength of use |
| generator1 ... generator6 | its generator: first 16 digits of the SHA-256 of its file; blank = as training says |

A seed occurs once in a row, and a pair of annotator and batch once in a table. The released `rankedseedsall.csv`
(header `,rank1,rank2`) is read as well: its running index is the batch, its psi is 1. So are tables that went through a
spreadsheet or pandas: whole numbers as `12.0`, rows without any text, a running index in front.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eg3d.safe_write import write_text
from eg3d.seeds import LARGEST_SEED

MIN_ITEMS, MAX_ITEMS = 2, 6
RANK_COLUMNS = tuple(f"rank{i}" for i in range(1, MAX_ITEMS + 1))
COLUMNS = ("batch", "annotator", "psi", *RANK_COLUMNS)
PSI_COLUMNS = tuple(f"psi{i}" for i in range(1, MAX_ITEMS + 1))
GENERATOR_COLUMNS = tuple(f"generator{i}" for i in range(1, MAX_ITEMS + 1))
MIXED_COLUMNS = (*COLUMNS, *PSI_COLUMNS, *GENERATOR_COLUMNS)
GENERATOR_DIGITS = 16  # of a SHA-256
RELEASED_COLUMNS = ("", "rank1", "rank2")
RELEASED_ANNOTATOR = "released"  # the released table does not say who ranked


@dataclass(frozen=True)
class Ranking:
    """One batch in the order that an annotator gave it."""

    batch: int
    seeds: tuple[int, ...]  # best first
    annotator: str
    psi: float = 1.0
    psis: tuple[float, ...] = ()  # of each shape; empty = psi for all
    generators: tuple[str, ...] = ()  # of each shape, first digits of a SHA-256, "" = as training says; empty = so all

    @property
    def is_mixed(self) -> bool:
        """Whether shapes have a strength or a generator of their own."""
        return any(self.generators) or any(psi != self.psi for psi in self.psis)

    def origins(self) -> list[tuple[float, str]]:
        """Strength and generator ("" = as training says) of every shape, best first."""
        psis, generators = self.psis or (self.psi,) * len(self.seeds), self.generators or ("",) * len(self.seeds)
        return list(zip(psis, generators, strict=True))

    def __post_init__(self) -> None:
        if not MIN_ITEMS <= len(self.seeds) <= MAX_ITEMS:
            raise ValueError(f"batch {self.batch}: expected {MIN_ITEMS} to {MAX_ITEMS} seeds, got {len(self.seeds)}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"batch {self.batch}: a seed is ranked twice in {self.seeds}")
        if min(self.seeds) < 0 or max(self.seeds) > LARGEST_SEED:
            raise ValueError(f"batch {self.batch}: seeds must be 0 to {LARGEST_SEED}, got {self.seeds}")
        if not self.annotator.strip():
            raise ValueError(f"batch {self.batch}: the annotator has no name")
        for psi in (self.psi, *self.psis):
            if not 0 <= psi <= 2:  # also refuses NaN
                raise ValueError(f"batch {self.batch}: psi must lie in 0 to 2, got {psi}")
        for values in (self.psis, self.generators):
            if len(values) not in (0, len(self.seeds)):
                raise ValueError(f"batch {self.batch}: expected {len(self.seeds)} of psi1... or generator1...")
        for text in self.generators:
            if not re.fullmatch(rf"([0-9a-f]{{{GENERATOR_DIGITS}}})?", text):
                raise ValueError(
                    f"batch {self.batch}: a generator is {GENERATOR_DIGITS} digits of a SHA-256 or blank, got {text!r}"
                )


def read_rankings(path: str | Path) -> list[Ranking]:
    """All rankings of a table in either format, in file order. Strict: ValueError names file, line and fault."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such rankings table; make one with python -m reward_model_training.rank")
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a UTF-8 CSV table ({error})") from None
    header = tuple("" if re.fullmatch(r"Unnamed: \d+", cell) else cell.strip() for cell in rows[0]) if rows else ()
    if header in (("", *COLUMNS), ("", *MIXED_COLUMNS)):  # the running index that pandas puts in front
        header, rows = header[1:], [row[1:] for row in rows]
    if header not in (COLUMNS, MIXED_COLUMNS, RELEASED_COLUMNS):
        raise ValueError(
            f"{path}: expected the header {','.join(COLUMNS)!r} or {','.join(RELEASED_COLUMNS)!r}, "
            f"found {','.join(header)!r}"
        )
    filled = ((line, row) for line, row in enumerate(rows[1:], start=2) if any(cell.strip() for cell in row))
    rankings = [_parse(row, header, f"{path}, line {line}") for line, row in filled]
    if not rankings:
        raise ValueError(f"{path}: has a header and no rankings")
    _check_unique(rankings, path)
    return rankings


def write_rankings(path: str | Path, rankings: Iterable[Ranking]) -> None:
    """Write a table in this project's schema, atomically; reading it back gives equal rankings.

    The columns of mixed tables are there only when a ranking needs them.
    """
    rankings = list(rankings)
    is_mixed = any(ranking.is_mixed for ranking in rankings)
    _check_unique(rankings, path)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(MIXED_COLUMNS if is_mixed else COLUMNS)
    for ranking in rankings:
        blanks = [""] * (MAX_ITEMS - len(ranking.seeds))
        row = [ranking.batch, ranking.annotator, repr(float(ranking.psi)), *ranking.seeds, *blanks]
        if is_mixed:
            psis, generators = zip(*ranking.origins(), strict=True)
            row += [*(repr(float(psi)) for psi in psis), *blanks, *generators, *blanks]
        writer.writerow(row)
    write_text(path, text.getvalue())


def _parse(row: list[str], header: tuple[str, ...], where: str) -> Ranking:
    if len(row) != len(header):
        raise ValueError(f"{where}: expected {len(header)} cells, found {len(row)}")
    cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
    ranks = [cells[name] for name in header if name.startswith("rank")]
    filled = [cell for cell in ranks if cell]
    if filled != ranks[: len(filled)]:
        raise ValueError(f"{where}: a blank rank stands before a filled one")
    is_released = header == RELEASED_COLUMNS
    beyond = [name for n in range(len(filled), MAX_ITEMS) for name in (f"psi{n + 1}", f"generator{n + 1}")]
    if any(cells.get(name) for name in beyond):
        raise ValueError(f"{where}: a psi or generator stands beyond the last rank")
    try:
        return Ranking(
            batch=_whole(cells["" if is_released else "batch"]),
            seeds=tuple(_whole(cell) for cell in filled),
            annotator=RELEASED_ANNOTATOR if is_released else cells["annotator"],
            psi=1.0 if is_released else float(cells["psi"]),
            **_origins(cells, len(filled)),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _origins(cells: dict[str, str], count: int) -> dict[str, tuple]:
    """Strengths and generators of the shapes of a row, where any has its own."""
    psis, generators = ([cells.get(f"{name}{n + 1}", "") for n in range(count)] for name in ("psi", "generator"))
    found: dict[str, tuple] = {}
    if any(psis) and any(float(psi or cells["psi"]) != float(cells["psi"]) for psi in psis):
        found["psis"] = tuple(float(psi or cells["psi"]) for psi in psis)
    if any(generators):
        found["generators"] = tuple(generators)
    return found


def _whole(cell: str) -> int:
    """A whole number, also as a float column writes it. Raises ValueError for any other text."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}(\.0*)?", cell):
        raise ValueError(f"expected a whole number, found {cell!r}")
    return int(cell.partition(".")[0])


def _check_unique(rankings: list[Ranking], path: str | Path) -> None:
    seen: set[tuple[str, int]] = set()
    for ranking in rankings:
        key = (ranking.annotator, ranking.batch)
        if key in seen:
            raise ValueError(f"{path}: batch {ranking.batch} of annotator {ranking.annotator!r} occurs twice")
        seen.add(key)
