"""Data sets in the EG3D format, written and checked: a folder or an uncompressed zip of images with camera labels.

Names are DDDDD/imgDDDDDDDD.png; `dataset.json` holds `labels`, a list of [name, 25 numbers], and `recipe`, how the set
was made. Optional arrays in the order of `labels`: `codes.npy`, float32 [num_images, K], the numbers that made each
head, and `depths.npy`, float32 [num_images, R, R], its true distances in world units (0 = background). The same content
gives the same bytes: fixed time stamps, fixed PNG settings, fixed order. `eg3d.data.ImageDataset` reads it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from eg3d.data import OPTIONAL_ARRAYS
from eg3d.safe_write import atomic_path

LABEL_SIZE = 25
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
        name = mirrored_name(image_name(self._num_originals - 1)) if is_mirror else image_name(self._num_originals)
        self._write(name, png)
        self._num_images += 1
        self._num_originals += not is_mirror
        if label is not None:
            self._labels.append((name, [float(v) for v in label]))
        return name

    def finish(
        self, *, recipe: dict[str, Any], codes: np.ndarray | None = None, depths: np.ndarray | None = None
    ) -> None:
        """Write the table of labels, null unless every image has one, and the optional arrays.

        codes [num_images, K]; depths [num_images, R, R] world units.
        """
        for name, array in (("codes", codes), ("depths", depths)):
            if array is None:
                continue
            ndim, shape = OPTIONAL_ARRAYS[name]
            if array.ndim != ndim or len(array) != self._num_images:
                raise ValueError(f"{name} must be [{self._num_images}, {shape}], got {list(array.shape)}")
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)
            self._write(f"{name}.npy", buffer.getvalue())
        is_labelled = len(self._labels) == self._num_images
        table = {"labels": [list(item) for item in self._labels] if is_labelled else None, "recipe": recipe}
        self._write("dataset.json", json.dumps(table, allow_nan=False).encode())

    def _write(self, name: str, content: bytes) -> None:
        if self._zip is not None:
            self._zip.writestr(zipfile.ZipInfo(name, date_time=ZIP_TIME), content)
            return
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextlib.contextmanager
def create_archive(path: str | Path) -> Iterator[ArchiveWriter]:
    """A writer for `path`: a zip when it ends in .zip, else a folder, which must be new or empty.

    The result appears under its name only when the block ends without an error.
    """
    path = Path(path)
    if path.suffix == ".zip":
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as handle:
            yield ArchiveWriter(path, handle)
        return
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"{path}: the destination folder must be new or empty; give another out=...")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield ArchiveWriter(temporary, None)
        os.chmod(temporary, 0o755)
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
    recipe: dict[str, Any]


def check_archive(path: str | Path) -> ArchiveSummary:
    """Read and check a whole data set, every image included.

    Raises FileNotFoundError if there is none, ValueError with one line about the first thing that is wrong.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; make it with 'python -m dataset_preprocessing.synthetic_heads out={path}'"
        )
    if path.is_dir():
        files = {f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file()}
        return _check_files(path, files, lambda name: (path / name).read_bytes())
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: neither a folder nor a zip file")
    with zipfile.ZipFile(path) as handle:
        packed = [i.filename for i in handle.infolist() if i.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError(f"{path}: {packed[0]} is compressed; the format asks for an uncompressed zip (zip -0)")
        return _check_files(path, set(handle.namelist()), handle.read)


def _check_files(path: Path, files: set[str], read: Callable[[str], bytes]) -> ArchiveSummary:
    if "dataset.json" not in files:
        raise ValueError(f"{path}: no dataset.json; every image needs a label of {LABEL_SIZE} numbers there")
    try:
        table = json.loads(read("dataset.json"))
    except ValueError as error:
        raise ValueError(f"{path}: dataset.json is not JSON ({error})") from None
    names, labels = _check_labels(path, files, table)
    resolution = _check_images(path, names, read)
    arrays = {}
    for name, (ndim, shape) in OPTIONAL_ARRAYS.items():
        file = f"{name}.npy"
        array = np.load(io.BytesIO(read(file)), allow_pickle=False) if file in files else None
        if array is not None and (array.ndim != ndim or len(array) != len(names)):
            raise ValueError(f"{path}: {file} is {list(array.shape)}, expected [{len(names)}, {shape}]")
        arrays[name] = array
    return ArchiveSummary(tuple(names), labels, resolution, **arrays, recipe=table.get("recipe") or {})


def _check_labels(path: Path, files: set[str], table: Any) -> tuple[list[str], np.ndarray]:
    entries = table.get("labels") if isinstance(table, dict) else None
    if not entries:
        raise ValueError(f"{path}: dataset.json has no labels; expected a list of [name, {LABEL_SIZE} numbers]")
    for index, entry in enumerate(entries):
        is_pair = isinstance(entry, list) and len(entry) == 2
        if not (is_pair and isinstance(entry[0], str) and isinstance(entry[1], list)):
            raise ValueError(f"{path}: entry {index} of the labels is not [name, {LABEL_SIZE} numbers]")
        name, label = entry
        if name not in files:
            raise ValueError(f"{path}: {name} is in dataset.json but not in the data set")
        if len(label) != LABEL_SIZE:
            raise ValueError(f"{path}: the label of {name} has {len(label)} numbers, expected {LABEL_SIZE} (c2w, K)")
    labelled = {name for name, _ in entries}
    unlabelled = sorted(f for f in files - labelled if Path(f).suffix.lower() in PIL.Image.registered_extensions())
    if unlabelled:
        raise ValueError(f"{path}: {unlabelled[0]} has no label in dataset.json; every image needs one")
    return [name for name, _ in entries], np.array([label for _, label in entries], dtype=np.float32)


def _check_images(path: Path, names: Sequence[str], read: Callable[[str], bytes]) -> int:
    expected: tuple[int, int] = (0, 0)
    for index, name in enumerate(names):
        try:
            with PIL.Image.open(io.BytesIO(read(name))) as image:
                image.load()
                size = image.size
        except OSError as error:
            raise ValueError(f"{path}: {name} is not a readable image ({error})".replace("\n", " ")) from None
        expected = expected if index else size
        if size[0] != size[1] or size[0] & (size[0] - 1):
            raise ValueError(f"{path}: {name} is {size[0]}x{size[1]}; images must be square with a power-of-two side")
        if size != expected:
            raise ValueError(
                f"{path}: {name} is {size[0]}x{size[1]}, expected {expected[0]}x{expected[1]} as the first image"
            )
    return expected[0]
