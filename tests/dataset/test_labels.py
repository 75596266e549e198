"""Labels find their images by one rule, for the conversion, the loader and the check; what is left over is counted."""

from __future__ import annotations

import unicodedata

import pytest
import torch
from sets import as_float32, camera, good_set, labels_of, npy, png, table, write

from dataset_preprocessing.archive import check_archive
from dataset_preprocessing.conversion import ConversionConfig, convert_images
from eg3d.data import ImageDataset

PLAIN = ConversionConfig()
ACCENT = "00000/é.png"
SPELLINGS = {  # names of images, where the table lies, names in the table, what the report says of it
    "backslashes": (["00000/a.png", "00000/b.png"], "", ["00000\\a.png", "00000\\b.png"], "backslashes"),
    "another suffix": (["00000/a.png", "00000/b.png"], "", ["00000/a.jpg", "00000/b.JPEG"], "without suffix"),
    "capitals of the suffix": (["00000/a.PNG", "00000/b.png"], "", ["00000/a.png", "00000/b.PNG"], "without suffix"),
    "a folder down": (["set/00000/a.png", "set/00000/b.png"], "set/", ["00000/a.png", "00000/b.png"], ""),
    "images a folder down": (["set/0/a.png", "set/1/b.png"], "", ["0/a.png", "1/b.png"], "a folder"),
    "labels a folder down": (["0/a.png", "1/b.png"], "", ["set/0/a.png", "set/1/b.png"], "a folder"),
    "whole paths within": (["set/a.png", "set/b.png"], "set/", ["set/a.png", "set/b.png"], ""),
    "two folders down": (["a/b/0.png", "a/b/1.png"], "a/b/", ["0.png", "1.png"], ""),
    "a dot before": (["00000/a.png", "00000/b.png"], "", ["./00000/a.png", "./00000/b.png"], ""),
    "all at once": (["set/0/a.png", "set/1/b.png"], "set/", ["0\\a.jpg", "1\\b.jpg"], "suffix"),
    "accents in two parts": ([ACCENT, "b.png"], "", [unicodedata.normalize("NFD", ACCENT), "b.png"], "without suffix"),
}


@pytest.mark.parametrize("kind", SPELLINGS)
@pytest.mark.parametrize("end", ["set.zip", "set"])
def test_spellings_that_mean_the_same_image(tmp_path, kind, end):
    images, folder, names, said = SPELLINGS[kind]
    files = {name: png(index) for index, name in enumerate(images)}
    files |= {f"{folder}dataset.json": table([(name, camera(index)) for index, name in enumerate(names)])}
    files |= {f"{folder}codes.npy": npy([[0.0], [1.0]])}
    path = write(tmp_path / end, files)
    dataset = ImageDataset(path)
    assert dataset.names == images
    assert torch.equal(dataset.labels, as_float32([camera(0), camera(1)]))
    assert dataset.codes.flatten().tolist() == [0.0, 1.0]
    report = convert_images(path, tmp_path / "out.zip", PLAIN)
    assert [label for _, label in labels_of(tmp_path / "out.zip")] == [camera(0), camera(1)]
    assert report.lines() == [] if not said else said in report.lines()[0]
    assert check_archive(path).names == tuple(images)
    assert ImageDataset(tmp_path / "out.zip").codes is not None


def test_an_exact_name_comes_first(tmp_path):
    files = {"a.png": png(0), "a.webp": png(1)}
    files["dataset.json"] = table([("a.webp", camera(1)), ("a.png", camera(0))])
    assert torch.equal(ImageDataset(write(tmp_path / "set", files)).labels, as_float32([camera(0), camera(1)]))


LOST = {  # images, names in the table, what is said
    "two images for a label": (["a.png", "a.webp"], ["a.jpg"], ["name no image of the source"]),
    "two labels for an image": (["a.png"], ["a.jpg", "a.tif"], ["name no image of the source"]),
    "the same name twice over": (["x/a.png", "b.png"], ["x\\a.png", "./x/a.png", "b.png"], ["1 of 2 images", "2 (x"]),
    "nothing fits": (["a.png"], ["b.png"], ["the 1 labels of dataset.json name no image", "b.png", "a.png"]),
    "names that lead out": (["a.png", "b.png"], ["../a.png", "/b.png"], ["name no image of the source"]),
    "one is missing": (["a.png", "b.png"], ["a.png"], ["1 of 2 images have no label in the source (the first b.png)"]),
    "one too many": (["a.png"], ["a.png", "b.png"], ["labels without an image, left out: 1 (b.png)"]),
    "an image by another name": (["a.png"], ["a.png", "b.pdf"], ["labels without an image, left out: 1 (b.pdf)"]),
}


@pytest.mark.parametrize("kind", LOST)
def test_what_finds_no_partner_is_counted(tmp_path, kind):
    images, names, said = LOST[kind]
    files = {name: png(index) for index, name in enumerate(images)}
    path = write(
        tmp_path / "set.zip",
        files | {"dataset.json": table([(name, camera(index)) for index, name in enumerate(names)])},
    )
    report = convert_images(path, tmp_path / "out", PLAIN)
    lines = " | ".join(report.lines())
    assert all(part in lines for part in said), lines
    assert "the source has none" not in lines
    for read in (ImageDataset, check_archive):
        with pytest.raises(ValueError, match=r"(labels without an image|images without a label): ") as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "--labelled-only" in str(caught.value)


def test_labelled_only_writes_what_training_takes(tmp_path):
    files = good_set(4) | {"00000/extra.png": png(9)}
    files["dataset.json"] = table([(f"00000/{k}.png", camera(k)) for k in (3, 1, 0, 7)], recipe={"maker": "me"})
    files["codes.npy"] = npy([[3.0], [1.0], [0.0], [7.0]])
    path = write(tmp_path / "set.zip", files)
    report = convert_images(path, tmp_path / "out.zip", ConversionConfig(is_labelled_only=True))
    assert report.lines() == [
        "images without a label, left out: 2 (00000/2.png, 00000/extra.png)",
        "labels without an image, left out: 1 (00000/7.png)",
    ]
    dataset = ImageDataset(tmp_path / "out.zip")
    assert torch.equal(dataset.labels, as_float32([camera(k) for k in (0, 1, 3)]))
    assert dataset.codes.flatten().tolist() == [0.0, 1.0, 3.0]
    assert check_archive(tmp_path / "out.zip").recipe["is_labelled_only"] is True
    with pytest.raises(ValueError, match="no image has a label"):
        convert_images(
            write(tmp_path / "none", {"a.png": png()}), tmp_path / "o", ConversionConfig(is_labelled_only=True)
        )


def test_a_part_of_the_source_needs_only_its_own_labels(tmp_path):
    files = good_set(3)
    files["dataset.json"] = table([(f"00000/{k}.png", camera(k)) for k in (0, 1)])
    report = convert_images(write(tmp_path / "set", files), tmp_path / "out", ConversionConfig(max_images=2))
    assert report.lines() == []
    assert len(labels_of(tmp_path / "out")) == 2


@pytest.mark.parametrize("content", [table(None), table([]), b"{}", b'\xef\xbb\xbf{"labels": null}'])
def test_a_source_that_says_it_has_no_labels(tmp_path, content):
    path = write(tmp_path / "set", {"a.png": png(), "dataset.json": content})
    assert convert_images(path, tmp_path / "out", PLAIN).lines() == ["labels: none, the source has none"]
    with pytest.raises(ValueError, match="has no labels"):
        ImageDataset(path)


def test_several_sets_in_one(tmp_path):
    files = {f"{folder}/{name}": content for folder in "ab" for name, content in good_set(1).items()}
    path = write(tmp_path / "set", files)
    with pytest.raises(
        ValueError, match=r"holds several data sets, dataset.json: 2 \(a/dataset.json, b/dataset.json\)"
    ):
        convert_images(path, tmp_path / "out", PLAIN)
    assert convert_images(path / "a", tmp_path / "out", PLAIN).num_images == 1


def _label(value):
    return table([("00000/0.png", [value, *camera(0)[1:]])])


BAD_TABLES = {
    "not JSON": (b"{", "dataset.json is not JSON"),
    "not text": (b"\xff\xfe\xfd", "dataset.json is not JSON"),
    "empty": (b"", "dataset.json is empty"),
    "nested lists": (b"[" * 100_000, "nested too deeply"),
    "nested objects": (b'{"labels":' * 50_000, "nested too deeply"),
    "a list": (b"[]", "has no labels; expected an object"),
    "a key twice": (b'{"labels": [], "labels": null}', "the key 'labels' stands there more than once"),
    "labels are text": (b'{"labels": "all"}', "labels must be a list"),
    "labels are an object": (b'{"labels": {"a.png": [0]}}', "labels must be a list .* got dict"),
    "an entry is null": (b'{"labels": [null]}', "entry 0 of labels is not"),
    "a name is a number": (b'{"labels": [[1, []]]}', "entry 0 of labels is not"),
    "a name twice": (table([("a.png", camera(0))] * 2), "has 2 labels for a.png"),
    "a label is short": (table([("a.png", [0.0] * 24)]), "the label of a.png must have 25 numbers .* got 24 values"),
    "a label is a class": (table([("a.png", 3)]), "must have 25 numbers .* got 1 values"),
    "a number is text": (_label("1.0"), "values that are not finite numbers"),
    "a number is true": (_label(True), "values that are not finite numbers"),
    "a number is null": (_label(None), "values that are not finite numbers"),
    "a number is a list": (_label([1.0]), "values that are not finite numbers"),
    "a number is infinite": (_label(float("inf")), "not finite numbers within float32"),
    "a number is NaN": (_label(float("nan")), "not finite numbers within float32"),
    "a number is beyond float32": (_label(1e39), "not finite numbers within float32"),
    "a number has 400 digits": (_label(10**400), "not finite numbers within float32"),
    "a number has 5000 digits": (b'{"labels": [["a", [1' + b"0" * 5000 + b"]]]}", "dataset.json is not JSON"),
    "the recipe is a list": (table([("00000/0.png", camera(0))], recipe=[1]), "recipe must be an object, got list"),
    "the recipe is not finite": (b'{"labels": [], "recipe": {"a": NaN}}', "recipe has numbers that are not finite"),
    "a control character": (table([("a\nb.png", [0.0])]), r"the label of 'a\\nb.png' must have"),
    "a name without end": (table([("a" * 5000, [0.0])]), r"the label of a{100}\.\.\. must have"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_a_broken_table_is_one_line_for_every_reader(tmp_path, kind):
    content, message = BAD_TABLES[kind]
    path = write(tmp_path / "set.zip", good_set(1) | {"dataset.json": content})
    for read in (ImageDataset, check_archive, lambda path: convert_images(path, tmp_path / "out", PLAIN)):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_table_larger_than_any(tmp_path):
    path = write(tmp_path / "set", good_set(1))
    with (path / "dataset.json").open("ab") as file:
        file.truncate(2**24 + 2**20)
    with pytest.raises(ValueError, match=r"dataset.json has 17825792 bytes, more than the"):
        ImageDataset(path)


def test_labels_are_taken_as_written(tmp_path):
    """Integers, exponents and the last digit of a double go through the conversion unchanged."""
    label = [
        1,
        0,
        0,
        0,
        0,
        -1,
        0,
        1e-17,
        0,
        0,
        -1.0,
        2.7000000000000001,
        0,
        0,
        0,
        1,
        4.2647,
        0,
        0.5,
        0,
        4.2647,
        0.5,
        0,
        0,
        1,
    ]
    path = write(tmp_path / "set", {"a.png": png(), "dataset.json": table([("a.png", label)])})
    convert_images(path, tmp_path / "out", PLAIN)
    assert (tmp_path / "out" / "dataset.json").read_text() == (
        '{"labels": [["00000/img00000000.png", [1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1e-17, 0.0, 0.0, -1.0, 2.7, 0.0, '
        '0.0, 0.0, 1.0, 4.2647, 0.0, 0.5, 0.0, 4.2647, 0.5, 0.0, 0.0, 1.0]]], "recipe": {"maker": '
        '"dataset_preprocessing.dataset_tool", "transform": "none", "resolution": null, "max_images": null, '
        '"is_mirrored": false}}'
    )
