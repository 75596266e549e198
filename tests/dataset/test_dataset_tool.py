"""python -m dataset_preprocessing.dataset_tool: crops and sizes, labels, mirrored copies, bytes, refusals."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from dataset_preprocessing import conversion, dataset_tool
from dataset_preprocessing.archive import check_archive, create_archive, encode_png
from dataset_preprocessing.conversion import ConversionConfig, convert_images, transformed
from eg3d import png
from eg3d.cameras import camera_label, lookat_c2w, mirrored_labels
from eg3d.data import ImageDataset
from eg3d.png import read_pixels

ROOT = Path(__file__).resolve().parents[2]


def picture(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, channels), dtype=np.uint8)


def label(seed: int) -> list[float]:
    """A camera off the frontal pose, with a principal point off the centre and a skew."""
    angles = np.random.RandomState(seed).uniform(-0.3, 0.3, 2)
    K = torch.tensor([[4.1, 0.02, 0.47], [0.0, 4.3, 0.52], [0.0, 0.0, 1.0]])
    return camera_label(lookat_c2w(float(angles[0]), float(angles[1])), K)[0].tolist()


@pytest.fixture
def source(tmp_path) -> Path:
    """Nine images of 20 x 12 in folders, one a JPEG, each with a label; a text file beside them."""
    folder, labels = tmp_path / "source", []
    (folder / "b").mkdir(parents=True)
    for index in range(9):
        name = f"{'b/' if index % 2 else ''}{index}.{'jpg' if index == 4 else 'png'}"
        PIL.Image.fromarray(picture(index, 12, 20)).save(folder / name)
        labels.append([name, label(index)])
    (folder / "dataset.json").write_text(json.dumps({"labels": labels[::-1]}))
    (folder / "notes.txt").write_text("not an image")
    return folder


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as handle:
        for file in sorted(f for f in folder.rglob("*") if f.is_file()):
            handle.write(file, file.relative_to(folder).as_posix())
    return path


def files_of(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        return {f.relative_to(path).as_posix(): f.read_bytes() for f in path.rglob("*") if f.is_file()}
    with zipfile.ZipFile(path) as handle:
        return {name: handle.read(name) for name in handle.namelist()}


CROP = ConversionConfig(transform="center-crop", resolution=(8, 8))
ORDER = ["0.png", "2.png", "4.jpg", "6.png", "8.png", "b/1.png", "b/3.png", "b/5.png", "b/7.png"]


def test_images_are_cropped_resized_and_keep_their_labels(source, tmp_path):
    report = convert_images(source, tmp_path / "set.zip", CROP)
    summary = check_archive(tmp_path / "set.zip")
    assert len(summary.names) == report.num_images == 9 and summary.resolution == 8
    numbers = [int(Path(name).stem) for name in ORDER]
    np.testing.assert_allclose(summary.labels, np.array([label(number) for number in numbers]), rtol=1e-6)
    assert report.others == ("notes.txt",)
    assert report.lines() == [
        "not images, left out: 1 (notes.txt)",
        "labels: written as they were for 9 cropped images; they must be the cameras of the crops",
    ]
    dataset = ImageDataset(tmp_path / "set.zip")
    middle = PIL.Image.fromarray(picture(2, 12, 20)[:, 4:16]).resize((8, 8), PIL.Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(dataset.images([1])[0].permute(1, 2, 0), np.asarray(middle))


def test_folder_and_zip_give_the_same_files_either_way(source, tmp_path):
    archive = zipped(source, tmp_path / "source.zip")
    made = []
    for index, (start, end) in enumerate([(source, "a.zip"), (source, "a"), (archive, "b.zip"), (archive, "b")]):
        convert_images(start, tmp_path / end, CROP, workers=2 if index == 2 else 1)
        made.append(files_of(tmp_path / end))
    assert made[0] == made[1] == made[2] == made[3] and len(made[0]) == 10
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_mirrored_copies_follow_their_images_with_mirrored_labels(source, tmp_path):
    convert_images(source, tmp_path / "set.zip", ConversionConfig(CROP.transform, CROP.resolution, 3, is_mirrored=True))
    summary = check_archive(tmp_path / "set.zip")
    assert summary.names[:3] == ("00000/img00000000.png", "00000/img00000000_mirror.png", "00000/img00000001.png")
    assert len(summary.names) == 6
    files = files_of(tmp_path / "set.zip")
    for plain, mirror in zip(summary.names[::2], summary.names[1::2], strict=True):
        np.testing.assert_array_equal(read_pixels(files[plain])[:, ::-1], read_pixels(files[mirror]))
    expected = mirrored_labels(torch.from_numpy(summary.labels[::2]))
    np.testing.assert_allclose(summary.labels[1::2], expected, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(9, 20), (20, 9), (12, 16), (40, 30)])
def test_wide_crops_keep_the_shape_on_a_black_square(height, width):
    cfg = ConversionConfig("center-crop-wide", (8, 6))
    image = picture(0, height, width) // 2 + 100
    made = transformed(image, cfg)
    assert made.shape == (8, 8, 3) and (made[:1] == 0).all() and (made[-1:] == 0).all() and (made[1:7] > 0).all()
    if (height, width) == (12, 16):
        whole = PIL.Image.fromarray(image).resize((8, 6), PIL.Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(made[1:7], np.asarray(whole))
    assert transformed(picture(0, 5, 20), cfg) is None and transformed(picture(0, 20, 7), cfg) is None


def test_images_too_small_for_a_wide_crop_are_counted(source, tmp_path):
    PIL.Image.fromarray(picture(50, 4, 20)).save(source / "1b.png")
    report = convert_images(source, tmp_path / "set.zip", ConversionConfig("center-crop-wide", (16, 8)))
    assert (report.num_rejected, report.num_images) == (1, 9)
    assert "smaller than the crop, left out: 1" in " ".join(report.lines())
    assert "1 of 10 images have no label" in " ".join(report.lines())
    assert json.loads(files_of(tmp_path / "set.zip")["dataset.json"])["labels"] is None


def test_a_set_of_ours_passes_unchanged_and_keeps_its_arrays(tmp_path):
    codes, depths = np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(192, dtype=np.float32).reshape(3, 8, 8)
    with create_archive(tmp_path / "a.zip") as archive:
        for index in range(3):
            archive.add_image(encode_png(picture(index, 8, 8)), label(index))
        archive.finish(recipe={"maker": "test"}, codes=codes, depths=depths)
    convert_images(tmp_path / "a.zip", tmp_path / "b.zip", ConversionConfig(max_images=2))
    first, second = files_of(tmp_path / "a.zip"), files_of(tmp_path / "b.zip")
    assert all(first[f"00000/img0000000{i}.png"] == second[f"00000/img0000000{i}.png"] for i in range(2))
    dataset = ImageDataset(tmp_path / "b.zip")
    np.testing.assert_array_equal(dataset.codes, codes[:2])
    np.testing.assert_array_equal(dataset.depths, depths[:2])
    assert check_archive(tmp_path / "b.zip").recipe["source"] == {"maker": "test"}
    report = convert_images(tmp_path / "a.zip", tmp_path / "c.zip", ConversionConfig(resolution=(4, 4)))
    assert report.left_out == ("depths.npy",) and ImageDataset(tmp_path / "c.zip").codes is not None
    report = convert_images(tmp_path / "a.zip", tmp_path / "d.zip", ConversionConfig(is_mirrored=True))
    assert report.left_out == ("codes.npy", "depths.npy") and ImageDataset(tmp_path / "d.zip").codes is None


def test_alpha_is_dropped_and_grey_stays_grey(tmp_path):
    for name, channels in (("rgba", 4), ("grey", 1)):
        (tmp_path / name).mkdir()
        image = picture(1, 8, 8, channels)
        PIL.Image.fromarray(image[..., 0] if channels == 1 else image).save(tmp_path / name / "0.png")
        report = convert_images(tmp_path / name, tmp_path / f"{name}.zip", ConversionConfig())
        written = read_pixels(files_of(tmp_path / f"{name}.zip")["00000/img00000000.png"])
        np.testing.assert_array_equal(written, image[..., :3])
        assert report.lines() == ["labels: none, the source has none"]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "CMYK"])
def test_pixels_are_the_same_with_and_without_pyspng(monkeypatch, mode):
    pytest.importorskip("pyspng")
    buffer = io.BytesIO()
    image = PIL.Image.fromarray(picture(3, 9, 7)).convert(mode)
    image.save(buffer, "tiff" if mode == "CMYK" else "png")
    fast = read_pixels(buffer.getvalue())
    monkeypatch.setattr(png, "_is_plain_png", lambda content: False)
    slow = read_pixels(buffer.getvalue())
    np.testing.assert_array_equal(fast, slow)
    assert fast.dtype == np.uint8 and fast.shape == (9, 7, 1 if mode in ("L", "LA", "1") else 3)


def test_grey_images_are_read_as_colours(tmp_path):
    with create_archive(tmp_path / "grey.zip") as archive:
        archive.add_image(encode_png(picture(1, 8, 8, 1)), label(0))
        archive.finish(recipe={})
    np.testing.assert_array_equal(
        ImageDataset(tmp_path / "grey.zip").images([0])[0], picture(1, 8, 8, 1).transpose(2, 0, 1).repeat(3, 0)
    )


def test_unreadable_pixels():
    whole = encode_png(picture(0, 8, 8))
    huge = bytearray(whole)
    huge[16:24] = (60_000).to_bytes(4) * 2  # 3.6 thousand million pixels, says the header
    deep = io.BytesIO()
    PIL.Image.fromarray(np.zeros((4, 4), np.uint16)).save(deep, "png")
    for content in (whole[:40], b"", b"text", deep.getvalue(), bytes(huge)):
        with pytest.raises(ValueError) as caught:
            read_pixels(content)
        assert "\n" not in str(caught.value)


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in this process."""
    try:
        dataset_tool.main.main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def _rewritten(path: Path, change) -> None:
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("break_source", "options", "code", "message"),
    [
        (None, [], 1, "would be 20x12; EG3D asks for squares"),
        (None, ["--resolution", "12x12"], 1, "would be 12x12; EG3D asks for squares with a power-of-two side"),
        (None, ["--resolution", "big"], 2, "'big' is not a size; write 512x512"),
        (None, ["--transform", "center-crop"], 1, "center-crop needs a resolution"),
        (None, ["--transform", "center-crop", "--resolution", "8x4"], 1, "center-crop makes squares"),
        (None, ["--transform", "center-crop-wide", "--resolution", "64x32"], 1, "all 9 images are smaller"),
        (None, ["--transform", "fisheye"], 2, "fisheye"),
        (None, ["--max-images", "0", "--resolution", "8x8"], 1, "max-images: must be at least 1, got 0"),
        (lambda s: (s / "2.png").write_bytes(b"no"), ["--resolution", "8,8"], 1, "2.png is not a readable image"),
        (lambda s: (s / "dataset.json").write_text("{"), ["--resolution", "8x8"], 1, "dataset.json is not JSON"),
        (
            lambda s: _rewritten(s / "dataset.json", lambda t: t["labels"][0][1].pop()),
            ["--resolution", "8x8"], 1, "the label of 8.png must have 25 numbers",
        ),
        (
            lambda s: _rewritten(s / "dataset.json", lambda t: t["labels"][0].__setitem__(1, ["x"] * 25)),
            ["--resolution", "8x8"], 1, "the label of 8.png must have 25 numbers",
        ),
        (
            lambda s: PIL.Image.fromarray(picture(0, 8, 8, 1)[..., 0]).save(s / "8.png"),
            ["--resolution", "8x8"], 1, "8.png is 8x8 with 1 channels, 0.png is 8x8 with 3",
        ),
    ],
)  # fmt: skip
def test_bad_calls_get_one_line_and_leave_nothing(capsys, tmp_path, source, break_source, options, code, message):
    if break_source:
        break_source(source)
    before = sorted(tmp_path.iterdir())
    found, out, err = call(capsys, "--source", source, "--dest", tmp_path / "set.zip", "--workers", 1, *options)
    assert found == code and message in err and err.startswith("error: ") and err.count("\n") == 1 and out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_sources_that_are_none(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("x")
    for name, message in [
        ("nowhere", "does not exist"), ("text", "neither a folder nor a zip"), ("empty", "has no images"),
    ]:  # fmt: skip
        code, _, err = call(capsys, "--source", tmp_path / name, "--dest", tmp_path / "set.zip")
        assert code == 1 and message in err and err.count("\n") == 1
    assert not (tmp_path / "set.zip").exists()


def test_an_error_in_a_worker_is_one_line_too(capsys, tmp_path, source):
    (source / "b" / "7.png").write_bytes(b"no")
    code, _, err = call(
        capsys, "--source", source, "--dest", tmp_path / "s", "--workers", 2, "--resolution", "8x8"
    )  # fmt: skip
    assert code == 1 and "b/7.png is not a readable image" in err and err.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_as_a_user_runs_it(tmp_path, source):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dataset_preprocessing.dataset_tool", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)

    shown = run("--help")
    assert shown.returncode == 0
    for word in ("--source", "--dest", "--max-images", "center-crop-wide", "--resolution", "--mirror", "--workers"):
        assert word in shown.stdout
    done = run(
        "--source",
        source,
        "--dest",
        "set.zip",
        "--transform=center-crop",
        "--resolution=8x8",
        "--mirror",
        "--workers=1",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "not images, left out: 1 (notes.txt)",
        "labels: written as they were for 9 cropped images; they must be the cameras of the crops",
        "data set: set.zip (18 images)",
    ]
    assert len(ImageDataset(tmp_path / "set.zip")) == 18


def test_progress_counts_every_source_image(source, tmp_path):
    seen = []
    convert_images(source, tmp_path / "set", CROP, advance=lambda count=1: seen.append(count))
    assert sum(seen) == 9


def test_transform_names_are_those_of_the_command():
    choices = next(p for p in dataset_tool.main.params if p.name == "transform").type.choices
    assert tuple(choices) == conversion.TRANSFORMS
