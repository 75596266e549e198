"""Seeds of a generator -> simulated scores -> simulated rankings.

Files, all in the folder of the rankings table: `rankings.csv` (schema in rankings.py, annotator "simulated"),
`scores.csv` (seed, roughness, stray, holes, score, relief, asymmetry; a row is on disk before the next seed begins) and
`scores_source.json` (which generator, slab and annotator the scores belong to, so that a resumed run can not mix two).
"""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch

from eg3d.checkpoints.store import load_generator
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.representations.sigma_field import SigmaFieldConfig, seed_slab
from eg3d.safe_write import write_json, write_text
from reward_model_training.preferences.rankings import MAX_ITEMS, MIN_ITEMS, Ranking
from reward_model_training.preferences.simulated_annotator import (
    ANNOTATOR_NAME,
    AnnotatorConfig,
    SimulatedAnnotator,
    SurfaceScore,
)

SCORE_COLUMNS = ("seed", "roughness", "stray", "holes", "score", "relief", "asymmetry")


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
    slab: SigmaFieldConfig = field(default_factory=SigmaFieldConfig)
    annotator: AnnotatorConfig = field(default_factory=AnnotatorConfig)

    def validate(self) -> list[str]:
        faults = []
        if self.first_seed < 0:
            faults.append(f"first_seed: must be 0 or more, got {self.first_seed}")
        if not MIN_ITEMS <= self.batch_size <= MAX_ITEMS:
            faults.append(f"batch_size: must be {MIN_ITEMS} to {MAX_ITEMS}, got {self.batch_size}")
        elif self.count < MIN_ITEMS or self.count % self.batch_size == 1:
            faults.append(f"count: {self.count} seeds leave one alone; give a multiple of batch_size {self.batch_size}")
        if self.workers < 1:
            faults.append(f"workers: must be at least 1, got {self.workers}")
        if Path(self.out).suffix != ".csv":
            faults.append(f"out: expected the path of a .csv file, got {self.out!r}")
        return faults

    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count)


def score_seed(G: TriPlaneGenerator, seed: int, slab: SigmaFieldConfig, annotator: SimulatedAnnotator) -> SurfaceScore:
    """Simulated score of the shape that `seed` names."""
    voxel = G.cfg.rendering.box_warp / (slab.resolution - 1)
    return annotator.score(seed_slab(G, seed, slab), voxel=voxel)


def score_seeds(cfg: RankConfig, *, on_seed: Callable[[int, int], None] | None = None) -> dict[int, SurfaceScore]:
    """Scores of all seeds of `cfg`, by seed; those already in scores.csv are taken from there.

    on_seed(num_done, num_all) is called after each seed. Raises ValueError if scores.csv belongs to another generator,
    slab or annotator.
    """
    folder = Path(cfg.out).parent
    scores_csv = folder / "scores.csv"
    G = load_generator(cfg.generator, device=cfg.device)
    _claim(folder, scores_source(G, cfg))
    done = {seed: score for seed, score in read_scores(scores_csv).items() if seed in cfg.seeds()}
    missing = [seed for seed in cfg.seeds() if seed not in done]
    with open(scores_csv, "a", encoding="utf-8", newline="") as file:
        for seed, score in _scored(G, missing, cfg):
            file.write(_row(seed, score))
            file.flush()
            done[seed] = score
            if on_seed is not None:
                on_seed(len(done), cfg.count)
    return {seed: done[seed] for seed in cfg.seeds()}


def rank_batches(
    scores: Mapping[int, float], annotator: SimulatedAnnotator, *, batch_size: int, psi: float
) -> list[Ranking]:
    """Rankings of consecutive batches of the scored seeds, in the order of `scores`.

    The noise of a batch depends on the annotator's seed and the batch's number alone.
    """
    seeds = list(scores)
    rankings = []
    for batch, start in enumerate(range(0, len(seeds), batch_size)):
        shown = seeds[start : start + batch_size]
        rng = np.random.default_rng([annotator.cfg.seed, batch])
        order = annotator.rank([scores[seed] for seed in shown], rng)
        rankings.append(Ranking(batch, tuple(shown[i] for i in order), ANNOTATOR_NAME, psi))
    return rankings


def read_scores(path: str | Path) -> dict[int, SurfaceScore]:
    """Scores by seed. A missing file is made with its header; a last line that a stop cut short is removed."""
    path = Path(path)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text or not whole:
        write_text(path, whole or ",".join(SCORE_COLUMNS) + "\n")
    rows = list(csv.reader(whole.splitlines()))
    if rows and tuple(rows[0]) != SCORE_COLUMNS:
        raise ValueError(f"{path}: expected the header {','.join(SCORE_COLUMNS)!r}, found {','.join(rows[0])!r}")
    scores = {}
    for line, row in enumerate(rows[1:], start=2):
        try:
            seed, *values = row
            scores[int(seed)] = SurfaceScore(**dict(zip(SCORE_COLUMNS[1:], map(float, values), strict=True)))
        except (TypeError, ValueError):
            raise ValueError(f"{path}, line {line}: expected {len(SCORE_COLUMNS)} numbers, found {row}") from None
    return scores


def scores_source(G: TriPlaneGenerator, cfg: RankConfig) -> dict[str, object]:
    """What decides a score: a hash of the weights, the slab, and the annotator's settings without its noise."""
    digest = hashlib.sha256()
    for name, tensor in sorted(G.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    judge = {key: value for key, value in asdict(cfg.annotator).items() if key not in ("temperature", "seed")}
    source = {"generator_sha256": digest.hexdigest(), "slab": asdict(cfg.slab), "annotator": judge}
    return {"annotator_name": ANNOTATOR_NAME, **source}


def _claim(folder: Path, source: dict[str, object]) -> None:
    """Write the source of the scores beside them, or check that it is the same one."""
    path = folder / "scores_source.json"
    source = json.loads(json.dumps(source))  # tuples become lists, as in the file
    if not path.is_file():
        write_json(path, source)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    differing = sorted(key for key in source if found.get(key) != source[key])
    if differing:
        raise ValueError(
            f"{folder / 'scores.csv'} was made with another {', '.join(differing)}; choose another out, "
            f"or remove {path.name} and scores.csv to score again"
        )


def _row(seed: int, score: SurfaceScore) -> str:
    values = [getattr(score, f.name) for f in fields(SurfaceScore)]
    return ",".join([str(seed), *(repr(float(value)) for value in values)]) + "\n"


_worker: dict[str, object] = {}  # what a worker process loads once


def _scored(G: TriPlaneGenerator, seeds: list[int], cfg: RankConfig) -> Iterator[tuple[int, SurfaceScore]]:
    if cfg.workers == 1 or len(seeds) < 2:
        annotator = SimulatedAnnotator(cfg.annotator)
        yield from ((seed, score_seed(G, seed, cfg.slab, annotator)) for seed in seeds)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cfg.workers, context, initializer=_start_worker, initargs=(cfg,)) as pool:
        yield from zip(seeds, pool.map(_work, seeds, chunksize=8), strict=True)


def _start_worker(cfg: RankConfig) -> None:
    torch.set_num_threads(1)
    G = load_generator(cfg.generator, device=cfg.device)
    _worker.update(G=G, slab=cfg.slab, annotator=SimulatedAnnotator(cfg.annotator))


def _work(seed: int) -> SurfaceScore:
    return score_seed(_worker["G"], seed, _worker["slab"], _worker["annotator"])  # type: ignore[arg-type]


def summary(scores: Iterable[SurfaceScore]) -> str:
    """One line about a set of scores, for the console."""
    values = np.array([score.score for score in scores])
    low, middle, high = np.percentile(values, [10, 50, 90])
    return f"{len(values)} shapes, simulated score median {middle:.2f} (10-90 %: {low:.2f} to {high:.2f} of 10)"
