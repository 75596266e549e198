"""Any folder or zip of images -> an EG3D data set: cropped, resized, named anew, labels kept, mirrored if asked.

The bytes depend on the input and the settings only, never on the number of workers. Shape letters: H, W image sides.
"""

from __future__ import annotations

import functools
import io
import json
import math
import multiprocessing
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch

from dataset_preprocessing.archive import LABEL_SIZE, create_archive, encode_png
from eg3d.cameras import mirrored_labels
from eg3d.png import read_pixels
from eg3d.progress import Advance, ignore

TRANSFORMS = ("none", "center-crop", "center-crop-wide")
ARRAYS = ("codes.npy", "depths.npy")  # of a set made by this project; see eg3d.data
_CHUNK = 8  # images a worker takes at a time


@dataclass(frozen=True)
class ConversionConfig:
    """What is done to every image."""

    transform: str = "none"
    resolution: tuple[int, int] | None = None  # width and height, pixels; None = as they are
    max_images: int | None = None  # of the source, the first by name
    is_mirrored: bool = False  # also write each image mirrored, with the camera label of the mirrored image

    def validate(self) -> list[str]:
        """All faults, one line each."""
        faults = []
        if self.transform not in TRANSFORMS:
            faults.append(f"transform: {self.transform!r} is not one of {', '.join(TRANSFORMS)}")
        if self.max_images is not None and self.max_images < 1:
            faults.append(f"max-images: must be at least 1, got {self.max_images}")
        if self.transform != "none" and self.resolution is None:
            faults.append(f"transform: {self.transform} needs a resolution to crop to; give --resolution 512x512")
        if self.resolution is not None:
            width, height = self.resolution
            if min(width, height) < 1:
                faults.append(f"resolution: sides must be positive, got {width}x{height}")
            if self.transform == "center-crop" and width != height:
                faults.append(f"transform: center-crop makes squares, got {width}x{height}; use center-crop-wide")
            if self.transform == "center-crop-wide" and width < height:
                faults.append(f"transform: center-crop-wide needs a width of at least the height, got {width}x{height}")
        return faults


class Source:
    """The files of a folder (with those in its folders) or of a zip, by path with forward slashes, sorted."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"source {self.path} does not exist; give a folder or a zip file of images")
        if self.path.is_file() and not zipfile.is_zipfile(self.path):
            raise ValueError(f"source {self.path} is neither a folder nor a zip file")
        self._zip = zipfile.ZipFile(self.path) if self.path.is_file() else None
        if self._zip is not None:
            names = [info.filename for info in self._zip.infolist() if not info.is_dir()]
        else:
            names = [f.relative_to(self.path).as_posix() for f in self.path.rglob("*") if f.is_file()]
        self.names = sorted(names)

    def read(self, name: str) -> bytes:
        """Contents of one file. Raises ValueError if the zip is damaged there."""
        if self._zip is None:
            return (self.path / name).read_bytes()
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"source {self.path}: {name} cannot be read ({error})") from None

    def images(self) -> tuple[list[str], list[str]]:
        """Names of image files, by suffix, and of the other files that are not part of a data set."""
        known = PIL.Image.registered_extensions()
        is_image = {name: PurePosixPath(name).suffix.lower() in known for name in self.names}
        others = [name for name in self.names if not is_image[name] and name not in ("dataset.json", *ARRAYS)]
        return [name for name in self.names if is_image[name]], others

    def table(self) -> dict[str, Any]:
        """dataset.json of the source, {} where there is none."""
        if "dataset.json" not in self.names:
            return {}
        try:
            table = json.loads(self.read("dataset.json"))
        except ValueError as error:
            raise ValueError(f"source {self.path}: dataset.json is not JSON ({error})") from None
        return table if isinstance(table, dict) else {}


class Converted(NamedTuple):
    """One image and its mirrored copy, encoded; None where the transform rejects the image as too small."""

    png: bytes
    mirrored_png: bytes | None
    size: tuple[int, int, int]  # H, W, channels
    is_unchanged: bool  # neither cropped nor resized


@dataclass(frozen=True)
class Report:
    """What a conversion did."""

    num_images: int
    num_rejected: int  # too small for the crop
    others: tuple[str, ...]  # files that are not images
    num_unlabelled: int
    num_source: int
    left_out: tuple[str, ...]  # optional arrays that no longer fit

    def lines(self) -> list[str]:
        """What a user should know besides the path, one line each."""
        found = []
        if self.others:
            shown = ", ".join(self.others[:3]) + (", ..." if len(self.others) > 3 else "")
            found.append(f"not images, left out: {len(self.others)} ({shown})")
        if self.num_rejected:
            found.append(f"smaller than the crop, left out: {self.num_rejected}")
        if self.num_unlabelled == self.num_source:
            found.append("labels: none, the source has none")
        elif self.num_unlabelled:
            found.append(f"labels: none, {self.num_unlabelled} of {self.num_source} images have no label in the source")
        found += [f"{name}: left out, it does not fit changed or mirrored images" for name in self.left_out]
        return found


def convert_images(
    source: str | Path,
    dest: str | Path,
    cfg: ConversionConfig,
    *,
    workers: int = 1,
    advance: Advance = ignore,
) -> Report:
    """Write the images of `source` to `dest` (a .zip or a new folder); `advance` counts source images.

    Raises ValueError or FileNotFoundError in one line; `dest` is then as it was.
    """
    faults = cfg.validate()
    if faults:
        raise ValueError("; ".join(faults))
    opened = Source(source)
    names, others = opened.images()
    names = names[: cfg.max_images]
    if not names:
        raise ValueError(f"source {opened.path} has no images; image files are known by their suffix, such as .png")
    table = opened.table()
    labels = _labels(opened.path, table)
    has_labels = all(name in labels for name in names)
    kept: list[int] = []
    is_unchanged, first = True, None
    with create_archive(dest) as archive:
        for index, image in enumerate(_converted(opened, names, cfg, workers)):
            advance()
            if image is None:
                continue
            first = first or (names[index], image.size)
            _check_size(names[index], image.size, first)
            is_unchanged &= image.is_unchanged
            kept.append(index)
            label = labels[names[index]] if has_labels else None
            archive.add_image(image.png, label)
            if image.mirrored_png is not None:
                archive.add_image(image.mirrored_png, _mirrored(label), is_mirror=True)
        if not kept:
            raise ValueError(
                f"source {opened.path}: all {len(names)} images are smaller than the crop; lower --resolution"
            )
        arrays, left_out = _kept_arrays(opened, table, [names[index] for index in kept], cfg, is_unchanged=is_unchanged)
        archive.finish(recipe=_recipe(cfg, table), codes=arrays.get("codes.npy"), depths=arrays.get("depths.npy"))
    return Report(
        num_images=len(kept) * (2 if cfg.is_mirrored else 1),
        num_rejected=len(names) - len(kept),
        others=tuple(others),
        num_unlabelled=sum(name not in labels for name in names),
        num_source=len(names),
        left_out=tuple(left_out),
    )


def transformed(pixels: np.ndarray, cfg: ConversionConfig) -> np.ndarray | None:
    """One image uint8 [H, W, C] cropped and resized (Lanczos); None if it is too small for center-crop-wide.

    center-crop: the central square, resized. center-crop-wide: the central part of the wanted shape, resized, in the
    middle of a black square as wide as it. none: resized, whatever its shape.
    """
    if cfg.resolution is None:
        return pixels
    width, height = cfg.resolution
    if cfg.transform == "none":
        return _resized(pixels, width, height)
    if cfg.transform == "center-crop":
        side = min(pixels.shape[:2])
        return _resized(_centre(pixels, side, side), width, height)
    cropped = _centre(pixels, *_largest_of_shape(pixels.shape[1], pixels.shape[0], width, height))
    if cropped.shape[1] < width or cropped.shape[0] < height:
        return None
    square = np.zeros((width, width, pixels.shape[2]), dtype=np.uint8)
    top = (width - height) // 2
    square[top : top + height] = _resized(cropped, width, height)
    return square


def _largest_of_shape(have_width: int, have_height: int, width: int, height: int) -> tuple[int, int]:
    """Width and height of the largest rectangle of the shape width : height within an image."""
    if have_width * height > have_height * width:
        return round(have_height * width / height), have_height
    return have_width, round(have_width * height / width)


def _centre(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def _resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    picture = PIL.Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    return np.atleast_3d(np.asarray(picture.resize((width, height), PIL.Image.Resampling.LANCZOS)))


_opened_source: Source | None = None  # set in worker processes only: one open zip each


def _open_source(path: Path) -> None:
    global _opened_source
    _opened_source = Source(path)


def _convert_in_worker(cfg: ConversionConfig, name: str) -> Converted | None:
    assert _opened_source is not None
    return _convert(_opened_source, cfg, name)


def _convert(source: Source, cfg: ConversionConfig, name: str) -> Converted | None:
    content = source.read(name)
    try:
        pixels = read_pixels(content)
    except ValueError as error:
        raise ValueError(f"source {source.path}: {name} is not a readable image ({error}); mend or remove it") from None
    image = transformed(pixels, cfg)
    if image is None:
        return None
    mirrored = encode_png(np.ascontiguousarray(image[:, ::-1])) if cfg.is_mirrored else None
    height, width, channels = image.shape
    return Converted(encode_png(image), mirrored, (height, width, channels), image is pixels)


def _converted(source: Source, names: Sequence[str], cfg: ConversionConfig, workers: int) -> Iterator[Converted | None]:
    if workers == 1 or len(names) <= _CHUNK:
        yield from (_convert(source, cfg, name) for name in names)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_open_source, initargs=(source.path,)) as pool:
        yield from pool.imap(functools.partial(_convert_in_worker, cfg), names, chunksize=_CHUNK)


def _check_size(name: str, size: tuple[int, int, int], first: tuple[str, tuple[int, int, int]]) -> None:
    height, width, channels = size
    if width != height or width & (width - 1):
        raise ValueError(
            f"{name} would be {width}x{height}; EG3D asks for squares with a power-of-two side: "
            "give --transform center-crop --resolution 512x512 (or another size)"
        )
    if size != first[1]:
        raise ValueError(
            f"{name} is {width}x{height} with {channels} channels, {first[0]} is {first[1][1]}x{first[1][0]} with "
            f"{first[1][2]}; all images must be alike: give --resolution, or convert the grey ones"
        )


def _labels(path: Path, table: dict[str, Any]) -> dict[str, list[float]]:
    """Camera labels by file name. Raises ValueError for a label that is no camera."""
    entries = table.get("labels") or []
    if not isinstance(entries, list):
        raise ValueError(
            f"source {path}: labels of dataset.json must be a list of [name, {LABEL_SIZE} numbers] or null"
        )
    found = {}
    for index, entry in enumerate(entries):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise ValueError(f"source {path}: entry {index} of the labels is not [name, {LABEL_SIZE} numbers]")
        name, label = entry
        is_numbers = isinstance(label, list) and all(isinstance(v, (int, float)) and math.isfinite(v) for v in label)
        if not is_numbers or len(label) != LABEL_SIZE:
            raise ValueError(f"source {path}: the label of {name} is not {LABEL_SIZE} finite numbers (c2w, K)")
        found[name] = label
    return found


def _mirrored(label: list[float] | None) -> list[float] | None:
    return None if label is None else mirrored_labels(torch.tensor([label], dtype=torch.float64))[0].tolist()


def _kept_arrays(
    source: Source, table: dict[str, Any], names: list[str], cfg: ConversionConfig, *, is_unchanged: bool
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Optional arrays that still hold for the images written, in their order, and the names of those that do not.

    Depth maps belong to the very pixels. Nothing tells what numbers a mirrored head has.
    """
    fits = {"codes.npy": not cfg.is_mirrored, "depths.npy": is_unchanged and not cfg.is_mirrored}
    there = [name for name in ARRAYS if name in source.names]
    rows = {entry[0]: row for row, entry in enumerate(table.get("labels") or [])}
    found = {}
    for name in there:
        if fits[name] and all(image in rows for image in names):
            array = np.load(io.BytesIO(source.read(name)), allow_pickle=False)
            found[name] = array[[rows[image] for image in names]]
    return found, [name for name in there if name not in found]


def _recipe(cfg: ConversionConfig, table: dict[str, Any]) -> dict[str, Any]:
    """How the set was made; no path, so that the same input gives the same bytes anywhere."""
    recipe: dict[str, Any] = {
        "maker": "dataset_preprocessing.dataset_tool",
        "transform": cfg.transform,
        "resolution": list(cfg.resolution) if cfg.resolution else None,
        "max_images": cfg.max_images,
        "is_mirrored": cfg.is_mirrored,
    }
    return recipe | ({"source": table["recipe"]} if table.get("recipe") else {})
