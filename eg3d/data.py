"""Reading an EG3D data set: images and camera labels, in a folder or an uncompressed zip, in a repeatable order.

Format (EG3D): image files, and `dataset.json` with `labels`: a list of [relative path, 25 numbers]. A set made by this
project may also hold two arrays in the order of `labels`, used by the reconstruction warm start: `codes.npy`, float32
[num_images, K], the standard-normal parameters of the head in each image, and `depths.npy`, float32 [num_images, H, H],
the true distances along the rays through its pixel centres (world units, 0 = background).
Letters: N batch, H image side, K head parameters.
"""

from __future__ import annotations

import io
import json
import math
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eg3d.png import read_pixels

LABEL_SIZE = 25
OPTIONAL_ARRAYS = {"codes": (2, "K"), "depths": (3, "H, H")}  # NAME.npy: dimensions, and their names after num_images


class ImageDataset:
    """Images and labels of one data set. Reading is thread-safe; only labels, codes and depths stay in memory."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(
                f"data: {self.path} does not exist; make the synthetic heads with "
                f"'python -m dataset_preprocessing.synthetic_heads out={self.path}'"
            )
        self._zip = self._opened_zip() if self.path.is_file() else None
        self._lock = threading.Lock()
        entries = self._labels_table()
        order = sorted(range(len(entries)), key=lambda index: entries[index][0])  # by path, whatever the file's order
        self.names: list[str] = [entries[index][0] for index in order]
        self.labels: Tensor = torch.tensor([entries[index][1] for index in order], dtype=torch.float32)
        self.codes: Tensor | None = self._array("codes", order)
        self.depths: Tensor | None = self._array("depths", order)
        self._check_names()
        self.resolution: int = self._pixels(self.names[0]).shape[-1]

    def __len__(self) -> int:
        return len(self.names)

    def images(self, indices: list[int]) -> Tensor:
        """uint8 [N, 3, H, H] of the images at `indices`."""
        return torch.from_numpy(np.stack([self._decode(self.names[index]) for index in indices]))

    def label_std(self) -> Tensor:
        """Population standard deviation of every label component, [25]."""
        return self.labels.std(dim=0, unbiased=False)

    def _opened_zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except zipfile.BadZipFile:
            raise ValueError(f"{self.path}: not a zip file; give an EG3D data set (zip or folder)") from None

    def _labels_table(self) -> list[tuple[str, list[float]]]:
        try:
            table = json.loads(self._bytes("dataset.json"))
        except (KeyError, FileNotFoundError):
            raise ValueError(f"{self.path}: no dataset.json; EG3D needs a camera label for every image") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path}: dataset.json is not JSON ({error})") from None
        labels = table.get("labels") if isinstance(table, dict) else None
        if not labels:
            raise ValueError(f"{self.path}: dataset.json has no labels; expected a list of [path, 25 numbers]")
        if not isinstance(labels, list):
            raise ValueError(f"{self.path}: labels must be a list of [path, 25 numbers], got {type(labels).__name__}")
        return [self._checked_entry(index, item) for index, item in enumerate(labels)]

    def _checked_entry(self, index: int, item: Any) -> tuple[str, list[float]]:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
            raise ValueError(f"{self.path}: entry {index} of labels is not [path, {LABEL_SIZE} numbers]")
        name, label = item
        numbers = label if isinstance(label, list) else [label]
        is_good = all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
        if not is_good or len(numbers) != LABEL_SIZE:
            found = f"{len(numbers)} values" if is_good else "values that are not finite numbers"
            raise ValueError(f"{self.path}: the label of {name} must have {LABEL_SIZE} numbers (c2w, K), got {found}")
        return name, numbers

    def _check_names(self) -> None:
        """Every image must be there; one that is not is better found now than in the middle of a run."""
        there = set(self._zip.namelist()) if self._zip else None
        for name in self.names:
            if not (name in there if there is not None else (self.path / name).is_file()):
                raise ValueError(f"{self.path}: dataset.json names {name}, which is not in the set")

    def _array(self, name: str, order: list[int]) -> Tensor | None:
        """One of OPTIONAL_ARRAYS, from the order of dataset.json into that of `names`."""
        (ndim, shape), name = OPTIONAL_ARRAYS[name], f"{name}.npy"
        try:
            raw = self._bytes(name)
        except (KeyError, FileNotFoundError):
            return None
        try:
            array = np.load(io.BytesIO(raw), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{self.path}: {name} is not a readable array ({error})") from None
        if array.ndim != ndim or len(array) != len(self):
            raise ValueError(f"{self.path}: {name} is {list(array.shape)}, expected [{len(self)}, {shape}]")
        return torch.from_numpy(array[order].astype(np.float32))

    def _bytes(self, name: str) -> bytes:
        if self._zip is None:
            return (self.path / name).read_bytes()
        with self._lock:
            return self._zip.read(name)

    def _decode(self, name: str) -> np.ndarray:
        """uint8 [3, H, H] of an image of the set's size."""
        pixels = self._pixels(name)
        if pixels.shape[-1] != self.resolution:
            side = pixels.shape[-1]
            raise ValueError(f"{self.path}: {name} has {side} pixels a side, the first image {self.resolution}")
        return pixels

    def _pixels(self, name: str) -> np.ndarray:
        try:
            pixels = read_pixels(self._bytes(name))
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path}: {name} is not a readable image ({error})") from None
        if pixels.shape[0] != pixels.shape[1]:
            raise ValueError(f"{self.path}: {name} is {pixels.shape[1]} by {pixels.shape[0]} pixels, expected a square")
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).transpose(2, 0, 1))


@dataclass(frozen=True)
class Batch:
    """One batch of real images."""

    image: Tensor  # [N, 3, H, H], -1 to 1
    label: Tensor  # [N, 25]
    code: Tensor | None  # [N, K] head parameters, where the set has them
    depth: Tensor | None = None  # [N, H, H] world units along the rays, 0 = background, where the set has them

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda tensor: tensor.to(device))

    def part(self, part: slice) -> Batch:
        """Some of the images."""
        return self._each(lambda tensor: tensor[part])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        code, depth = (None if tensor is None else change(tensor) for tensor in (self.code, self.depth))
        return Batch(change(self.image), change(self.label), code, depth)


def shuffled_indices(num_images: int, *, seed: int, start: int) -> Iterator[int]:
    """Endless data order: one permutation an epoch, from (seed, epoch); `start` is the position to continue from."""
    epoch, offset = divmod(start, num_images)
    while True:
        order = np.random.RandomState([seed & 0xFFFFFFFF, epoch]).permutation(num_images)
        yield from (int(index) for index in order[offset:])
        epoch, offset = epoch + 1, 0


def batches(
    dataset: ImageDataset, batch: int, *, seed: int, start: int = 0, workers: int = 2, prefetch: int = 2
) -> Iterator[Batch]:
    """Endless batches in the order of `shuffled_indices`, decoded ahead by threads; they do not change the order."""
    order = shuffled_indices(len(dataset), seed=seed, start=start)

    def load(indices: list[int]) -> Batch:
        pixels = dataset.images(indices).to(torch.float32) / 127.5 - 1
        code, depth = (None if rows is None else rows[indices] for rows in (dataset.codes, dataset.depths))
        return Batch(pixels, dataset.labels[indices], code, depth)

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        waiting: deque[Future[Batch]] = deque()
        while True:
            while len(waiting) < prefetch:
                waiting.append(pool.submit(load, [next(order) for _ in range(batch)]))
            yield waiting.popleft().result()
