"""The bytes of .npy files. Reading takes damaged ones: the header is matched, never evaluated, and compared with what
is there. Writing leaves the file to its caller, because numpy does not notice when a disk is full at the closing.
"""

from __future__ import annotations

import io
import math
import re

import numpy as np

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{\s*'descr':\s*'(?P<dtype>[<>|=]?[biuf][1248])',\s*'fortran_order':\s*(?P<fortran>True|False),"
    r"\s*'shape':\s*\((?P<shape>(?:(?:0|[1-9]\d{0,17}),\s*){0,31}(?:(?<=[\s,])(?:0|[1-9]\d{0,17}))?)\),?\s*\}\s*"
)


def npy_bytes(array: np.ndarray) -> memoryview:
    """The .npy file of an array of numbers."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getbuffer()


def parse_npy(content: bytes) -> np.ndarray:
    """The array of numbers in the bytes of a .npy file, as a read-only view of them, any shape and numeric type.

    Raises ValueError for anything else: objects, text, a shape that is not the number of bytes that follow.
    """
    header, start = _header(content)
    found = _HEADER.fullmatch(header)
    if found is None:
        raise ValueError("its header is not that of an array of plain numbers")
    try:
        dtype = np.dtype(found["dtype"])
    except TypeError:
        raise ValueError(f"it has numbers of type {found['dtype']}, which there are none of") from None
    shape = tuple(int(side) for side in found["shape"].replace(",", " ").split())
    wanted, there = math.prod(shape) * dtype.itemsize, len(content) - start
    if wanted != there:
        raise ValueError(
            f"it says {' x '.join(map(str, shape))} numbers of {dtype.itemsize} bytes, but holds {there} bytes"
        )
    array = np.frombuffer(content, dtype, offset=start)
    return array.reshape(shape[::-1]).T if found["fortran"] == "True" else array.reshape(shape)


def _header(content: bytes) -> tuple[str, int]:
    """The text that describes the array, and where its numbers begin."""
    if not content.startswith(_MAGIC) or len(content) < 12:
        raise ValueError("it is no .npy file")
    start = 10 if content[6] == 1 else 12  # the first version has two bytes for the length, later ones four
    end = start + int.from_bytes(content[8:start], "little")
    if content[6] not in (1, 2, 3) or end > len(content):
        raise ValueError("it is damaged in its header")
    return content[start:end].decode("latin-1"), end
