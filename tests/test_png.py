"""Pixels of image files: upright as a viewer shows them, the same through both readers, nothing for damage."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from dataset_preprocessing.conversion import ConversionConfig, convert_images
from eg3d.cameras import camera_label, intrinsics, lookat_c2w
from eg3d.data import ImageDataset
from eg3d.png import read_pixels

SMOOTH = np.add.outer(np.arange(16) * 9, np.arange(24) * 4)[..., None].repeat(3, 2).astype(np.uint8)
SMOOTH[:5, :7] = 250, 10, 10  # a corner that tells all eight orientations from each other


def photograph(orientation: int, kind: str = "jpeg") -> bytes:
    """A picture of 24 x 16 stored pixels that says how the camera was held."""
    buffer, exif = io.BytesIO(), PIL.Image.Exif()
    exif[0x0112] = orientation
    options = {"jpeg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}.get(kind, {})
    PIL.Image.fromarray(SMOOTH).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


def upright(orientation: int) -> np.ndarray:
    """By the definition of the tag: where row 0 and column 0 of the stored pixels are in the picture."""
    turned = {
        1: SMOOTH,
        2: SMOOTH[:, ::-1],  # row 0 top, column 0 right
        3: SMOOTH[::-1, ::-1],  # bottom, right
        4: SMOOTH[::-1],  # bottom, left
        5: SMOOTH.transpose(1, 0, 2),  # left, top
        6: SMOOTH[::-1].transpose(1, 0, 2),  # right, top
        7: SMOOTH[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
        8: SMOOTH[:, ::-1].transpose(1, 0, 2),  # left, bottom
    }
    return turned[orientation]


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(orientation: int, kind: str) -> None:
    found = read_pixels(photograph(orientation, kind))
    assert found.shape == upright(orientation).shape
    assert np.abs(found.astype(int) - upright(orientation)).mean() < (2.0 if kind == "jpeg" else 1e-9)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_changes_nothing(orientation: int) -> None:
    assert np.array_equal(read_pixels(photograph(orientation, "png")), SMOOTH)


def test_an_orientation_in_xmp_counts_too() -> None:
    plain = io.BytesIO()
    PIL.Image.fromarray(SMOOTH).save(plain, "png")
    content, xmp = (
        plain.getvalue(),
        b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='6' xmlns:tiff='t'/>".replace(b"'", b'"'),
    )
    chunk = struct.pack(">I", len(xmp)) + b"iTXt" + xmp + struct.pack(">I", zlib.crc32(b"iTXt" + xmp))
    end = content.index(b"IDAT") - 4
    assert np.array_equal(read_pixels(content[:end] + chunk + content[end:]), upright(6))


def test_damaged_exif_data_costs_no_pixels() -> None:
    content = bytearray(photograph(6))
    start = content.index(b"Exif\0\0") + 6
    content[start : start + 8] = b"\xff" * 8
    assert read_pixels(bytes(content)).shape == SMOOTH.shape


def test_the_conversion_and_the_loader_see_the_same_upright_picture(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    square = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(SMOOTH[:16, :16]).save(square, "png", exif=exif)
    (tmp_path / "photos" / "a.png").write_bytes(square.getvalue())
    table = {"labels": [["a.png", camera_label(lookat_c2w(0.0, 0.0), intrinsics(4.2647))[0].tolist()]]}
    (tmp_path / "photos" / "dataset.json").write_text(json.dumps(table))
    convert_images(tmp_path / "photos", tmp_path / "set", ConversionConfig())
    for path in (tmp_path / "photos", tmp_path / "set"):
        image = ImageDataset(path).images([0])[0].permute(1, 2, 0).numpy()
        assert np.array_equal(image, SMOOTH[:16, :16][::-1].transpose(1, 0, 2))


def test_a_picture_that_says_it_is_huge_takes_no_memory() -> None:
    for colour, bits in ((2, 8), (6, 8), (3, 8), (0, 1)):
        header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, bits, colour, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        with pytest.raises(
            ValueError, match="it says 2147483647 by 2147483647 pixels, more than its 73 bytes can hold"
        ):
            read_pixels(b"\x89PNG\r\n\x1a\n" + chunk + bytes(40))


def test_the_most_regular_picture_is_still_read() -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (4000, 3000)).save(buffer, "png", compress_level=9)
    assert read_pixels(buffer.getvalue()).shape == (3000, 4000, 3)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "PCX", "DDS"])
def test_only_photographs_are_opened(kind: str) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(SMOOTH[:16, :16]).save(buffer, kind)
    with pytest.raises(ValueError, match="cannot identify image file"):
        read_pixels(buffer.getvalue())
