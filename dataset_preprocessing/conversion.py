"""Any folder or zip of images -> an EG3D data set: cropped, resized, named anew, labels kept, mirrored if asked.

The bytes depend on the input and the settings only, never on the number of workers. Shape letters: H, W image sides.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch

from dataset_preprocessing.archive import check_destination, create_archive, encode_png
from eg3d.cameras import mirrored_labels
from eg3d.child_processes import in_processes, worker_faults
from eg3d.config_checks import faults_of, one_of
from eg3d.data_files import DataFiles, shown
from eg3d.data_labels import (
    OPTIONAL_ARRAYS,
    LabelTable,
    MatchedLabels,
    check_cameras,
    check_maps,
    counted,
    match_labels,
    read_array,
    read_table,
)
from eg3d.png import read_pixels
from eg3d.progress import Advance, ignore

TRANSFORMS = ("none", "center-crop", "center-crop-wide")
MOST_PIXELS = 8192  # a side of the images written
_CHUNK = 8  # images a worker takes at a time


@dataclass(frozen=True)
class ConversionConfig:
    """What is done to every image."""

    transform: str = "none"
    resolution: tuple[int, int] | None = None  # width and height, pixels; None = as they are
    max_images: int | None = None  # of the source, the first by name
    is_mirrored: bool = False  # also write each image mirrored, with the camera label of the mirrored image
    is_labelled_only: bool = False  # leave out images without a label, instead of all labels

    def validate(self) -> list[str]:
        """All faults, one line each."""
        faults = one_of("transform", self.transform, TRANSFORMS)
        if self.max_images is not None and self.max_images < 1:
            faults.append(f"max-images: must be at least 1, got {self.max_images}")
        if self.transform != "none" and self.resolution is None:
            faults.append(f"transform: {self.transform} needs a resolution to crop to; give --resolution 512x512")
        if self.resolution is not None:
            width, height = self.resolution
            if not 1 <= min(width, height) <= max(width, height) <= MOST_PIXELS:
                faults.append(f"resolution: sides must be from 1 to {MOST_PIXELS} pixels, got {width}x{height}")
            if self.transform == "center-crop" and width != height:
                faults.append(f"transform: center-crop makes squares, got {width}x{height}; use center-crop-wide")
            if self.transform == "center-crop-wide" and width < height:
                faults.append(f"transform: center-crop-wide needs a width of at least the height, got {width}x{height}")
        return faults


def open_source(path: str | Path) -> DataFiles:
    """A folder or zip of images. Raises FileNotFoundError or ValueError in one line."""
    return DataFiles(path, what="source: ", hint="give a folder or a zip file of images")


class Converted(NamedTuple):
    """One image and its mirrored copy, encoded; None where the transform rejects the image as too small."""

    png: bytes
    mirrored_png: bytes | None
    size: tuple[int, int, int]  # H, W, channels
    is_unchanged: bool  # neither cropped nor resized
    is_cropped: bool


@dataclass(frozen=True)
class Report:
    """What a conversion did."""

    num_images: int
    num_rejected: int  # too small for the crop
    hidden: tuple[str, ...]  # files, companions of macOS among them
    others: tuple[str, ...]  # files that are not images
    label_lines: tuple[str, ...]  # what became of the labels, where not all is well
    left_out: tuple[str, ...]  # optional arrays that no longer fit

    def lines(self) -> list[str]:
        """What a user should know besides the path, one line each."""
        found = []
        if self.hidden:
            found.append(f"hidden files, left out: {counted(self.hidden)}")
        if self.others:
            found.append(f"not images, left out: {counted(self.others)}")
        if self.num_rejected:
            found.append(f"smaller than the crop, left out: {self.num_rejected}")
        found += self.label_lines
        return found + [
            f"{name}: left out, it does not fit changed, mirrored or unlabelled images" for name in self.left_out
        ]


@dataclass(frozen=True)
class _Labels:
    """The labels of a source."""

    table: LabelTable
    matched: MatchedLabels
    warnings: list[str]  # of cameras that are unlikely

    def of(self, image: str) -> list[float]:
        return self.table.labels[self.matched.rows[image]].tolist()


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
    faults = faults_of(cfg) + worker_faults(workers)
    if faults:
        raise ValueError("; ".join(faults))
    opened = open_source(source)
    _check_apart(opened.path, dest)
    labels = _read_labels(opened)
    names = _wanted_images(opened, labels, cfg)
    is_labelled = labels is not None and all(name in labels.matched.rows for name in names)
    kept: list[int] = []
    is_unchanged, num_cropped, first = True, 0, None
    with create_archive(dest) as archive, _converted(opened, names, cfg, workers) as images:
        for index, image in enumerate(images):
            advance()
            if image is None:
                continue
            first = first or (names[index], image.size)
            _check_size(names[index], image.size, first)
            is_unchanged &= image.is_unchanged
            num_cropped += image.is_cropped
            kept.append(index)
            label = labels.of(names[index]) if labels and is_labelled else None
            archive.add_image(image.png, label)
            if image.mirrored_png is not None:
                archive.add_image(image.mirrored_png, _mirrored(label), is_mirror=True)
        if first is None:
            raise ValueError(f"{opened.path}: all {len(names)} images are smaller than the crop; lower --resolution")
        written = [names[index] for index in kept]
        arrays, left_out = _kept_arrays(opened, labels, written, cfg, is_unchanged=is_unchanged)
        for name in ("depths", "normals"):
            check_maps(opened, name, arrays.get(name), *first[1][:2])
        archive.finish(recipe=_recipe(cfg, labels), **arrays)
    return Report(
        num_images=len(kept) * (2 if cfg.is_mirrored else 1),
        num_rejected=len(names) - len(kept),
        hidden=tuple(opened.hidden),
        others=tuple(_others(opened, labels)),
        label_lines=tuple(_label_lines(labels, names, cfg, num_cropped=num_cropped if is_labelled else 0)),
        left_out=tuple(left_out),
    )


def count_images(source: str | Path, cfg: ConversionConfig) -> int:
    """How many images of `source` a conversion reads. Raises as `convert_images`."""
    opened = open_source(source)
    return len(_wanted_images(opened, _read_labels(opened) if cfg.is_labelled_only else None, cfg))


def _wanted_images(opened: DataFiles, labels: _Labels | None, cfg: ConversionConfig) -> list[str]:
    """The images that `cfg` asks for. Raises ValueError if there are none, or some that cannot be read."""
    names = opened.images()
    if not names:
        raise ValueError(f"{opened.path} has no images; image files are known by their suffix, such as .png")
    if cfg.is_labelled_only:
        names = [name for name in names if labels and name in labels.matched.rows]
        if not names:
            raise ValueError(f"{opened.path}: no image has a label, and only labelled ones are asked for")
    names = names[: cfg.max_images]
    opened.check_all(names)
    return names


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


_opened_source: DataFiles | None = None  # set in worker processes only: one open zip each


def _open_source(path: Path) -> None:
    global _opened_source
    _opened_source = open_source(path)


def _convert_in_worker(cfg: ConversionConfig, name: str) -> Converted | None:
    assert _opened_source is not None
    return _convert(_opened_source, cfg, name)


def _convert(source: DataFiles, cfg: ConversionConfig, name: str) -> Converted | None:
    content = source.read(name)
    try:
        pixels = read_pixels(content)
    except ValueError as error:
        raise ValueError(f"{source.path}: {shown(name)} is not a readable image ({error}); mend or remove it") from None
    image = transformed(pixels, cfg)
    if image is None:
        return None
    mirrored = encode_png(np.ascontiguousarray(image[:, ::-1])) if cfg.is_mirrored else None
    height, width, channels = image.shape
    is_cropped = cfg.transform != "none" and (pixels.shape[0] != pixels.shape[1] or cfg.transform == "center-crop-wide")
    return Converted(encode_png(image), mirrored, (height, width, channels), image is pixels, is_cropped)


@contextlib.contextmanager
def _converted(
    source: DataFiles, names: Sequence[str], cfg: ConversionConfig, workers: int
) -> Iterator[Iterator[Converted | None]]:
    """The images in order, from this process or from workers; for a `with` block."""
    if workers == 1 or len(names) <= _CHUNK:
        yield (_convert(source, cfg, name) for name in names)
        return
    work = functools.partial(_convert_in_worker, cfg)
    with in_processes(
        work, names, workers=workers, prepare=_open_source, arguments=(source.path,), chunk=_CHUNK
    ) as images:
        yield images


def _check_apart(source: Path, dest: str | Path) -> None:
    """Raise ValueError for a destination that is the source, or lies within it, or is none."""
    from_path, to_path = source.resolve(), Path(dest).resolve()
    if from_path == to_path or (to_path.exists() and to_path.samefile(from_path)):
        raise ValueError(f"{dest} is the source itself; give another --dest")
    check_destination(dest)
    if from_path in to_path.parents:
        raise ValueError(f"{dest} lies within the source {source}; give a --dest outside of it")


def _check_size(name: str, size: tuple[int, int, int], first: tuple[str, tuple[int, int, int]]) -> None:
    height, width, channels = size
    if width != height or width & (width - 1):
        raise ValueError(
            f"{shown(name)} would be {width}x{height}; EG3D asks for squares with a power-of-two side: "
            "give --transform center-crop --resolution 512x512 (or another size)"
        )
    if size != first[1]:
        raise ValueError(
            f"{shown(name)} is {width}x{height} with {channels} channels, {shown(first[0])} is "
            f"{first[1][1]}x{first[1][0]} with {first[1][2]}; all images must be alike: give --resolution, or convert "
            "the grey ones"
        )


def _read_labels(opened: DataFiles) -> _Labels | None:
    """The labels of the source, None where it has none. Raises ValueError for a broken table, and for no cameras."""
    table = read_table(opened)
    if table is None or not table.names:
        return None if table is None else _Labels(table, MatchedLabels({}, opened.images(), [], ()), [])
    matched = match_labels(table, opened.images())
    try:
        return _Labels(table, matched, check_cameras(opened, table, matched.rows))
    except ValueError as error:
        raise ValueError(f"{error}; mend them, or remove {table.file} to convert the images alone") from None


def _label_lines(
    labels: _Labels | None, names: Sequence[str], cfg: ConversionConfig, *, num_cropped: int
) -> Iterator[str]:
    """What became of the labels, where there is something to say: matched in another spelling, or not at all."""
    if labels is None or not labels.table.names:
        yield "labels: none, the source has none"
        return
    table, matched = labels.table, labels.matched
    if not matched.rows:
        yield (
            f"labels: none, the {len(table.names)} labels of {table.file} name no image of the source "
            f"(the first label is for {shown(table.names[0])}, the first image is {shown(names[0])})"
        )
        return
    if matched.how:
        yield f"labels: {len(matched.rows)} found their images by {' and '.join(matched.how)}"
    missing = [name for name in names if name not in matched.rows]
    if cfg.is_labelled_only and matched.without_label:
        yield f"images without a label, left out: {counted(matched.without_label)}"
    elif missing:
        yield (
            f"labels: none, {len(missing)} of {len(names)} images have no label in the source "
            f"(the first {shown(missing[0])}); --labelled-only keeps the others with theirs"
        )
    if matched.without_image:
        yield f"labels without an image, left out: {counted(matched.without_image)}"
    if num_cropped:
        yield f"labels: written as they were for {num_cropped} cropped images; they must be the cameras of the crops"
    yield from labels.warnings


def _others(opened: DataFiles, labels: _Labels | None) -> list[str]:
    """Files of the source that are no part of a data set."""
    known = set(opened.images())
    if labels:
        known |= {labels.table.file, *(f"{labels.table.folder}{name}.npy" for name in OPTIONAL_ARRAYS)}
    return [name for name in opened.names if name not in known]


def _mirrored(label: list[float] | None) -> list[float] | None:
    return None if label is None else mirrored_labels(torch.tensor([label], dtype=torch.float64))[0].tolist()


def _kept_arrays(
    source: DataFiles, labels: _Labels | None, names: list[str], cfg: ConversionConfig, *, is_unchanged: bool
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Optional arrays that still hold for the images written, in their order, and the names of those that do not.

    Depth maps belong to the very pixels. Nothing tells what numbers a mirrored head has.
    """
    if labels is None:
        return {}, []
    table, rows = labels.table, labels.matched.rows
    is_same = is_unchanged and not cfg.is_mirrored
    fits = {"codes": not cfg.is_mirrored, "depths": is_same, "normals": is_same}
    there = [name for name in OPTIONAL_ARRAYS if f"{table.folder}{name}.npy" in source]
    found = {}
    for name in there:
        if fits[name] and all(image in rows for image in names):
            array = read_array(source, table, name)
            assert array is not None
            found[name] = array[[rows[image] for image in names]]
    return found, [f"{name}.npy" for name in there if name not in found]


def _recipe(cfg: ConversionConfig, labels: _Labels | None) -> dict[str, Any]:
    """How the set was made; no path, so that the same input gives the same bytes anywhere."""
    recipe: dict[str, Any] = {
        "maker": "dataset_preprocessing.dataset_tool",
        "transform": cfg.transform,
        "resolution": list(cfg.resolution) if cfg.resolution else None,
        "max_images": cfg.max_images,
        "is_mirrored": cfg.is_mirrored,
    }
    if cfg.is_labelled_only:
        recipe["is_labelled_only"] = True
    return recipe | ({"source": labels.table.recipe} if labels and labels.table.recipe else {})
