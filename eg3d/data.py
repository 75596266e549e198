"""Reading an EG3D data set: images and camera labels, in a folder or an uncompressed zip, in a repeatable order.

Format (EG3D): image files, and `dataset.json` with `labels`: a list of [relative path, 25 numbers]. A set made by this
project may also hold two arrays in the order of `labels`, used by the reconstruction warm start: `codes.npy`, float32
[num_images, K], the standard-normal parameters of the head in each image, and `depths.npy`, float32 [num_images, H, H],
the true distances along the rays through its pixel centres (world units, 0 = background).
Letters: N batch, H image side, K head parameters.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eg3d.cameras import mirrored_labels
from eg3d.data_files import DataFiles, shown
from eg3d.data_labels import LabelTable, check_maps, read_array, read_labelled
from eg3d.png import read_pixels

_LOG = logging.getLogger(__name__)


class ImageDataset:
    """Images and labels of one data set. Reading is thread-safe; only labels, codes and depths stay in memory.

    max_images keeps a subset of that many images, chosen by `seed`; None = all. With `mirror` every image comes again,
    mirrored, from the mirrored camera; nothing tells what head parameters a mirrored head has, so codes are None.

    Raises FileNotFoundError if there is no set, ValueError in one line about what is wrong with it: every image must
    have a label and every label an image (see data_labels for the spellings that are the same), and labels must be
    cameras (see camera_checks; what is only unlikely is logged).
    """

    def __init__(self, path: str | Path, *, max_images: int | None = None, mirror: bool = False, seed: int = 0) -> None:
        if max_images is not None and max_images < 1:
            raise ValueError(f"max_images: {max_images} is below 1")
        self.path = Path(path)
        make = f"make portraits of a head model with 'python -m dataset_preprocessing.human_heads out={self.path}'"
        self._files = DataFiles(path, what="data: ", hint=make)
        found = read_labelled(self._files)
        for line in found.warnings:
            _LOG.warning("%s: %s", self.path, line)
        order = list(found.rows)  # by path, whatever the file's order
        if max_images is not None and max_images < len(order):
            order = [order[k] for k in np.sort(np.random.RandomState(seed).permutation(len(order))[:max_images])]
        self.names: list[str] = order
        self.recipe = found.table.recipe  # how the data set was made, where it says so
        kept = np.array([found.rows[name] for name in order])
        self.labels: Tensor = torch.from_numpy(found.table.labels[kept].astype(np.float32))
        self.resolution: int = self._pixels(self.names[0]).shape[-1]
        self.codes: Tensor | None = self._array(found.table, "codes", kept)
        self.depths: Tensor | None = self._array(found.table, "depths", kept)
        self._num_originals = len(self.names)
        if mirror:
            self._add_mirrored()

    def __len__(self) -> int:
        return len(self.names)

    def images(self, indices: list[int]) -> Tensor:
        """uint8 [N, 3, H, H] of the images at `indices`."""
        return torch.from_numpy(np.stack([self._image(index) for index in indices]))

    def label_std(self) -> Tensor:
        """Population standard deviation of every label component, [25]."""
        return self.labels.std(dim=0, unbiased=False)

    def _add_mirrored(self) -> None:
        self.names = self.names * 2
        self.labels = torch.cat([self.labels, mirrored_labels(self.labels)])
        self.codes = None
        if self.depths is not None:
            self.depths = torch.cat([self.depths, self.depths.flip(-1)])

    def _image(self, index: int) -> np.ndarray:
        pixels = self._decode(self.names[index])
        return pixels[..., ::-1] if index >= self._num_originals else pixels

    def _array(self, table: LabelTable, name: str, rows: np.ndarray) -> Tensor | None:
        """One of the optional arrays, from the order of dataset.json into that of `names`."""
        array = read_array(self._files, table, name)
        if name == "depths":
            check_maps(self._files, name, array, self.resolution, self.resolution)
        return None if array is None else torch.from_numpy(array[rows])

    def _decode(self, name: str) -> np.ndarray:
        """uint8 [3, H, H] of an image of the set's size."""
        pixels = self._pixels(name)
        if pixels.shape[-1] != self.resolution:
            side = pixels.shape[-1]
            raise ValueError(f"{self.path}: {name} has {side} pixels a side, the first image {self.resolution}")
        return pixels

    def _pixels(self, name: str) -> np.ndarray:
        content = self._files.read(name)
        try:
            pixels = read_pixels(content)
        except ValueError as error:
            raise ValueError(f"{self.path}: {shown(name)} is not a readable image ({error})") from None
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
    other: Tensor | None = None  # [N, 25] the label of another image of the same batch
    label_std: Tensor | None = None  # [25] unbiased deviation of the labels over the whole batch

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda tensor: tensor.to(device))

    def rows(self, rows: list[int]) -> Batch:
        """Some of the images."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        optional = (self.code, self.depth, self.other)
        code, depth, other = (None if tensor is None else change(tensor) for tensor in optional)
        label = change(self.label)
        std = None if self.label_std is None else self.label_std.to(label.device)
        return Batch(change(self.image), label, code, depth, other, std)


def label_std(labels: Tensor) -> Tensor:
    """Deviation [25] of a batch of labels [N, 25], unbiased; 0 for a single one."""
    return labels.std(0) if len(labels) > 1 else torch.zeros_like(labels[0])


def shuffled_indices(num_images: int, *, seed: int, start: int) -> Iterator[int]:
    """Endless data order: one permutation an epoch, from (seed, epoch); `start` is the position to continue from."""
    epoch, offset = divmod(start, num_images)
    while True:
        order = np.random.RandomState([seed & 0xFFFFFFFF, epoch]).permutation(num_images)
        yield from (int(index) for index in order[offset:])
        epoch, offset = epoch + 1, 0


def batches(
    dataset: ImageDataset,
    batch: int,
    *,
    seed: int,
    start: int = 0,
    workers: int = 2,
    prefetch: int = 2,
    rows: list[int] | None = None,
) -> Iterator[Batch]:
    """Endless batches in the order of `shuffled_indices`, decoded ahead by threads; they do not change the order.

    `rows` names the samples of every batch that are wanted, for processes that share the work; None = all.
    """
    order = shuffled_indices(len(dataset), seed=seed, start=start)
    kept = list(range(batch)) if rows is None else rows

    def load(whole: list[int]) -> Batch:
        labels, indices = dataset.labels[whole], [whole[row] for row in kept]
        pixels = dataset.images(indices).to(torch.float32) / 127.5 - 1
        code, depth = (None if table is None else table[indices] for table in (dataset.codes, dataset.depths))
        return Batch(pixels, labels[kept], code, depth, labels.roll(1, dims=0)[kept], label_std(labels))

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        waiting: deque[Future[Batch]] = deque()
        while True:
            while len(waiting) < prefetch:
                waiting.append(pool.submit(load, [next(order) for _ in range(batch)]))
            yield waiting.popleft().result()
