"""Rows of ranked seeds with their representations, and their plan: which rows, with which anchors, in which batch.

Everything random is named by (seed, epoch, row), so that a resumed run sees the same rows as an unbroken one.
Shapes: B rows, K items a row (best first), M distinct items of a batch. Source: the released system.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from eg3d.checkpoints.manifest import resolve
from eg3d.child_processes import worker_faults
from eg3d.config_checks import at_least, one_of
from eg3d.file_hash import sha256_of
from eg3d.representations.protocol import Representation
from eg3d.representations.sigma_field import SigmaField
from eg3d.samples import SampleConfig
from reward_model_training.data.made_pairs import MadePairsConfig, MadeRow, make, planned
from reward_model_training.data.representation_store import STORAGES, RepresentationStore, SampleKey, open_store
from reward_model_training.preferences.anchors import AnchorConfig, anchor_split, draw_anchor
from reward_model_training.preferences.rankings import GENERATOR_DIGITS, Ranking
from reward_model_training.preferences.splits import SPLITS, inseparable, split_by_batch

REDUCTIONS = ("best_worst", "all")


@dataclass
class RankedDataConfig:
    """Rankings, the generator behind their seeds, and how its samples are kept."""

    rankings: str = ""  # table of rankings (.csv); given on the command line
    generator: str = ""  # network file, or a name in checkpoints/manifest.json
    # Other generators whose samples stand in mixed rankings, in any order: they are known by their SHA-256.
    snapshots: list[str] = field(default_factory=list)
    scores: str = ""  # optional scores.csv of the simulated annotator; empty = beside the rankings, if there
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    proportion: float = 1.0  # share of each split's rows that is used
    storage: str = "disk"  # memory, disk or on_the_fly: the same numbers
    store_dir: str = "runs/representations"  # folder of the disk cache

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = one_of("storage", self.storage, STORAGES)
        if not 0 < self.proportion <= 1:
            faults.append(f"proportion: must lie above 0 and up to 1, got {self.proportion}")
        if self.anchors.snapshot is not None and self.anchors.snapshot >= len(self.snapshots):
            faults.append(f"anchors.snapshot: {self.anchors.snapshot} is none of the {len(self.snapshots)} snapshots")
        return faults

    def anchor_generator(self) -> str:
        """Whose samples the anchors are, as a SampleKey says it."""
        if self.anchors.snapshot is None:
            return ""
        return sha256_of(resolve(self.snapshots[self.anchors.snapshot]))[:GENERATOR_DIGITS]

    def missing_inputs(self, prefix: str) -> list[str]:
        """Faults for the inputs that have no default, for configs in which they are needed."""
        names = ("rankings", "generator")
        return [f"{prefix}{name}: give {prefix}{name}=PATH" for name in names if not getattr(self, name)]

    def open_store(
        self, representation: Representation, sample: SampleConfig, *, device: torch.device
    ) -> RepresentationStore:
        """The representations of these rankings' samples."""
        one, *others = (
            open_store(path, representation, sample, storage=self.storage, folder=self.store_dir, device=device)
            for path in (self.generator, *self.snapshots)
        )
        one.others |= {other.source[:GENERATOR_DIGITS]: other for other in (*others, one)}  # itself by name, as well
        return one


@dataclass
class DataConfig(RankedDataConfig):
    """What a reward learns from: the representation of the ranked samples, and the rows of each step."""

    representation: Representation = field(default_factory=SigmaField)
    sample: SampleConfig = field(default_factory=SampleConfig)  # as for the rankings; psi is taken from their table
    anchor_probability: float = 1.0  # share of training rows with an anchor in front
    reduction: str = "best_worst"  # items of a training row: best_worst (published) or all
    batch_size: int = 1  # training rows a step
    eval_batch_size: int = 1  # rows a step in validation; no rows are dropped
    num_workers: int = 0  # loader processes; more than 0 needs storage=disk
    made_pairs: MadePairsConfig = field(default_factory=MadePairsConfig)  # against damaged copies; published: none

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = super().validate() + one_of("reduction", self.reduction, REDUCTIONS)
        if not 0 <= self.anchor_probability <= 1:
            faults.append(f"anchor_probability: must lie in 0 to 1, got {self.anchor_probability}")
        faults += at_least(self, 1, "batch_size", "eval_batch_size")
        if self.made_pairs.is_on and self.representation.input_kind != "volume":
            faults.append(f"made_pairs: damage is known for density slabs, not for {self.representation.name}")
        if self.num_workers:
            faults += worker_faults(self.num_workers, name="num_workers")
            if self.storage != "disk":
                faults.append(f"num_workers: {self.num_workers} needs storage=disk, got {self.storage}")
        return faults


@dataclass(frozen=True)
class RankedRow:
    """Samples of one ranking batch, best first."""

    items: tuple[SampleKey, ...]
    batch: int


class LoadedRow(NamedTuple):
    """One row with the representations of its items."""

    items: tuple[SampleKey, ...]  # best first, an anchor in front where there is one
    tensors: list[Tensor]  # one an item, as stored
    made: Sequence[MadeRow] = ()  # rows against damaged copies that go with it


class RankedBatch(NamedTuple):
    """Rows of one step; every sample is there once, however many rows name it."""

    x: Tensor  # [M, ...] representations, as stored
    index: Tensor  # type: ignore[assignment]  # [B, K] rows of `x`, best first, padded with -1
    made: Tensor | None = None  # [T, 3] rows of `x`: clean, mild, severe; None = no damage in this step
    ties: Tensor | None = None  # [E, 2] rows of `x` that must be judged the same; None = none


@dataclass(frozen=True)
class Splits:
    """Rows and anchors of the three splits."""

    rows: dict[str, list[RankedRow]]
    anchors: dict[str, np.ndarray]
    psi: float  # of the ranked samples; of mixed ones, the strength of use
    anchor_psi: float
    anchor_generator: str = ""

    def anchor(self, seed: int) -> SampleKey:
        """The sample of an anchor seed."""
        return SampleKey(seed, self.anchor_psi, self.anchor_generator)

    def keys(self, split: str) -> list[SampleKey]:
        """Every sample that a split can touch, once."""
        ranked = [item for row in self.rows[split] for item in row.items]
        anchors = [self.anchor(int(seed)) for seed in self.anchors[split]]
        return list(dict.fromkeys(ranked + anchors))


def make_splits(rankings: Sequence[Ranking], cfg: RankedDataConfig, *, seed: int) -> Splits:
    """70/15/15 by ranking batch in the published way; rankings that share a batch or a shape stay together.

    Raises ValueError when psi differs between rankings, or fewer than 4 of them can be separated.
    """
    strengths = sorted({ranking.psi for ranking in rankings})
    if len(strengths) != 1:
        raise ValueError(f"rankings must share one psi, found {strengths}; train on a table of one of them")
    rows = [
        RankedRow(tuple(SampleKey(s, *at) for s, at in zip(r.seeds, r.origins(), strict=True)), r.batch)
        for r in rankings
    ]
    groups = inseparable(rankings)
    positions = split_by_batch(len(groups))
    chosen = {split: _share(positions[split], cfg.proportion, seed) for split in SPLITS}
    return Splits(
        rows={split: [rows[row] for group in chosen[split] for row in groups[group]] for split in SPLITS},
        anchors=anchor_split(cfg.anchors),
        psi=strengths[0],
        anchor_psi=cfg.anchors.psi,
        anchor_generator=cfg.anchor_generator(),
    )


def reduced(row: RankedRow, reduction: str) -> tuple[SampleKey, ...]:
    """Items of a row that are used: all of them, or best and worst."""
    return row.items if reduction == "all" else (row.items[0], row.items[-1])


def row_anchor(anchors: np.ndarray, *, seed: int, epoch: int, row: int, probability: float) -> int | None:
    """Anchor seed in front of a row, or None. Drawn anew each epoch, always the same for (seed, epoch, row)."""
    rng = np.random.RandomState([seed, epoch, row])
    if len(anchors) == 0 or rng.random_sample() >= probability:
        return None
    return draw_anchor(anchors, rng)


class RankedSeeds(Dataset[LoadedRow]):
    """Rows of one split; an index is the pair (epoch, row)."""

    def __init__(self, splits: Splits, split: str, store: RepresentationStore, cfg: DataConfig, *, seed: int) -> None:
        self.rows, self.anchors, self.anchor = splits.rows[split], splits.anchors[split], splits.anchor
        self.store, self.cfg, self.seed = store, cfg, seed
        self.voxel = store.voxel() if cfg.made_pairs.is_on else 0.0  # world units

    def __len__(self) -> int:
        return len(self.rows)

    def items(self, epoch: int, row: int) -> tuple[SampleKey, ...]:
        """Samples of a row in an epoch, best first."""
        anchor = row_anchor(self.anchors, seed=self.seed, epoch=epoch, row=row, probability=self.cfg.anchor_probability)
        front = () if anchor is None else (self.anchor(anchor),)
        return front + reduced(self.rows[row], self.cfg.reduction)

    def __getitem__(self, index: tuple[int, int]) -> LoadedRow:
        items = self.items(*index)
        tensors = {key: self.store.get(key) for key in items}
        return LoadedRow(items, [tensors[key] for key in items], self._made(index, tensors))

    def _made(self, index: tuple[int, int], tensors: dict[SampleKey, Tensor]) -> list[MadeRow]:
        cfg, (epoch, row) = self.cfg.made_pairs, index
        if not cfg.is_on:
            return []
        plan = planned(cfg, list(tensors), seed=self.seed, epoch=epoch, row=row)
        return [make(part, tensors[part[0].sample], voxel=self.voxel, level=cfg.level) for part in plan]


def collate(rows: Sequence[LoadedRow]) -> RankedBatch:
    """Rows -> one batch; a sample that several rows name is stored (and later encoded) once."""
    made = [each for row in rows for each in row.made]
    tensors: dict[Hashable, Tensor] = {}
    parts: list[LoadedRow | MadeRow] = [*rows, *made]
    for part in parts:
        tensors |= dict(zip(part.items, part.tensors, strict=True))
    number = {key: i for i, key in enumerate(tensors)}
    index = torch.full((len(rows), max(len(row.items) for row in rows)), -1)
    for at, row in enumerate(rows):
        index[at, : len(row.items)] = torch.tensor([number[key] for key in row.items])
    triples, ties = (
        [[number[key] for key in row.items] for row in made if row.is_tie is is_tie] for is_tie in (False, True)
    )
    return RankedBatch(
        torch.stack(list(tensors.values())),
        index,
        made=torch.tensor(triples) if triples else None,
        ties=torch.tensor(ties) if ties else None,
    )


def epoch_order(num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """Order of the training rows in an epoch: a permutation named by (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


class PlannedBatches(Sampler[list[tuple[int, int]]]):
    """Training batches from a step number on: step -> (epoch, batch of that epoch), shuffled per epoch.

    `position` gives the number of finished steps, read when an epoch's iteration starts; a run that resumes
    in the middle of an epoch so continues with the batch that comes next. The last, smaller batch is kept.
    """

    def __init__(self, num_rows: int, batch_size: int, *, seed: int, position: Callable[[], int]) -> None:
        self.num_rows, self.batch_size, self.seed, self.position = num_rows, batch_size, seed, position

    def __len__(self) -> int:
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, done = divmod(self.position(), len(self))
        order = epoch_order(self.num_rows, seed=self.seed, epoch=epoch)
        for start in range(done * self.batch_size, self.num_rows, self.batch_size):
            yield [(epoch, int(row)) for row in order[start : start + self.batch_size]]


def _share(positions: np.ndarray, proportion: float, seed: int) -> list[int]:
    if proportion == 1:
        return [int(i) for i in positions]
    kept = np.random.default_rng(seed).permutation(len(positions))[: max(1, round(proportion * len(positions)))]
    return [int(positions[i]) for i in np.sort(kept)]
