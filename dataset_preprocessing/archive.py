"""Data sets in the EG3D format, written and checked: a folder or an uncompressed zip of images with camera labels.

Names are DDDDD/imgDDDDDDDD.png; `dataset.json` holds `labels`, a list of [name, 25 numbers], and `recipe`, how the set
was made. Optional arrays in the order of `labels`: `codes.npy`, float32 [num_images, K], the numbers that made each
head, `depths.npy`, float32 [num_images, R, R], its true distances in world units (0 = background), and `normals.npy`,
float32 [num_images, R, R, 3], its true normals in the world (0 = background). The same content gives the same bytes:
fixed time stamps, fixed PNG settings, fixed order. `eg3d.data.ImageDataset` reads it.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from eg3d.array_files import npy_bytes
from eg3d.data_files import DataFiles, shown
from eg3d.data_labels import LABEL_SIZE, OPTIONAL_ARRAYS, check_maps, read_array, read_labelled
from eg3d.leftovers import without_leftovers
from eg3d.png import read_pixels
from eg3d.safe_write import atomic_path, naming_disk_faults

ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that zip can store; a real one would change the bytes of every run
PNG_LEVEL = 6


def image_name(index: int) -> str:
    """Name of image `index` inside the data set, for example 00000/img00000012.png."""
    digits = f"{index:08d}"
    return f"{digits[:5]}/img{digits}.png"


def mirrored_name(name: str) -> str:
    """Name of the mirrored copy of an image: 00000/img00000012.png -> 00000/img00000012_mirror.png."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}_mirror{dot}{suffix}"


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 picture, [R, R, 3] or grey [R, R, 1], always with the same settings."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image).save(
        buffer, format="png", compress_level=PNG_LEVEL, optimize=False
    )
    return buffer.getvalue()


class ArchiveWriter:
    """Files go in one by one, in order; `create_archive` makes one and puts it into place at the end."""

    def __init__(self, root: Path, handle: zipfile.ZipFile | None) -> None:
        self._root, self._zip = root, handle
        self._labels: list[tuple[str, list[float]]] = []
        self._num_images, self._num_originals = 0, 0

    def add_image(self, png: bytes, label: Sequence[float] | None, *, is_mirror: bool = False) -> str:
        """Store the next image with its 25-number label; returns its name.

        A label of None leaves the whole set without labels. `is_mirror`: this is the mirrored copy of the image before.
        """
        if label is not None and len(label) != LABEL_SIZE:
            raise ValueError(f"a camera label has {LABEL_SIZE} numbers (c2w, K), got {len(label)}")
        if label is not None and not all(map(math.isfinite, label)):
            raise ValueError(f"a camera label has numbers that are not finite: {list(label)}")
        name = mirrored_name(image_name(self._num_originals - 1)) if is_mirror else image_name(self._num_originals)
        self._write(name, png)
        self._num_images += 1
        self._num_originals += not is_mirror
        if label is not None:
            self._labels.append((name, [float(v) for v in label]))
        return name

    def finish(
        self,
        *,
        recipe: dict[str, Any],
        codes: np.ndarray | None = None,
        depths: np.ndarray | None = None,
        normals: np.ndarray | None = None,
    ) -> None:
        """Write the table of labels, null unless every image has one, and the optional arrays.

        codes [num_images, K]; depths [num_images, R, R] world units; normals [num_images, R, R, 3].
        """
        for name, array in (("codes", codes), ("depths", depths), ("normals", normals)):
            if array is None:
                continue
            sides = OPTIONAL_ARRAYS[name]
            if array.ndim != 1 + len(sides) or len(array) != self._num_images:
                raise ValueError(f"{name} must be [{self._num_images}, {', '.join(sides)}], got {list(array.shape)}")
            self._write(f"{name}.npy", npy_bytes(np.ascontiguousarray(array, dtype=np.float32)))
        is_labelled = len(self._labels) == self._num_images
        table = {"labels": [list(item) for item in self._labels] if is_labelled else None, "recipe": recipe}
        self._write("dataset.json", json.dumps(table, allow_nan=False).encode())

    def _write(self, name: str, content: bytes | memoryview) -> None:
        if self._zip is not None:
            self._zip.writestr(zipfile.ZipInfo(name, date_time=ZIP_TIME), content)
            return
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextlib.contextmanager
def create_archive(path: str | Path) -> Iterator[ArchiveWriter]:
    """A writer for `path`: a zip when it ends in .zip, else a folder, which must be new or empty.

    The result appears under its name only when the block ends without an error; what killed runs left of it is removed
    first. Raises ValueError if nothing can be written there, OSError that names `path` where the disk says no.
    """
    check_destination(path)
    path = Path(path)
    is_zip = path.suffix == ".zip"
    with atomic_path(path) if is_zip else without_leftovers(path, _atomic_folder(path)) as temporary:
        if is_zip:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as handle:
                yield ArchiveWriter(path, handle)
        else:
            yield ArchiveWriter(temporary, None)


def check_destination(path: str | Path) -> None:
    """Raise ValueError for a path that is empty, names no file of its own, or is taken by something else."""
    if not str(path) or Path(path).name in ("", ".."):
        raise ValueError(f"out: {str(path)!r} is no name for a data set; give a .zip file or a new folder")
    path = Path(path)
    if path.suffix == ".zip" and path.is_dir():
        raise ValueError(f"{path} is a folder; give another name for the zip file, or remove the folder")
    if path.suffix != ".zip" and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        raise ValueError(f"{path}: the destination folder must be new or empty; give another out=...")


@contextlib.contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends without an error."""
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    temporary.mkdir()
    try:
        with naming_disk_faults(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class ArchiveSummary:
    """What a checked data set holds."""

    names: tuple[str, ...]
    labels: np.ndarray  # float32 [num_images, 25]
    resolution: int
    codes: np.ndarray | None  # float32 [num_images, K]
    depths: np.ndarray | None  # float32 [num_images, R, R] world units, 0 = background
    normals: np.ndarray | None  # float32 [num_images, R, R, 3] unit length in the world, 0 = background
    recipe: dict[str, Any]


def check_archive(path: str | Path) -> ArchiveSummary:
    """Read and check a whole data set, every image included.

    Raises FileNotFoundError if there is none, ValueError with one line about the first thing that is wrong.
    """
    make = f"make it with 'python -m dataset_preprocessing.human_heads out={path}'"
    files = DataFiles(path, what="", hint=make)
    packed = next((name for name in files.names if files.is_packed(name)), None)
    if packed is not None:
        raise ValueError(
            f"{files.path}: {shown(packed)} is compressed; the format asks for an uncompressed zip (zip -0)"
        )
    found = read_labelled(files)
    arrays = {name: read_array(files, found.table, name) for name in OPTIONAL_ARRAYS}
    rows, resolution = np.array(list(found.rows.values())), _check_images(files, list(found.rows))
    for name in ("depths", "normals"):
        check_maps(files, name, arrays[name], resolution, resolution)
    return ArchiveSummary(
        names=tuple(found.rows),
        labels=found.table.labels[rows].astype(np.float32),
        resolution=resolution,
        **{name: None if array is None else array[rows] for name, array in arrays.items()},
        recipe=found.table.recipe,
    )


def _check_images(files: DataFiles, names: Sequence[str]) -> int:
    expected = 0
    for name in names:
        content = files.read(name)
        try:
            height, width = read_pixels(content).shape[:2]
        except ValueError as error:
            raise ValueError(f"{files.path}: {shown(name)} is not a readable image ({error})") from None
        if width != height or width & (width - 1):
            raise ValueError(
                f"{files.path}: {shown(name)} is {width}x{height}; images must be square with a power-of-two side"
            )
        expected = expected or width
        if width != expected:
            raise ValueError(
                f"{files.path}: {shown(name)} is {width}x{width}, expected {expected}x{expected} as the first image"
            )
    return expected
