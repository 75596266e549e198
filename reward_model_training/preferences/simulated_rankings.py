"""Seeds of a generator -> simulated scores -> simulated rankings.

Files, all in the folder of the rankings table: `rankings.csv` (schema in rankings.py, annotator "simulated"),
`scores.csv` (seed, score, and the annotator's faults; a row is on disk before the next seed begins) and those of a run
folder, which say of which generators, slab and annotator the scores are, so that no run mixes two by mistake. On
purpose, `psi_range` and `snapshots` mix both ends: shapes from near the mean face to beyond truncation, and of
generators from early and late in training; the strength and generator of a seed are drawn by the seed.
"""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from eg3d.checkpoints.manifest import resolve
from eg3d.checkpoints.store import load_generator
from eg3d.child_processes import in_processes, worker_faults
from eg3d.file_hash import sha256_of
from eg3d.generators.protocol import Generator
from eg3d.progress import Advance, ignore
from eg3d.representations.sigma_field import SigmaField
from eg3d.run_folder import RunFolder
from eg3d.safe_write import naming_disk_faults, write_text
from eg3d.samples import SampleConfig, sample_seeds
from eg3d.seeds import LARGEST_SEED, MOST_SEEDS
from eg3d.threads import limit_threads
from reward_model_training.preferences.annotators.likeness import LikenessConfig
from reward_model_training.preferences.annotators.protocol import (
    ANNOTATOR_NAME,
    Annotator,
    AnnotatorConfig,
    Judgement,
)
from reward_model_training.preferences.annotators.registry import annotator_from
from reward_model_training.preferences.rankings import GENERATOR_DIGITS, MAX_ITEMS, MIN_ITEMS, Ranking

SEEDS_AT_ONCE = 8  # that travel to a worker process together
PSI_STEP = 0.05  # between the strengths that psi_range draws: few enough that slabs on disk stay in few folders
_SALT = 0x70736931  # apart from the latents, which seeds name as well
# What may change when more seeds are scored: which seeds, and how the scores become rankings.
FREE = (
    *("out", "first_seed", "count", "batch_size", "workers", "device"),
    *("annotator.temperature", "annotator.seed", "snapshots"),  # by contents, not by path
)
NEEDED_COLUMNS = ("seed", "score")  # of scores.csv; the others are the annotator's faults


@dataclass
class RankConfig:
    """What the simulated annotator is shown, and where its answers go."""

    generator: str = "???"  # a network file (.safetensors or published .pkl), or a name in checkpoints/manifest.json
    first_seed: int = 20000
    count: int = 4000  # seeds, each ranked once
    batch_size: int = 2  # shapes shown together, 2 to 6
    out: str = "runs/rankings/rankings.csv"  # the other files go beside it
    workers: int = 1  # processes, one core each
    device: str = "cpu"
    accept_code_change: bool = False  # add to scores although the code is no longer the one that made the first
    slab: SigmaField = field(default_factory=SigmaField)  # what the annotator is shown
    sample: SampleConfig = field(default_factory=SampleConfig)
    annotator: AnnotatorConfig = field(default_factory=LikenessConfig)
    # Lowest and highest truncation strength; each seed draws its own, in steps of 0.05. null = sample.psi for all.
    psi_range: tuple[float, float] | None = None
    snapshots: list[str] = field(default_factory=list)  # more generators; each seed draws one of all

    def validate(self) -> list[str]:
        faults = []
        if self.psi_range is not None and not 0 <= self.psi_range[0] < self.psi_range[1] <= 2:
            faults.append(f"psi_range: expected two rising numbers from 0 to 2, got {list(self.psi_range)}")
        if self.first_seed < 0:
            faults.append(f"first_seed: must be 0 or more, got {self.first_seed}")
        if not MIN_ITEMS <= self.batch_size <= MAX_ITEMS:
            faults.append(f"batch_size: must be {MIN_ITEMS} to {MAX_ITEMS}, got {self.batch_size}")
        elif self.count < MIN_ITEMS or self.count % self.batch_size == 1:
            faults.append(f"count: {self.count} seeds leave one alone; give a multiple of batch_size {self.batch_size}")
        elif self.first_seed + self.count - 1 > LARGEST_SEED or self.count > MOST_SEEDS:
            faults.append(f"first_seed, count: at most {MOST_SEEDS} seeds up to {LARGEST_SEED}, got {self.count}")
        faults += worker_faults(self.workers)
        if Path(self.out).suffix != ".csv":
            faults.append(f"out: expected the path of a .csv file, got {self.out!r}")
        return faults

    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count)


class Origin(NamedTuple):
    """How the shape of a seed is made."""

    psi: float
    generator: int  # 0 = RankConfig.generator, 1 = its first snapshot, ...


def origin(cfg: RankConfig, seed: int) -> Origin:
    """Strength and generator of the shape that `seed` names: drawn by the seed where `cfg` mixes them."""
    rng = np.random.default_rng([_SALT, seed])
    place, number = rng.random(), int(rng.integers(len(cfg.snapshots) + 1))
    if cfg.psi_range is None:
        return Origin(cfg.sample.psi, number)
    low, high = cfg.psi_range
    return Origin(min(high, round(low + PSI_STEP * round(place * (high - low) / PSI_STEP), 6)), number)


@torch.no_grad()
def score_seed(Gs: Sequence[Generator], seed: int, cfg: RankConfig, annotator: Annotator) -> Judgement:
    """Simulated score of the shape that `seed` names; Gs: the generator of `cfg`, then its snapshots."""
    at = origin(cfg, seed)
    G, sample = Gs[at.generator], sample_seeds(Gs[at.generator], [seed], replace(cfg.sample, psi=at.psi))
    return annotator.judge(cfg.slab.extract(G, sample)[0].float(), cfg.slab.frame(sample.field.box_warp))


def annotate_seeds(cfg: RankConfig, *, advance: Advance = ignore) -> dict[int, Judgement]:
    """Scores of all seeds of `cfg`, by seed; those already in scores.csv are taken from there.

    `advance` counts seeds, beginning with the number of those. Raises ValueError if the folder's scores are of another
    generator, slab, sample or annotator.
    """
    inputs = {"generator": resolve(cfg.generator)}
    inputs |= {f"snapshots.{number}": resolve(path) for number, path in enumerate(cfg.snapshots)}
    with RunFolder.claim(Path(cfg.out).parent, cfg, seed=cfg.annotator.seed, inputs=inputs, free=FREE) as run:
        scores_csv, columns = run.path / "scores.csv", annotator_from(cfg.annotator).columns
        done = {seed: score for seed, score in _begun(scores_csv, columns).items() if seed in cfg.seeds()}
        missing = [seed for seed in cfg.seeds() if seed not in done]
        advance(len(done))
        with (
            naming_disk_faults(scores_csv),
            open(scores_csv, "a", encoding="utf-8", newline="") as file,
            _scored(missing, cfg) as scores,
        ):
            for seed, score in zip(missing, scores, strict=True):
                file.write(_row(seed, score))
                file.flush()
                done[seed] = score
                advance()
        return {seed: done[seed] for seed in cfg.seeds()}


def rankings_of(cfg: RankConfig, scores: Mapping[int, Judgement]) -> list[Ranking]:
    """The rankings that `cfg` asks for, of the scores that annotate_seeds gave for it."""
    names = [""] + [sha256_of(resolve(path))[:GENERATOR_DIGITS] for path in cfg.snapshots]
    origins = {seed: (at.psi, names[at.generator]) for seed in scores for at in [origin(cfg, seed)]}
    values, annotator = {seed: score.score for seed, score in scores.items()}, annotator_from(cfg.annotator)
    return rank_batches(values, annotator, batch_size=cfg.batch_size, psi=cfg.sample.psi, origins=origins)


def rank_batches(
    scores: Mapping[int, float],
    annotator: Annotator,
    *,
    batch_size: int,
    psi: float,
    origins: Mapping[int, tuple[float, str]] | None = None,
) -> list[Ranking]:
    """Rankings of consecutive batches of the scored seeds, in the order of `scores`.

    The noise of a batch depends on the annotator's seed and the batch's number alone. origins: strength and generator
    of each seed, as in the columns of mixed tables; None = psi, and the generator that training names, for all.
    """
    seeds = list(scores)
    rankings = []
    for batch, start in enumerate(range(0, len(seeds), batch_size)):
        shown = seeds[start : start + batch_size]
        rng = np.random.default_rng([annotator.cfg.seed, batch])
        order = annotator.rank([scores[seed] for seed in shown], rng)
        ranking = Ranking(batch, tuple(shown[i] for i in order), ANNOTATOR_NAME, psi)
        if origins is not None:
            psis, generators = zip(*(origins[seed] for seed in ranking.seeds), strict=True)
            ranking = replace(
                ranking,
                psis=psis if any(each != psi for each in psis) else (),
                generators=generators if any(generators) else (),
            )
        rankings.append(ranking)
    return rankings


def read_scores(path: str | Path) -> dict[int, Judgement]:
    """Judgements by seed, of any annotator; a last line that is not whole yet does not count.

    Raises ValueError (one line that names the file) for anything that is not such a table.
    """
    return _parsed_table(Path(path), _whole_lines(_text(Path(path))))[1]


def _begun(path: Path, columns: Sequence[str]) -> dict[int, Judgement]:
    """As read_scores, of the annotator whose faults are `columns`.

    A missing file is made with its header; a last line that a stop cut short is removed.
    """
    header = ",".join([*NEEDED_COLUMNS, *columns])
    text = _text(path) if path.is_file() else ""
    whole = _whole_lines(text)
    if whole != text or not whole:
        write_text(path, whole or f"{header}\n")
    if not whole:
        return {}
    found, scores = _parsed_table(path, whole)
    if found != header:
        raise ValueError(f"{path}: expected the header {header!r}, found {found[:200]!r}")
    return scores


def _whole_lines(text: str) -> str:
    return text[: text.rfind("\n") + 1]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 CSV table ({error})") from None


def _parsed_table(path: Path, text: str) -> tuple[str, dict[int, Judgement]]:
    """The header of a table of scores, and its rows by seed."""
    try:
        header, *rows = list(csv.reader(text.splitlines(), strict=True)) or [[]]
    except csv.Error as error:
        raise ValueError(f"{path}: not a UTF-8 CSV table ({error})") from None
    if not set(NEEDED_COLUMNS) <= set(header) or len(set(header)) < len(header):
        wanted = ", ".join(NEEDED_COLUMNS)
        raise ValueError(f"{path}: expected columns {wanted} in the header, found {','.join(header)[:200]!r}")
    scores = {}
    for line, row in enumerate(rows, start=2):
        try:
            seed, judgement = _parsed(row, header)
        except (TypeError, ValueError):
            found = ",".join(row)[:200]
            raise ValueError(f"{path}, line {line}: expected {len(header)} numbers, found {found!r}") from None
        scores[seed] = judgement
    return ",".join(header), scores


def _parsed(row: list[str], header: Sequence[str]) -> tuple[int, Judgement]:
    """Seed and judgement of a row. Raises ValueError or TypeError for anything but as many numbers.

    Seed and score are finite; of a shape without a surface a fault may be infinite.
    """
    if len(row) != len(header):
        raise ValueError(row)
    cells = dict(zip(header, row, strict=True))
    seed, values = int(cells.pop("seed")), {name: float(text) for name, text in cells.items()}
    score = values.pop("score")
    if not (0 <= seed <= LARGEST_SEED and math.isfinite(score)) or any(map(math.isnan, values.values())):
        raise ValueError(row)
    return seed, Judgement(score, values)


def _row(seed: int, judgement: Judgement) -> str:
    values = [judgement.score, *judgement.faults.values()]
    return ",".join([str(seed), *(repr(float(value)) for value in values)]) + "\n"


_worker: dict[str, object] = {}  # what a worker process loads once


@contextlib.contextmanager
def _scored(seeds: list[int], cfg: RankConfig) -> Iterator[Iterator[Judgement]]:
    """Scores of `seeds` in their order, from this process or from workers; for a `with` block."""
    Gs = _generators(cfg)  # in any case, so that what cannot be loaded is said at once
    if cfg.workers == 1 or len(seeds) < 2:
        annotator = annotator_from(cfg.annotator)
        yield (score_seed(Gs, seed, cfg, annotator) for seed in seeds)
        return
    with in_processes(
        _work, seeds, workers=cfg.workers, prepare=_start_worker, arguments=(cfg,), chunk=SEEDS_AT_ONCE
    ) as scores:
        yield scores


def _generators(cfg: RankConfig) -> list[Generator]:
    return [load_generator(path, device=cfg.device) for path in (cfg.generator, *cfg.snapshots)]


def _start_worker(cfg: RankConfig) -> None:
    limit_threads(1)
    _worker.update(Gs=_generators(cfg), cfg=cfg, annotator=annotator_from(cfg.annotator))


def _work(seed: int) -> Judgement:
    return score_seed(_worker["Gs"], seed, _worker["cfg"], _worker["annotator"])  # type: ignore[arg-type]


def summary(scores: Iterable[Judgement]) -> str:
    """One line about a set of scores, for the console."""
    values = np.array([score.score for score in scores])
    low, middle, high = np.percentile(values, [10, 50, 90])
    return f"{len(values)} shapes, simulated score median {middle:.2f} (10-90 %: {low:.2f} to {high:.2f} of 10)"
