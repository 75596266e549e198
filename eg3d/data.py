"""Reading an EG3D data set: images and camera labels, in a folder or an uncompressed zip, in a repeatable order.

Format (EG3D): image files, and `dataset.json` with `labels`: a list of [relative path, 25 numbers]. A set made by this
project may also hold `codes.npy`, float32 [num_images, K], in the order of `labels`: the standard-normal parameters of
the head in each image, used by the reconstruction warm start.
Letters: N batch, H image side, K head parameters.
"""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

LABEL_SIZE = 25


class ImageDataset:
    """Images and labels of one data set; reading is thread-safe and keeps nothing but the labels in memory."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(
                f"data: {self.path} does not exist; make the synthetic heads with "
                f"'python -m dataset_preprocessing.synthetic_heads out={self.path}'"
            )
        self._zip = zipfile.ZipFile(self.path) if self.path.is_file() else None
        self._lock = threading.Lock()
        entries = self._labels_table()
        self.names: list[str] = [str(name) for name, _ in entries]
        self.labels: Tensor = torch.tensor([label for _, label in entries], dtype=torch.float32)
        if self.labels.ndim != 2 or self.labels.shape[1] != LABEL_SIZE:
            raise ValueError(f"{self.path}: labels must have {LABEL_SIZE} numbers each (c2w, K), got {self.labels.shape}")
        self.codes: Tensor | None = self._codes()
        self.resolution: int = self._decode(self.names[0]).shape[-1]

    def __len__(self) -> int:
        return len(self.names)

    def images(self, indices: list[int]) -> Tensor:
        """uint8 [N, 3, H, H] of the images at `indices`."""
        return torch.from_numpy(np.stack([self._decode(self.names[index]) for index in indices]))

    def label_std(self) -> Tensor:
        """Population standard deviation of every label component, [25]."""
        return self.labels.std(dim=0, unbiased=False)

    def _labels_table(self) -> list[list[Any]]:
        try:
            table = json.loads(self._bytes("dataset.json"))
        except (KeyError, FileNotFoundError):
            raise ValueError(f"{self.path}: no dataset.json; EG3D needs a camera label for every image") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path}: dataset.json is not JSON ({error})") from None
        labels = table.get("labels") if isinstance(table, dict) else None
        if not labels:
            raise ValueError(f"{self.path}: dataset.json has no labels; expected a list of [path, 25 numbers]")
        return sorted(labels, key=lambda item: item[0])

    def _codes(self) -> Tensor | None:
        try:
            raw = self._bytes("codes.npy")
        except (KeyError, FileNotFoundError):
            return None
        codes = np.load(io.BytesIO(raw), allow_pickle=False)
        if codes.ndim != 2 or len(codes) != len(self):
            raise ValueError(f"{self.path}: codes.npy is {list(codes.shape)}, expected [{len(self)}, K]")
        return torch.from_numpy(codes.astype(np.float32))

    def _bytes(self, name: str) -> bytes:
        if self._zip is None:
            return (self.path / name).read_bytes()
        with self._lock:
            return self._zip.read(name)

    def _decode(self, name: str) -> np.ndarray:
        try:
            with PIL.Image.open(io.BytesIO(self._bytes(name))) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (KeyError, FileNotFoundError):
            raise ValueError(f"{self.path}: dataset.json names {name}, which is not in the set") from None
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


@dataclass(frozen=True)
class Batch:
    """One batch of real images."""

    image: Tensor  # [N, 3, H, H], -1 to 1
    label: Tensor  # [N, 25]
    code: Tensor | None  # [N, K] head parameters, where the set has them

    def to(self, device: torch.device) -> Batch:
        code = None if self.code is None else self.code.to(device)
        return Batch(self.image.to(device), self.label.to(device), code)


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
    """Endless batches in the order of `shuffled_indices`, decoded ahead by threads; the order does not depend on them."""
    order = shuffled_indices(len(dataset), seed=seed, start=start)

    def load(indices: list[int]) -> Batch:
        pixels = dataset.images(indices).to(torch.float32) / 127.5 - 1
        code = None if dataset.codes is None else dataset.codes[indices]
        return Batch(pixels, dataset.labels[indices], code)

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        waiting: deque[Future[Batch]] = deque()
        while True:
            while len(waiting) < prefetch:
                waiting.append(pool.submit(load, [next(order) for _ in range(batch)]))
            yield waiting.popleft().result()
