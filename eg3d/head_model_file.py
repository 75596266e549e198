"""The file of a head model: an .npz of plain numbers (nothing pickled) and one card of JSON. Same arrays, same bytes.

A component is kept as whole numbers times its scale: 16 bits for the first ones, whose shifts are large, 8 bits for the
rest. Shape letters: V vertices, F triangles, K components, of which K16 come first.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from eg3d.array_files import npy_bytes, parse_npy
from eg3d.one_line import one_line
from eg3d.plain_data import refuse_code
from eg3d.safe_write import atomic_path

FORMAT = "head model 1"
NUM_REGIONS = 13  # values of Region in head_model.py
MODEL_SUFFIX = ".npz"
MOST_BYTES = 64_000_000  # of one array or the whole file; far beyond any head model
_DATE = (1980, 1, 1, 0, 0, 0)
_CARD = "card.npy"
_CARD_KEYS = ("mm_per_unit", "recipe", "sources", "licence", "anny", "held_out")


@dataclass(frozen=True)
class HeadArrays:
    """What a head model is made of; lengths in world units."""

    mean: np.ndarray  # float32 [V, 3]
    components_16: np.ndarray  # int16 [K16, V, 3]
    components_8: np.ndarray  # int8 [K - K16, V, 3]
    scales: np.ndarray  # float32 [K]; a component times its scale is the shift at a code of 1
    faces: np.ndarray  # uint16 [F, 3] counter-clockwise from outside
    region: np.ndarray  # uint8 [V]
    mirror: np.ndarray  # uint16 [V] the vertex at the mirror image of each
    landmarks_68: np.ndarray  # uint16 [68] vertices in the order of iBUG's 68 points
    landmarks_98: np.ndarray  # uint16 [98] vertices in the order of WFLW's 98 points

    @property
    def num_components(self) -> int:
        return len(self.scales)

    def faults(self) -> list[str]:
        """What does not fit together, one line each."""
        v, k = self.mean.shape[0] if self.mean.ndim else 0, self.scales.size
        shapes = {
            "mean": (v, 3),
            "components_16": (len(self.components_16) if self.components_16.ndim else 0, v, 3),
            "components_8": (k - (len(self.components_16) if self.components_16.ndim else 0), v, 3),
            "scales": (k,),
            "faces": (len(self.faces) if self.faces.ndim else 0, 3),
            "region": (v,),
            "mirror": (v,),
            "landmarks_68": (68,),
            "landmarks_98": (98,),
        }
        faults = []
        for field in fields(self):
            array: np.ndarray = getattr(self, field.name)
            if array.dtype != _DTYPES[field.name] or array.shape != shapes[field.name]:
                wanted = f"{_DTYPES[field.name]} {list(shapes[field.name])}"
                faults.append(f"{field.name} is {array.dtype} {list(array.shape)}, expected {wanted}")
            elif array.dtype.kind == "f" and not np.isfinite(array).all():
                faults.append(f"{field.name} has NaN or infinite numbers")
            elif array.dtype == np.uint16 and array.size and int(array.max()) >= v:
                faults.append(f"{field.name} names vertex {int(array.max())} of {v}")
            elif field.name == "region" and array.size and int(array.max()) >= NUM_REGIONS:
                faults.append(f"region has the value {int(array.max())}, the last is {NUM_REGIONS - 1}")
        return faults


_DTYPES = {
    "mean": np.dtype(np.float32),
    "components_16": np.dtype(np.int16),
    "components_8": np.dtype(np.int8),
    "scales": np.dtype(np.float32),
    "faces": np.dtype(np.uint16),
    "region": np.dtype(np.uint8),
    "mirror": np.dtype(np.uint16),
    "landmarks_68": np.dtype(np.uint16),
    "landmarks_98": np.dtype(np.uint16),
}


def write_head_arrays(
    path: str | os.PathLike[str], arrays: HeadArrays, card: dict[str, Any], *, most_bytes: int = MOST_BYTES
) -> int:
    """Write a head model atomically; the card is JSON data: mm_per_unit, recipe, sources, licence, anny (its
    version), held_out (figures). Returns the number of bytes.

    Raises ValueError, and writes nothing, where the arrays do not fit together or the file would be too large.
    """
    faults = arrays.faults()
    if faults:
        raise ValueError(f"{path}: not written, {'; '.join(faults)}")
    text = json.dumps({"format": FORMAT} | card, sort_keys=True, allow_nan=False)
    entries = {f"{field.name}.npy": getattr(arrays, field.name) for field in fields(arrays)}
    entries[_CARD] = np.frombuffer(text.encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in entries.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), bytes(npy_bytes(array)), zipfile.ZIP_DEFLATED, 9)
    content = buffer.getvalue()
    if len(content) > most_bytes:
        raise ValueError(f"{path}: not written, {len(content)} bytes are more than {most_bytes}; keep fewer components")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return len(content)


def read_head_arrays(path: str | os.PathLike[str]) -> tuple[HeadArrays, dict[str, Any]]:
    """Arrays and card of a head model. Raises ValueError, one line, for a file that is none or is damaged."""
    size = os.path.getsize(path)
    if size > MOST_BYTES:
        raise ValueError(f"{path}: {size} bytes are no head model, which has at most {MOST_BYTES}")
    with open(path, "rb") as file:
        content = file.read()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            missing = [name for name in (*_names(), _CARD) if name not in archive.namelist()]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
            card = _read_card(_member(archive, _CARD))
            arrays = HeadArrays(*(_array(archive, name) for name in _names()))
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, EOFError, RuntimeError, OSError) as error:
        raise ValueError(f"{path}: not a head model ({one_line(error)}); make or get it again") from None
    refuse_code(card, str(path))
    faults = arrays.faults()
    if faults:
        raise ValueError(f"{path}: not a head model ({'; '.join(faults)}); make or get it again")
    return arrays, card


def _names() -> list[str]:
    return [f"{field.name}.npy" for field in fields(HeadArrays)]


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    try:
        return parse_npy(_member(archive, name))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of one member, never more than a head model has, whatever the file says about their number."""
    with archive.open(name) as member:
        content = member.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{name} has more than {MOST_BYTES} bytes")
    return content


def _read_card(content: bytes) -> dict[str, Any]:
    array = parse_npy(content)
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError("its card is no text")
    try:
        card = json.loads(array.tobytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its card is damaged: {error}") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else None
        raise ValueError(f"its format is {found!r}, expected {FORMAT!r}")
    missing = [key for key in _CARD_KEYS if key not in card]
    if missing:
        raise ValueError(f"its card lacks {', '.join(missing)}")
    scale = card["mm_per_unit"]
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < 1e6:
        raise ValueError(f"mm_per_unit of its card must be a positive number, found {str(scale)[:40]!r}")
    return card
