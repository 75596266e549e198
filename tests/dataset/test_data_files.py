"""Folders and zips as people make them, and as damage makes them: what is no image is left out and counted, what cannot
be read is one line that names the file."""

from __future__ import annotations

import io
import os
import random
import struct
import zipfile

import numpy as np
import pytest
from sets import camera, good_set, npy, png, table, write

from dataset_preprocessing.archive import check_archive
from dataset_preprocessing.conversion import ConversionConfig, convert_images
from eg3d import data_labels
from eg3d.array_files import parse_npy
from eg3d.data import ImageDataset
from eg3d.data_files import DataFiles, plain_name, shown

PLAIN = ConversionConfig()
APPLE = b"\x00\x05\x16\x07\x00\x02\x00\x00" + bytes(90)


def opened(path):
    return DataFiles(path, what="", hint="give another")


def converted(path):
    return convert_images(path, path.parent / "out", PLAIN)


READERS = (ImageDataset, check_archive, converted)


def refused(read, path, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert not (path.parent / "out").exists()
    return text


@pytest.mark.parametrize("end", ["set.zip", "set"])
def test_companions_and_hidden_files_are_left_out_and_counted(tmp_path, end):
    files = {f"photos/{name}": content for name, content in good_set(2).items()}
    files |= {"__MACOSX/photos/._0.png": APPLE, "photos/00000/._1.png": APPLE, "photos/.DS_Store": bytes(12)}
    files |= {"__MACOSX/._photos": APPLE, "photos/.thumbnails/0.png": png(), "__MACOSX/photos/._dataset.json": APPLE}
    path = write(tmp_path / end, files)
    report = converted(path)
    assert report.num_images == 2
    assert report.lines() == [
        "hidden files, left out: 6 (__MACOSX/._photos, __MACOSX/photos/._0.png, __MACOSX/photos/._dataset.json, ...)"
    ]
    assert ImageDataset(path).names == ["photos/00000/0.png", "photos/00000/1.png"]


@pytest.mark.parametrize(
    "suffix", ["pdf", "h5", "hdf", "mpg", "mpeg", "eps", "ps", "wmf", "emf", "grib", "fits", "txt"]
)
def test_foreign_files_are_no_images_whatever_pillow_lists(tmp_path, suffix):
    path = write(tmp_path / "photos", {"a.png": png(), f"consent.{suffix}": b"%PDF-1.4\n%%EOF\n"})
    assert converted(path).others == (f"consent.{suffix}",)
    assert len(opened(path).images()) == 1


def test_a_document_that_is_called_an_image_is_not_opened_by_other_programs(tmp_path):
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    refused(converted, write(tmp_path / "photos", {"a.png": content}), "a.png is not a readable image")


def test_empty_files_are_counted_before_work_starts(tmp_path):
    files = good_set(3) | {"00000/0.png": b"", "00000/2.png": b""}
    for end in ("set.zip", "set"):
        for read in READERS:
            refused(read, write(tmp_path / end, files), r"00000/0.png is empty \(0 bytes\) \(and 1 more files")


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "C:\\x.png", "C:/x.png", "a/../../x.png", "..\\x.png", ".."])
def test_names_that_lead_out_of_a_zip_are_refused(tmp_path, name):
    path = write(tmp_path / "set.zip", good_set() | {name: png()})
    for read in READERS:
        refused(read, path, "leads out of the data set")


def test_a_name_twice_in_a_zip(tmp_path):
    path = write(tmp_path / "set.zip", good_set())
    with zipfile.ZipFile(path, "a") as handle, pytest.warns(UserWarning, match="Duplicate"):
        handle.writestr("00000/1.png", png(5))
    for read in READERS:
        refused(read, path, "holds 00000/1.png 2 times")
    path = write(tmp_path / "other.zip", good_set() | {"00000\\1.png": png(5)})
    refused(converted, path, "holds 00000/1.png 2 times")


def test_a_zip_from_windows_with_backslashes(tmp_path):
    files = {name.replace("/", "\\"): content for name, content in good_set(2).items()}
    assert ImageDataset(write(tmp_path / "set.zip", files)).names == ["00000/0.png", "00000/1.png"]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a.png", "a.png"), ("./a//b.png", "a/b.png"), ("a\\b.png", "a/b.png"), ("12:30.png", "12:30.png"),
        ("...png", "...png"), ("", None), (".", None), ("a/..", None), ("\\\\host\\a", None), ("c:", None),
    ],
)  # fmt: skip
def test_plain_names(name, plain):
    assert plain_name(name) == plain


def test_names_in_messages_are_one_short_line():
    assert shown("a b.png") == "a b.png"
    assert shown("a\n\x1b[31m\udcff") == r"'a\n\x1b[31m\udcff'"
    assert len(shown("x" * 10_000)) < 120


def test_links_to_folders_are_followed_once_and_links_to_nothing_are_named(tmp_path):
    path = write(tmp_path / "set", {"a.png": png(), "sub/b.png": png(1)})
    far = write(tmp_path / "far", {"c.png": png(2)})
    (path / "linked").symlink_to(far)
    (path / "sub" / "round").symlink_to(path)
    assert converted(path).num_images == 3
    (path / "lost.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(path / "pipe.png")
    (tmp_path / "out" / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"lost.png is a link to nothing.* \(and 1 more"):
        convert_images(path, tmp_path / "out2", PLAIN)


def damaged(path, change):
    """The zip of a good set with the bytes of its whole file changed."""
    write(path, good_set(), packing=zipfile.ZIP_DEFLATED if "deflated" in path.name else zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def _everywhere(data, mark, offset, value):
    """Write `value` at an offset from each occurrence of a signature."""
    at = data.find(mark)
    while at >= 0:
        data[at + offset : at + offset + len(value)] = value
        at = data.find(mark, at + 1)


CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"


def _both(offset, value):
    def change(data):
        _everywhere(data, CENTRAL, offset + 2, value)
        _everywhere(data, LOCAL, offset, value)

    return change


def _cut(share):
    def change(data):
        del data[int(len(data) * share) :]

    return change


DAMAGE = {
    "no zip at all": (lambda data: data.__setitem__(slice(None), b"text"), "neither a folder nor a zip"),
    "empty": (lambda data: data.clear(), "neither a folder nor a zip"),
    "ends early": (_cut(0.7), "neither a folder nor a zip"),
    "unknown packing": (_both(8, struct.pack("<H", 97)), "is packed by method 97"),
    "packed by LZMA": (_both(8, struct.pack("<H", 14)), "is packed by method 14"),
    "encrypted": (_both(6, struct.pack("<H", 1)), "is encrypted"),
    "sizes beyond the file": (_both(18, struct.pack("<II", 2**30, 2**30)), "(more than the|ends early)"),
    "a size beyond the bytes": (_both(22, struct.pack("<I", 10**5)), "(more than the|ends early|ends after)"),
    "no local headers": (lambda data: _everywhere(data, LOCAL, 0, b"XXXX"), "cannot be read"),
    "needs a newer zip": (lambda data: _everywhere(data, CENTRAL, 6, b"\xff"), "neither a folder nor a zip"),
    # last: deflated text has no place to look for
    "a byte of dataset.json": (lambda data: data.__setitem__(data.find(b'"labels"') + 1, 65), "cannot be read .*CRC"),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in DAMAGE for name in ("stored.zip", "deflated.zip")][:-1],
)
def test_a_damaged_zip_is_one_line(tmp_path, kind, name):
    change, message = DAMAGE[kind]
    path = damaged(tmp_path / name, change)
    for read in (ImageDataset, converted):
        refused(read, path, message)


def test_a_damaged_image_is_found_when_it_is_read(tmp_path):
    path = damaged(tmp_path / "set.zip", lambda data: data.__setitem__(data.rfind(b"IDAT") + 20, 3))
    text = refused(lambda path: ImageDataset(path).images([0, 1, 2]), path, "cannot be read .*CRC")
    assert "00000/" in text


def test_a_bomb_is_refused_before_it_unpacks(tmp_path, monkeypatch):
    """Megabytes of zeros in kilobytes; the limit is lowered here, to save time."""
    monkeypatch.setitem(data_labels._MOST_ARRAY_BYTES, True, 2**20)
    path = write(tmp_path / "set.zip", good_set() | {"codes.npy": bytes(2**21)}, packing=zipfile.ZIP_DEFLATED)
    refused(ImageDataset, path, "codes.npy has 2097152 bytes, more than the 1048576")
    data = bytearray(path.read_bytes())
    at = data.rfind(CENTRAL)
    data[at + 24 : at + 28] = struct.pack("<I", 400)  # it says that it is small
    path.write_bytes(data)
    refused(ImageDataset, path, "codes.npy cannot be read")


ARRAYS = {
    "good": (npy(np.zeros((3, 2))), None),
    "integers": (npy(np.zeros((3, 2), np.int16)), None),
    "columns first": (npy(np.asfortranarray(np.zeros((3, 2)))), None),
    "other bytes first": (npy(np.zeros((3, 2), ">f4")), None),
    "no columns": (npy(np.zeros((3, 0))), None),
    "too few rows": (npy(np.zeros((2, 2))), r"is \[2, 2\], expected \[3, K\]"),
    "flat": (npy(np.zeros(3)), r"is \[3\], expected \[3, K\]"),
    "NaN": (npy(np.full((3, 2), np.nan)), "not finite"),
    "one NaN": (npy([[0, 0], [0, np.nan], [0, 0]]), "not finite"),
    "infinite": (npy([[0, 0], [0, 0], [0, -np.inf]]), "not finite"),
    "beyond float32": (npy([[1e300, 0], [0, 0], [0, 0]]), "not finite or beyond float32"),
    "objects": (npy(np.array([[{}] * 2] * 3)), "not that of an array of plain numbers"),
    "text": (npy(np.array([["a"] * 2] * 3)), "not that of an array of plain numbers"),
    "complex": (npy(np.zeros((3, 2), complex)), "not that of an array of plain numbers"),
    "records": (npy(np.zeros((3, 2), "f4,f4")), "not that of an array of plain numbers"),
    "no array": (b"no array at all", "is no .npy file"),
    "empty": (b"", "is empty"),
    "cut": (npy(np.zeros((3, 2)))[:-1], "says 3 x 2 numbers of 8 bytes, but holds 47 bytes"),
    "long": (npy(np.zeros((3, 2))) + b"0", "says 3 x 2 numbers of 8 bytes, but holds 49 bytes"),
    "huge": (
        npy(np.zeros((3, 2))).replace(b"(3, 2), }         ", b"(3, 99999999999), "),
        "(numbers of 8|plain numbers)",
    ),
    "endless": (npy(np.zeros((3, 2))).replace(b"(3, 2)", b"(3, -2"), "plain numbers"),
    "an expression": (npy(np.zeros((3, 2))).replace(b"(3, 2), }", b"(3,)*2, }"), "plain numbers"),
    "an open bracket": (npy(np.zeros((3, 2))).replace(b"(3, 2), }", b"(3, 2),( "), "plain numbers"),
    "a long header": (b"\x93NUMPY\x01\x00\xff\xff{  }", "damaged in its header"),
    "another version": (npy(np.zeros((3, 2))).replace(b"NUMPY\x01", b"NUMPY\x09"), "damaged in its header"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays(tmp_path, kind):
    content, message = ARRAYS[kind]
    path = write(tmp_path / "set.zip", good_set() | {"codes.npy": content})
    for read in READERS:
        if message is None:
            read(path)
        else:
            refused(read, path, f"codes.npy .*{message}")


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 4), (4, 1)])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "|u1", "<i8", "|b1", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_those_that_numpy_reads(shape, dtype, order):
    array = np.asarray(np.random.RandomState(0).randint(0, 2, shape), dtype, order=order)
    found = parse_npy(npy(array))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_any_change_of_a_header_is_read_alike_or_refused():
    """Where numpy reads a header at all, it must not read something else."""
    rng, content = random.Random(0), npy(np.arange(6, dtype=np.float32).reshape(3, 2))
    for _ in range(500):
        data = bytearray(content)
        data[rng.randrange(8, 128)] = rng.choice(b"0123456789(),'{}<>|fiubT FalseOr\n\x00\xff")
        try:
            found = parse_npy(bytes(data))
        except ValueError:
            continue
        np.testing.assert_array_equal(found, np.load(io.BytesIO(data), allow_pickle=False))


def test_depths_must_have_the_size_of_the_images(tmp_path):
    path = write(tmp_path / "set", good_set() | {"depths.npy": npy(np.ones((3, 4, 4)))})
    refused(ImageDataset, path, "depths.npy has 4 by 4 pixels, the images have 8 by 8")
    refused(check_archive, path, "depths.npy has 4 by 4 pixels, the images have 8 by 8")


def test_missing_and_foreign_paths(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in READERS:
        with pytest.raises(FileNotFoundError, match="does not exist"):
            read(tmp_path / "nowhere")
        refused(read, tmp_path / "pipe", "neither a folder nor a zip")
    for read in (ImageDataset, check_archive, lambda path: convert_images(path, tmp_path / "out", PLAIN)):
        with pytest.raises(ValueError, match="path is empty"):
            read("")


def test_a_subset_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="max_images: 0 is below 1"):
        ImageDataset(write(tmp_path / "set", good_set()), max_images=0)


def test_labels_may_lie_beside_hidden_files(tmp_path):
    """A label of a hidden file is one without an image, not an image."""
    files = {"a.png": png(), ".b.png": png(), "dataset.json": table([("a.png", camera()), (".b.png", camera())])}
    path = write(tmp_path / "set", files)
    assert converted(path).lines() == [
        "hidden files, left out: 1 (.b.png)",
        "labels without an image, left out: 1 (.b.png)",
    ]
