"""Reading a data set: order, restart at any position, and one clear line for a bad set."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from eg3d.cameras import mirrored_labels
from eg3d.data import ImageDataset, batches, shuffled_indices


def _table(folder: Path) -> list[Any]:
    return json.loads((folder / "dataset.json").read_text())["labels"]


def _write_table(folder: Path, labels: Any) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))


@pytest.fixture
def folder(toy_images: Path, tmp_path: Path) -> Path:
    """A copy of the toy set that a test may spoil."""
    return Path(shutil.copytree(toy_images, tmp_path / "set"))


def _zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for item in sorted(folder.rglob("*")):
            if item.is_file():
                file.write(item, item.relative_to(folder).as_posix())
    return path


def test_folder_and_zip_read_the_same(folder: Path, tmp_path: Path) -> None:
    sets = [ImageDataset(folder), ImageDataset(_zipped(folder, tmp_path / "set.zip"))]
    for found in sets:
        assert (len(found), found.resolution) == (12, 16)
        assert found.labels.shape == (12, 25)
        assert found.labels.dtype == torch.float32
        assert found.images([3, 0]).shape == (2, 3, 16, 16)
        assert found.images([0]).dtype == torch.uint8
    assert torch.equal(sets[0].images(list(range(12))), sets[1].images(list(range(12))))
    assert torch.equal(sets[0].labels, sets[1].labels)
    assert sets[0].codes is not None
    assert sets[1].codes is not None
    assert torch.equal(sets[0].codes, sets[1].codes)


def test_pixels_are_those_of_the_named_file(folder: Path) -> None:
    dataset = ImageDataset(folder)
    pixels = np.asarray(PIL.Image.open(folder / dataset.names[5])).transpose(2, 0, 1)
    assert np.array_equal(dataset.images([5])[0].numpy(), pixels)


def test_the_order_is_by_path_whatever_the_table_says(folder: Path) -> None:
    wanted, table, codes = ImageDataset(folder), _table(folder), np.load(folder / "codes.npy")
    order = np.random.RandomState(1).permutation(len(table))
    _write_table(folder, [table[index] for index in order])
    np.save(folder / "codes.npy", codes[order])
    found = ImageDataset(folder)
    assert found.names == sorted(found.names) == wanted.names
    assert torch.equal(found.labels, wanted.labels)
    assert found.codes is not None
    assert np.array_equal(found.codes.numpy(), codes)


def test_codes_and_depths_are_optional(folder: Path) -> None:
    for name in ("codes.npy", "depths.npy"):
        (folder / name).unlink()
    assert ImageDataset(folder).codes is None
    assert ImageDataset(folder).depths is None
    batch = next(batches(ImageDataset(folder), 2, seed=0))
    assert batch.code is None
    assert batch.depth is None


def test_depths_stay_with_their_images(folder: Path) -> None:
    depths = np.arange(12, dtype=np.float32).repeat(16 * 16).reshape(12, 16, 16)
    np.save(folder / "depths.npy", depths)
    dataset = ImageDataset(folder)
    batch = next(batches(dataset, 12, seed=9)).to(torch.device("cpu"))
    half = batch.rows(list(range(6, 12)))
    assert batch.depth is not None
    assert half.depth is not None
    assert torch.equal(half.depth, batch.depth[6:])
    for image, depth in zip(batch.image, batch.depth, strict=True):
        assert torch.equal(image, dataset.images([int(depth[0, 0])])[0] / 127.5 - 1)


def test_label_std_is_that_of_the_population(folder: Path) -> None:
    dataset = ImageDataset(folder)
    assert np.allclose(dataset.label_std().numpy(), dataset.labels.numpy().std(axis=0), atol=1e-6)


def test_grey_images_get_three_channels(folder: Path) -> None:
    name = ImageDataset(folder).names[0]
    PIL.Image.open(folder / name).convert("L").save(folder / name)
    image = ImageDataset(folder).images([0])[0]
    assert torch.equal(image[0], image[2])


def test_each_epoch_shows_every_image_once_in_its_own_order() -> None:
    epochs = np.array(list(islice(shuffled_indices(10, seed=3, start=0), 30))).reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert list(islice(shuffled_indices(10, seed=4, start=0), 10)) != list(epochs[0])


@pytest.mark.parametrize("start", [0, 1, 7, 10, 13, 29])
def test_the_order_restarts_at_any_position(start: int) -> None:
    whole = list(islice(shuffled_indices(10, seed=3, start=0), 40))
    assert list(islice(shuffled_indices(10, seed=3, start=start), 40 - start)) == whole[start:]


def test_batches_do_not_depend_on_threads_and_restart(folder: Path) -> None:
    dataset = ImageDataset(folder)
    whole = list(islice(batches(dataset, 5, seed=1, workers=1, prefetch=1), 5))
    other = list(islice(batches(dataset, 5, seed=1, workers=4, prefetch=6), 5))
    later = list(islice(batches(dataset, 5, seed=1, start=15), 2))
    for one, two in (*zip(whole, other, strict=True), *zip(whole[3:], later, strict=True)):
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.label, two.label)
        assert one.code is not None
        assert two.code is not None
        assert torch.equal(one.code, two.code)
    assert whole[0].image.min() >= -1
    assert whole[0].image.max() <= 1
    index = next(shuffled_indices(12, seed=1, start=0))
    assert torch.equal(whole[0].image[0], dataset.images([index])[0] / 127.5 - 1)


def test_images_and_labels_stay_together(folder: Path) -> None:
    dataset = ImageDataset(folder)
    batch = next(batches(dataset, 12, seed=9))
    for image, label in zip(batch.image, batch.label, strict=True):
        index = int((dataset.labels - label).abs().sum(1).argmin())
        assert torch.equal(image, dataset.images([index])[0] / 127.5 - 1)


def _spoil_label(value: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        table = _table(folder)
        table[2][1] = value
        _write_table(folder, table)

    return spoil


def _replace_image(folder: Path, *, size: tuple[int, int]) -> None:
    PIL.Image.new("RGB", size).save(folder / _table(folder)[0][0])


IMAGES = "00000"
BAD = {
    "no table": (lambda f: (f / "dataset.json").unlink(), "no dataset.json"),
    "table is not JSON": (lambda f: (f / "dataset.json").write_text("{"), "dataset.json is not JSON"),
    "table is a list": (lambda f: (f / "dataset.json").write_text("[]"), "has no labels"),
    "labels are null": (lambda f: _write_table(f, None), "has no labels"),
    "labels are an object": (lambda f: _write_table(f, {"a": 1}), "labels must be a list"),
    "entry is not a pair": (lambda f: _write_table(f, [["a.png"]]), "entry 0 of labels is not"),
    "label is null": (_spoil_label(None), "img00000002.png must have 25 numbers"),
    "label is a class": (_spoil_label(3), "must have 25 numbers .* got 1 values"),
    "label is short": (_spoil_label([0.0] * 16), "must have 25 numbers .* got 16 values"),
    "label is text": (_spoil_label(["x"] * 25), "not finite numbers"),
    "label is not a number": (_spoil_label([float("nan")] * 25), "not finite numbers"),
    "image is missing": (lambda f: (f / IMAGES / "img00000003.png").unlink(), "img00000003.png, which is not in"),
    "image is not an image": (lambda f: (f / IMAGES / "img00000000.png").write_text("x"), "not a readable image"),
    "image is not square": (lambda f: _replace_image(f, size=(16, 8)), "16 by 8 pixels, expected a square"),
    "codes are too few": (lambda f: np.save(f / "codes.npy", np.zeros((3, 2))), r"is \[3, 2\], expected \[12, K\]"),
    "depths are flat": (lambda f: np.save(f / "depths.npy", np.zeros((12, 2))), r"expected \[12, H, H\]"),
    "codes are not an array": (lambda f: (f / "codes.npy").write_bytes(b"no"), "codes.npy is not a readable array"),
    "codes are objects": (lambda f: np.save(f / "codes.npy", np.array([{}])), "codes.npy is not a readable array"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("is_zip", [False, True], ids=["folder", "zip"])
def test_a_bad_set_is_one_line(folder: Path, tmp_path: Path, kind: str, is_zip: bool) -> None:
    spoil, message = BAD[kind]
    spoil(folder)
    path = _zipped(folder, tmp_path / "set.zip") if is_zip else folder
    with pytest.raises(ValueError, match=message) as error:
        ImageDataset(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_an_image_of_another_size_is_named(folder: Path) -> None:
    dataset = ImageDataset(folder)
    PIL.Image.new("RGB", (8, 8)).save(folder / dataset.names[4])
    with pytest.raises(ValueError, match=r"img00000004.png has 8 pixels a side, the first image 16"):
        dataset.images([0, 4])


def test_a_file_that_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_text("not a zip")
    with pytest.raises(ValueError, match="not a zip file"):
        ImageDataset(tmp_path / "set.zip")


def test_a_missing_set_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist; make portraits of a head model with 'python -m"):
        ImageDataset(tmp_path / "none.zip")


def test_mirrored_images_come_again_with_mirrored_cameras(toy_images: Path) -> None:
    plain, doubled = ImageDataset(toy_images), ImageDataset(toy_images, mirror=True)
    n = len(plain)
    assert len(doubled) == 2 * n
    assert torch.equal(doubled.images([1, n + 1])[0], plain.images([1])[0])
    assert torch.equal(doubled.images([n + 1]), plain.images([1]).flip(-1))
    assert torch.equal(doubled.labels[:n], plain.labels)
    assert torch.equal(doubled.labels[n:], mirrored_labels(plain.labels))
    assert doubled.codes is None


def test_a_subset_is_random_sorted_and_keeps_its_rows(toy_images: Path) -> None:
    whole, some = ImageDataset(toy_images), ImageDataset(toy_images, max_images=5, seed=1)
    rows = [whole.names.index(name) for name in some.names]
    assert rows == sorted(rows)
    assert len(rows) == 5
    assert rows != list(range(5))
    assert torch.equal(some.labels, whole.labels[rows])
    assert torch.equal(some.codes, whole.codes[rows])  # type: ignore[arg-type,index]
    assert torch.equal(some.images([2]), whole.images([rows[2]]))
    assert len(ImageDataset(toy_images, max_images=100)) == len(whole)
    assert ImageDataset(toy_images, max_images=5, seed=2).names != some.names


def test_a_batch_knows_neighbours_and_spread_of_its_labels(toy_images: Path) -> None:
    dataset = ImageDataset(toy_images)
    whole = next(batches(dataset, 6, seed=0, workers=1))
    assert torch.equal(whole.other, whole.label.roll(1, 0))  # type: ignore[arg-type]
    assert torch.equal(whole.label_std, whole.label.std(0))  # type: ignore[arg-type]
    part = next(batches(dataset, 6, seed=0, workers=1, rows=[4, 1]))
    assert torch.equal(part.image, whole.image[[4, 1]])
    assert torch.equal(part.other, whole.other[[4, 1]])  # type: ignore[arg-type,index]
    assert torch.equal(part.label_std, whole.label_std)  # type: ignore[arg-type]
