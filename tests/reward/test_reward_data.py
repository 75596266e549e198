"""Slab store and ranked rows: the same numbers each way, damage found, plans that resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from eg3d.representations.depth_map import DepthMap
from eg3d.representations.sigma_field import SigmaField
from eg3d.samples import SampleConfig
from reward_model_training.data.dataset import (
    DataConfig,
    PlannedBatches,
    RankedSeeds,
    collate,
    epoch_order,
    make_splits,
    row_anchor,
)
from reward_model_training.data.representation_store import RepresentationStore, SampleKey, open_store
from reward_model_training.preferences.anchors import AnchorConfig
from reward_model_training.preferences.rankings import Ranking

SLAB = SigmaField(resolution=10, grid="exact")
SAMPLE = SampleConfig(conditioning="generator")


def made_slab(seed: int, cfg: SampleConfig) -> torch.Tensor:
    """Stand-in for a generator: another volume for every seed and psi, not representable in half."""
    rng = np.random.RandomState(seed)
    return torch.from_numpy(cfg.psi * rng.uniform(-90, 250, SLAB.shape()).astype(np.float32))


def store(
    storage: str = "memory", folder: Path | None = None, source: str = "a", slab=SLAB, sample=SAMPLE
) -> RepresentationStore:
    return RepresentationStore(made_slab, slab, sample, source=source, storage=storage, folder=folder)


def test_every_storage_gives_the_same_numbers(tmp_path):
    keys = [SampleKey(seed, psi) for seed in (1, 2) for psi in (1.0, 0.25)]
    stores = [store("on_the_fly"), store("memory"), store("disk", tmp_path), store("disk", tmp_path)]
    for key in keys:
        found = [s.get(key) for s in stores]
        assert all(f.dtype == torch.float16 for f in found)
        assert all(torch.equal(f, found[0]) for f in found)
        torch.testing.assert_close(found[0], made_slab(key.seed, dataclasses.replace(SAMPLE, psi=key.psi)).half())


@pytest.mark.parametrize(
    ("representation", "dtype"), [(SLAB, torch.float16), (DepthMap(resolution_px=6, yaws=[0.3, 0.0]), torch.float32)]
)
def test_a_real_generator_gives_the_same_numbers_each_way(toy_networks, tmp_path, representation, dtype):
    found = [
        open_store(str(toy_networks), representation, SAMPLE, storage=storage, folder=tmp_path, device="cpu").get(
            SampleKey(5, 0.7)
        )
        for storage in ("on_the_fly", "memory", "disk", "disk")
    ]
    assert all(torch.equal(x, found[0]) for x in found)
    assert found[0].shape == representation.shape() and found[0].dtype == dtype
    assert found[0].float().std() > 0


def test_disk_cache_is_kept_and_keyed(tmp_path):
    keys = [SampleKey(seed, 1.0) for seed in range(3)]
    assert store("disk", tmp_path).fill(keys) == 3
    assert store("disk", tmp_path).fill(keys) == 0
    others = [
        store("disk", tmp_path, source="b"),  # another generator
        store("disk", tmp_path, slab=dataclasses.replace(SLAB, grid="skewed")),
        store("disk", tmp_path, sample=dataclasses.replace(SAMPLE, conditioning="published")),
        store("disk", tmp_path, sample=dataclasses.replace(SAMPLE, truncation_cutoff=None)),
    ]
    for other in others:
        assert other.fill(keys) == 3
    first = store("disk", tmp_path)
    assert first.path(keys[0]).parent != first.path(SampleKey(0, 0.5)).parent
    assert len({s.path(keys[0]).parent for s in [first, *others]}) == 5
    names = sorted(path.name for path in first.path(keys[0]).parent.iterdir())
    assert names == ["about.json", "s_0.npy", "s_1.npy", "s_2.npy"]  # no temporary files are left


@pytest.mark.parametrize("damage", ["cut", "shape", "type", "pickle", "empty"])
def test_damaged_cache_files_are_named(tmp_path, damage):
    disk, key = store("disk", tmp_path), SampleKey(1, 1.0)
    disk.get(key)
    path = disk.path(key)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        array = np.zeros((2, 3, 4), np.float16) if damage == "shape" else np.zeros(SLAB.shape(), np.float64)
        np.save(path, np.array([{}], dtype=object) if damage == "pickle" else array, allow_pickle=True)
    with pytest.raises(ValueError, match=r"s_1\.npy.*delete it") as error:
        disk.get(key)
    assert "\n" not in str(error.value)


def test_density_beyond_half_is_refused():
    bad = RepresentationStore(lambda seed, cfg: torch.full(SLAB.shape(), 1e6), SLAB, SAMPLE, source="a")
    with pytest.raises(ValueError, match=r"seed 3: its sigma_field is not finite \(limit 65504\)"):
        bad.get(SampleKey(3, 1.0))


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[["])
def test_a_damaged_description_is_named(tmp_path, text):
    disk, key = store("disk", tmp_path), SampleKey(1, 1.0)
    disk.fill([key])
    (disk.path(key).parent / "about.json").write_text(text)
    with pytest.raises(ValueError, match=r"about\.json: cannot be read.*delete the folder"):
        store("disk", tmp_path).get(key)


def test_store_arguments():
    with pytest.raises(ValueError, match="memory, disk, on_the_fly"):
        store("tape")
    with pytest.raises(ValueError, match=r"data\.store_dir"):
        store("disk")


def ranked(num: int, size: int = 2, psi: float = 1.0) -> list[Ranking]:
    return [Ranking(n, tuple(range(10 * n, 10 * n + size)), "x", psi) for n in range(num)]


def config(**changes) -> DataConfig:
    return DataConfig(representation=SLAB, anchors=AnchorConfig(num_train=5, num_val=2, num_test=2), **changes)


def test_published_split_sizes_and_disjoint_seeds():
    splits = make_splits(ranked(4346), DataConfig(), seed=42)
    assert [len(splits.rows[s]) for s in ("train", "val", "test")] == [3042, 652, 652]
    assert [len(splits.anchors[s]) for s in ("train", "val", "test")] == [700, 150, 150]
    seeds = [set(splits.keys(s)) for s in ("train", "val", "test")]
    assert sum(len(s) for s in seeds) == len(set.union(*seeds)) == 2 * 4346 + 1000


def test_no_shape_of_two_annotators_is_on_two_sides():
    """Both rank the same 40 batches, and the second one some shapes once more, in other batches."""
    both = [dataclasses.replace(r, annotator=who) for who in ("ann", "bob") for r in ranked(40)]
    both += [Ranking(100 + n, (10 * n, 10 * (n + 1)), "bob") for n in range(0, 10, 2)]
    splits = make_splits(both, config(), seed=42)
    assert sum(len(rows) for rows in splits.rows.values()) == len(both)
    shapes = {name: {item for row in rows for item in row.items} for name, rows in splits.rows.items()}
    batches = {name: {row.batch for row in rows} for name, rows in splits.rows.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not shapes[one] & shapes[other]
        assert not batches[one] & batches[other]
    with pytest.raises(ValueError, match="without a shape in common, got 1"):
        make_splits([Ranking(n, (7, 10 + n), "ann") for n in range(9)], config(), seed=42)


def test_rows_are_anchor_winner_loser():
    cfg = config()
    rows = RankedSeeds(make_splits(ranked(20, size=4), cfg, seed=1), "train", store(), cfg, seed=1)
    for row in range(len(rows)):
        anchor, *items = rows.items(0, row)
        assert anchor.psi == 0.25
        assert anchor.seed >= 100000
        assert items == [rows.rows[row].items[0], rows.rows[row].items[-1]]
    whole = RankedSeeds(make_splits(ranked(20, size=4), cfg, seed=1), "train", store(), config(reduction="all"), seed=1)
    assert len(whole.items(0, 0)) == 5


def test_anchors_differ_by_epoch_and_repeat_for_the_same_one():
    seeds = np.arange(50)
    drawn = [[row_anchor(seeds, seed=1, epoch=e, row=r, probability=1) for r in range(30)] for e in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
    some = [row_anchor(seeds, seed=1, epoch=0, row=r, probability=0.3) for r in range(400)]
    assert 80 < sum(anchor is not None for anchor in some) < 160
    assert row_anchor(seeds, seed=1, epoch=0, row=0, probability=0) is None
    assert row_anchor(seeds[:0], seed=1, epoch=0, row=0, probability=1) is None


def test_batches_hold_each_sample_once_and_pad():
    cfg = config(anchor_probability=0.5)
    rows = RankedSeeds(make_splits(ranked(40), cfg, seed=1), "train", store(), cfg, seed=1)
    samples = [rows[(0, row)] for row in range(len(rows))]
    batch = collate(samples)
    keys = list(dict.fromkeys(key for sample in samples for key in sample.items))
    assert len(batch.x) == len(keys)
    for sample, index in zip(samples, batch.index.tolist(), strict=True):
        assert [keys[i] for i in index if i >= 0] == list(sample.items)
        assert index[len(sample.items) :] == [-1] * (3 - len(sample.items))


@pytest.mark.parametrize("start", range(8))
def test_plan_resumes_at_any_step(start):
    """7 rows in batches of 3: 3 batches an epoch, the small one kept."""
    position = {"steps": 0}
    plan = PlannedBatches(7, 3, seed=4, position=lambda: position["steps"])
    whole = []
    for epoch in range(3):
        position["steps"] = 3 * epoch
        whole += list(plan)
    position["steps"] = start
    rest = list(plan)
    assert rest == whole[start : start + len(rest)]
    assert len(rest) == 3 - start % 3
    for epoch in range(3):
        batches = whole[3 * epoch : 3 * epoch + 3]
        assert sorted(row for batch in batches for _, row in batch) == list(range(7))
    assert not np.array_equal(epoch_order(7, seed=4, epoch=0), epoch_order(7, seed=4, epoch=1))


def test_mixed_psi_is_refused():
    with pytest.raises(ValueError, match=r"one psi, found \[0\.7, 1\.0\]"):
        make_splits(ranked(5) + [Ranking(9, (900, 901), "x", 0.7)], DataConfig(), seed=1)


def test_proportion_keeps_a_named_share():
    full, part = (make_splits(ranked(100), config(proportion=p), seed=3) for p in (1.0, 0.2))
    assert [len(part.rows[s]) for s in ("train", "val", "test")] == [14, 3, 3]
    assert set(part.rows["train"]) < set(full.rows["train"])


def test_faults_of_a_data_config():
    faults = config(storage="memory", num_workers=2, batch_size=0, reduction="some", anchor_probability=2).validate()
    for name in ("num_workers", "batch_size", "reduction", "anchor_probability"):
        assert any(name in fault for fault in faults)
