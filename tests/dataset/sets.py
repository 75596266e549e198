"""Small data sets for tests, as the files that they consist of."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_preprocessing.archive import encode_png
from eg3d.cameras import camera_label, intrinsics, lookat_c2w


def camera(index: int = 0) -> list[float]:
    """A camera label as FFHQ has them."""
    angle = 0.1 * index
    return camera_label(lookat_c2w(angle, angle / 2), intrinsics(4.2647))[0].tolist()


def png(seed: int = 0, side: int = 8) -> bytes:
    return encode_png(np.random.RandomState(seed).randint(0, 256, (side, side, 3), dtype=np.uint8))


def table(labels: Sequence[tuple[str, Sequence[float]]] | None, **more: Any) -> bytes:
    return json.dumps({"labels": labels, **more}).encode()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


def good_set(count: int = 3) -> dict[str, bytes]:
    """Images 00000/0.png and so on, with labels."""
    names = [f"00000/{index}.png" for index in range(count)]
    files = {name: png(index) for index, name in enumerate(names)}
    return files | {"dataset.json": table([(name, camera(index)) for index, name in enumerate(names)])}


def write(path: Path, files: Mapping[str, bytes], *, packing: int = zipfile.ZIP_STORED) -> Path:
    """A zip where `path` ends in .zip, else a folder."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", packing) as handle:
            for name, content in files.items():
                handle.writestr(name, content)
        return path
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def labels_of(path: Path) -> list[Any] | None:
    """`labels` of a data set that was written."""
    if path.is_dir():
        return json.loads((path / "dataset.json").read_text())["labels"]
    with zipfile.ZipFile(path) as handle:
        return json.loads(handle.read("dataset.json"))["labels"]


def as_float32(labels: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor(labels, dtype=torch.float32)
