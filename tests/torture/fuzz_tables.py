"""Damaged tables and arrays: rankings, scores, codes and depths of data sets, stored representations."""

from __future__ import annotations

import functools
import io
import math
import random
from pathlib import Path

import fuzz_datasets
import numpy as np
import torch
from mutations import NASTY_NUMBERS, FuzzReport, fuzzed, mutated_bytes

from eg3d.data import ImageDataset
from eg3d.representations.sigma_field import SigmaField
from eg3d.samples import SampleConfig
from reward_model_training.data.representation_store import RepresentationStore, SampleKey
from reward_model_training.preferences.rankings import MAX_ITEMS, Ranking, read_rankings, write_rankings
from reward_model_training.preferences.simulated_rankings import read_scores

CELLS = (*NASTY_NUMBERS, "", " ", "x", "12.0", "1e3", "nan", "inf", '"', "\0", "\udc80", "é", "1,2", "0x10", "1_0")


def fuzz_rankings(cases: int, seed: int) -> FuzzReport:
    return fuzzed(cases, seed, _rankings, _read_rankings)


def fuzz_scores(cases: int, seed: int) -> FuzzReport:
    return fuzzed(cases, seed, _scores, _read_scores)


def fuzz_codes(cases: int, seed: int) -> FuzzReport:
    return fuzzed(cases, seed, _data_set, _read_codes)


def fuzz_representations(cases: int, seed: int) -> FuzzReport:
    return fuzzed(cases, seed, _store, _read_store)


# ---------------------------------------------------------------------------------------------- rankings and scores


def _rankings(rng: random.Random, folder: Path) -> Path:
    path = folder / "rankings.csv"
    rows = [Ranking(batch, tuple(range(10 * batch, 10 * batch + 2 + batch % 5)), "simulated") for batch in range(6)]
    write_rankings(path, rows)
    path.write_bytes(_damaged_table(rng, path.read_text(encoding="utf-8")))
    return path


def _read_rankings(path: Path) -> None:
    for ranking in read_rankings(path):
        assert 2 <= len(set(ranking.seeds)) <= MAX_ITEMS and 0 <= ranking.psi <= 2


def _scores(rng: random.Random, folder: Path) -> Path:
    path = folder / "scores.csv"
    header = "seed,score,roughness,stray,holes,relief,asymmetry"
    lines = [header, *(f"{seed},{9 - seed},0.5,1e-3,0,-0.25,0.125" for seed in range(8))]
    path.write_bytes(_damaged_table(rng, "\n".join(lines) + "\n"))
    return path


def _read_scores(path: Path) -> None:
    for seed, judgement in read_scores(path).items():
        assert seed >= 0 and math.isfinite(judgement.score), "a score that is not finite"
        assert not any(map(math.isnan, judgement.faults.values())), "a fault that is no number"


def _damaged_table(rng: random.Random, text: str) -> bytes:
    """A table with damage to a cell, a line, its header, its encoding, or its bytes."""
    lines = [line.split(",") for line in text.splitlines()]
    kind, row = rng.randrange(9), rng.randrange(len(lines))
    column = rng.randrange(len(lines[row]))
    if kind == 0:
        return mutated_bytes(rng, text.encode())
    if kind <= 3:
        lines[row][column] = rng.choice(CELLS)
    elif kind == 4:
        del lines[row]
    elif kind == 5:
        lines.insert(row, list(lines[rng.randrange(len(lines))]))
    elif kind == 6:
        del lines[row][column:]
    elif kind == 7:
        lines[row].insert(column, rng.choice(CELLS))
    else:
        rng.shuffle(lines)
    end = rng.choice(("\n",) * 6 + ("\r\n", "\r", "\n\n", ""))
    encoding = rng.choice(("utf-8",) * 8 + ("utf-8-sig", "utf-16"))
    text = end.join(",".join(line) for line in lines) + end
    return text.encode(encoding, "surrogatepass" if encoding == "utf-16" else "surrogateescape")


# ---------------------------------------------------------------------------------------------- arrays


def _data_set(rng: random.Random, folder: Path) -> Path:
    """A data set whose codes or depths are damaged."""
    files = _members()
    name = rng.choice(("codes.npy", "depths.npy"))
    path = folder / "set"
    for other, content in files.items():
        (path / other).parent.mkdir(parents=True, exist_ok=True)
        (path / other).write_bytes(_damaged_array(rng, content) if other == name else content)
    return path


@functools.cache
def _members() -> dict[str, bytes]:
    return fuzz_datasets.members()


def _read_codes(path: Path) -> None:
    dataset = ImageDataset(path)
    for array in (dataset.codes, dataset.depths):
        assert array is None or (len(array) == len(dataset) and bool(torch.isfinite(array).all()))


def _damaged_array(rng: random.Random, content: bytes) -> bytes:
    """A .npy file with damage to its bytes or its header, or of another shape, type or numbers."""
    kind = rng.randrange(6)
    if kind <= 1:
        return mutated_bytes(rng, content)
    if kind == 2:  # the header, which is text
        end = content.index(b"\n") + 1
        head = content[10:end].decode("latin-1")
        words = (
            "<f4",
            "|O",
            "<f16",
            "<c8",
            "<U9",
            "True",
            "(99999999999,)",
            "(-1,)",
            "()",
            "__import__('os')",
            "1" * 400,
        )
        old = rng.choice(("<f4", "False", "(4, 3)", "shape", "descr", "{", "}", ","))
        text = head.replace(old, rng.choice(words), 1)
        return content[:8] + len(text).to_bytes(2, "little") + text.encode("latin-1") + content[end:]
    array = np.load(io.BytesIO(content), allow_pickle=False).copy()
    if kind == 3:
        odd = rng.choice((np.nan, np.inf, -np.inf, 6e4, -1.0, 0.0))
        array.reshape(-1)[rng.randrange(array.size)] = odd
    elif kind == 4:
        array = array.astype(rng.choice((np.float64, np.float16, np.int8, np.bool_, np.complex64, np.uint64)))
    else:
        array = rng.choice((array[:-1], array[None], array.T, array[..., :0], array.reshape(-1), np.float32(1)))
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _representations(folder: Path) -> RepresentationStore:
    slab = SigmaField(resolution=16, grid="exact")
    return RepresentationStore(
        lambda seed, cfg: torch.full((4, 4, 4), float(seed)), slab, SampleConfig(), source="0" * 64, storage="disk",
        folder=folder,
    )  # fmt: skip


KEY = SampleKey(3, 1.0)


def _store(rng: random.Random, folder: Path) -> Path:
    store = _representations(folder)
    store.get(KEY)
    path = store.path(KEY)
    if rng.random() < 0.7:
        path.write_bytes(_damaged_array(rng, path.read_bytes()))
    else:
        about = path.with_name("about.json")
        about.write_bytes(mutated_bytes(rng, about.read_bytes()))
    return path.parent


def _read_store(path: Path) -> None:
    found = _representations(path.parent).get(KEY)
    assert found.shape == (4, 4, 4) and found.dtype == torch.float16
    assert bool(torch.isfinite(found).all()), "a number that is not finite"
