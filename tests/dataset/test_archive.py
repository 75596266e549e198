"""The EG3D archive format: round trip, one-line errors, destinations, what killed runs leave."""

import json
import zipfile

import numpy as np
import pytest
import torch

from dataset_preprocessing.archive import check_archive, create_archive, encode_png
from eg3d.cameras import camera_label, intrinsics, lookat_c2w
from eg3d.data import ImageDataset

LABELS = camera_label(lookat_c2w(torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.0, 0.1, 0.2])), intrinsics(4.2647))


def write(path, *, count=3, codes=None, depths=None):
    rng = np.random.RandomState(0)
    with create_archive(path) as archive:
        for index in range(count):
            archive.add_image(encode_png(rng.randint(0, 256, (8, 8, 3), dtype=np.uint8)), LABELS[index].tolist())
        archive.finish(recipe={"maker": "test"}, codes=codes, depths=depths)
    return path


@pytest.mark.parametrize("name", ["set.zip", "folder"])
def test_round_trip(tmp_path, name):
    codes = np.random.RandomState(1).randn(3, 5).astype(np.float32)
    depths = np.random.RandomState(2).rand(3, 8, 8).astype(np.float32)
    path = write(tmp_path / name, codes=codes, depths=depths)
    summary = check_archive(path)
    assert summary.names == tuple(f"00000/img0000000{i}.png" for i in range(3))
    assert summary.resolution == 8 and summary.recipe == {"maker": "test"}
    np.testing.assert_array_equal(summary.labels, LABELS.numpy())
    np.testing.assert_array_equal(summary.codes, codes)
    np.testing.assert_array_equal(summary.depths, depths)
    np.testing.assert_array_equal(ImageDataset(path).labels.numpy(), summary.labels)
    np.testing.assert_array_equal(ImageDataset(path).depths.numpy(), depths)


def test_same_content_same_bytes(tmp_path):
    assert write(tmp_path / "a.zip").read_bytes() == write(tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize(("name", "shape"), [("codes", (2, 5)), ("codes", (3, 5, 1)), ("depths", (3, 8))])
def test_arrays_have_a_row_an_image(tmp_path, name, shape):
    with pytest.raises(ValueError, match=rf"{name} must be \[3, .*, got \{list(shape)}".replace("]", r"\]")):
        write(tmp_path / "set.zip", **{name: np.zeros(shape)})
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing_behind(tmp_path):
    for name in ("a.zip", "folder"):
        with pytest.raises(ValueError, match="25 numbers"), create_archive(tmp_path / name) as archive:
            archive.add_image(b"", [0.0] * 24)
    assert list(tmp_path.iterdir()) == []


def test_full_folder_is_refused(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(ValueError, match="must be new or empty"), create_archive(tmp_path):
        pass


def rewrite(source, target, change):
    """Copy a zip; change(files: dict name -> bytes) edits it on the way."""
    with zipfile.ZipFile(source) as handle:
        files = {name: handle.read(name) for name in handle.namelist()}
    change(files)
    with zipfile.ZipFile(target, "w") as handle:
        for name, content in files.items():
            handle.writestr(name, content)
    return target


def _without_entry(files):
    del files["00000/img00000001.png"]


def _without_label(files):
    table = json.loads(files["dataset.json"])
    table["labels"].pop()
    files["dataset.json"] = json.dumps(table).encode()


def _short_label(files):
    table = json.loads(files["dataset.json"])
    table["labels"][0][1].pop()
    files["dataset.json"] = json.dumps(table).encode()


def _other_size(files):
    files["00000/img00000002.png"] = encode_png(np.zeros((16, 16, 3), np.uint8))


def _odd_size(files):
    files["00000/img00000000.png"] = encode_png(np.zeros((12, 12, 3), np.uint8))


def _no_table(files):
    del files["dataset.json"]


def _broken_table(files):
    files["dataset.json"] = b"{"


def _null_labels(files):
    files["dataset.json"] = b'{"labels": null}'


def _malformed_entry(files):
    files["dataset.json"] = b'{"labels": [["00000/img00000000.png"]]}'


def _broken_image(files):
    files["00000/img00000000.png"] = b"no picture"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_entry, "names 00000/img00000001.png, which is not in the set"),
        (_without_label, r"images without a label: 1 \(00000/img00000002.png\)"),
        (_short_label, "must have 25 numbers .*, got 24 values"),
        (_other_size, "16x16, expected 8x8"),
        (_odd_size, "power-of-two"),
        (_no_table, "no dataset.json"),
        (_broken_table, "not JSON"),
        (_null_labels, "no labels"),
        (_malformed_entry, "entry 0"),
        (_broken_image, "img00000000.png is not a readable image"),
    ],
)
def test_bad_archives_get_one_line(tmp_path, change, message):
    bad = rewrite(write(tmp_path / "good.zip"), tmp_path / "bad.zip", change)
    with pytest.raises(ValueError, match=message) as caught:
        check_archive(bad)
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m dataset_preprocessing"):
        check_archive(tmp_path / "none.zip")
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(ValueError, match="neither a folder nor a zip"):
        check_archive(tmp_path / "text.zip")
