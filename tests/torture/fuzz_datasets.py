"""Damaged data sets for the training loader and the source reader of dataset_tool: see `fuzz`."""

from __future__ import annotations

import io
import json
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from mutations import FuzzReport, mutated_bytes, mutated_json, mutated_names, tried, write_folder, write_zip

from dataset_preprocessing.archive import check_archive, encode_png
from dataset_preprocessing.conversion import ConversionConfig, convert_images
from eg3d.cameras import camera_label, intrinsics, lookat_c2w
from eg3d.data import ImageDataset

SIDE, COUNT = 8, 4
CONVERSION = ConversionConfig(transform="center-crop", resolution=(SIDE, SIDE), is_mirrored=True)


def fuzz(cases: int, seed: int) -> FuzzReport:
    """Read so many damaged data sets in turns with the loader and the conversion."""
    report = FuzzReport()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        for index in range(cases):
            rng = random.Random(f"{seed}/{index}")
            path = _damaged(rng, folder)
            read = _load if index % 2 else _convert
            tried(report, f"{seed}/{index} {read.__name__}", lambda read=read, path=path: read(path), file=path)
            _remove(folder)
    finally:
        shutil.rmtree(folder)
    return report


def members() -> dict[str, bytes]:
    """The files of a good data set: PNGs and a JPEG, labels, codes and depths."""
    rng = np.random.RandomState(0)
    yaw = torch.linspace(-0.4, 0.4, COUNT)
    labels = camera_label(lookat_c2w(yaw, yaw / 2), intrinsics(4.2647)).tolist()
    names = [f"00000/img0000000{index}.{'jpg' if index == COUNT - 1 else 'png'}" for index in range(COUNT)]
    files = {}
    for name in names:
        pixels = rng.randint(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        files[name] = encode_png(pixels) if name.endswith("png") else _jpeg(pixels)
    files["dataset.json"] = json.dumps({"labels": list(zip(names, labels)), "recipe": {"maker": "fuzz"}}).encode()
    files["codes.npy"] = _npy(rng.randn(COUNT, 3))
    files["depths.npy"] = _npy(rng.rand(COUNT, SIDE, SIDE))
    return files


def _damaged(rng: random.Random, folder: Path) -> Path:
    """A data set with one kind of damage: of a file, of the table, of the names, or of the zip as a whole."""
    files = members()
    listed = list(files.items())
    kind = rng.randrange(5)
    if kind == 0:
        files["dataset.json"] = mutated_json(rng, json.loads(files["dataset.json"]))
        listed = list(files.items())
    elif kind == 1:
        name = rng.choice(list(files))
        files[name] = mutated_bytes(rng, files[name])
        listed = list(files.items())
    elif kind == 2:
        listed = mutated_names(rng, files)
    if kind < 3 and rng.random() < 0.3:
        path = folder / "set"
        write_folder(path, listed)
        return path
    path = folder / "set.zip"
    write_zip(rng, path, listed)
    if kind >= 3:
        content = path.read_bytes()
        start = 0 if kind == 3 else content.find(b"PK\x01\x02")  # the table of contents, most of which matters
        path.write_bytes(content[:start] + mutated_bytes(rng, content[start:]))
    return path


def _load(path: Path) -> None:
    dataset = ImageDataset(path)
    images = dataset.images(list(range(len(dataset))))
    assert images.shape[1:] == (3, dataset.resolution, dataset.resolution)
    assert dataset.labels.shape == (len(images), 25)
    assert torch.isfinite(dataset.labels).all()
    for array in (dataset.codes, dataset.depths):
        assert array is None or (len(array) == len(images) and torch.isfinite(array).all())


def _convert(path: Path) -> None:
    out = path.parent / "out"
    try:
        convert_images(path, out, CONVERSION)
    except Exception:
        assert sorted(path.parent.iterdir()) == [path], "a refused conversion left something behind"
        raise
    if json.loads((out / "dataset.json").read_text())["labels"] is not None:
        assert check_archive(out).resolution == SIDE


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array.astype(np.float32))
    return buffer.getvalue()


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(pixels).save(buffer, "jpeg", exif=exif)
    return buffer.getvalue()
