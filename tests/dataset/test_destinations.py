"""Where data sets are written: never over their source, never under no name; killed runs leave nothing for long."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sets import camera, good_set, png, write

from dataset_preprocessing.archive import check_archive, create_archive
from dataset_preprocessing.conversion import ConversionConfig, convert_images
from dataset_preprocessing.human_heads.run import HeadsConfig, make_heads
from eg3d.data import ImageDataset

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ConversionConfig()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", ["same", "absolute", "link", "hard link", "dots"])
def test_a_source_is_never_written_over(tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "set.zip", good_set())
    dest = {"same": "set.zip", "absolute": str(source), "dots": "x/../set.zip"}.get(way, "other.zip")
    if way == "link":
        os.symlink("set.zip", dest)
    elif way == "hard link":
        os.link("set.zip", dest)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="is the source itself"):
        convert_images("set.zip", dest, PLAIN)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("dest", ["set", "set/out", "set/out.zip", "set/00000/deep/out.zip", "linked/out.zip"])
def test_nothing_is_written_into_a_source(tmp_path, monkeypatch, dest):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "set", good_set())
    os.symlink("set", "linked")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"(is the source itself|lies within the source)"):
        convert_images("set", dest, PLAIN)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("out", ["", ".", "..", "/", "a/.."])
def test_a_name_that_is_none_is_refused(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    write(tmp_path / "set", good_set())
    before = contents(tmp_path)
    for make in (
        lambda: convert_images("set", out, PLAIN),
        lambda: make_heads(HeadsConfig(out=out, num_images=1, resolution=8, workers=1)),
    ):
        with pytest.raises(ValueError, match=r"(no name for a data set|out: is empty|lies within|source itself)"):
            make()
    assert contents(tmp_path) == before


def test_what_is_in_the_way_is_found_before_the_work(tmp_path):
    (tmp_path / "a.zip").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    source, seen = write(tmp_path / "set", good_set()), []
    for name, message in (("a.zip", "is a folder"), ("file", "must be new or empty"), ("full", "must be new or empty")):
        with pytest.raises(ValueError, match=message):
            convert_images(source, tmp_path / name, PLAIN, advance=lambda *count: seen.append(count))
    assert seen == []


def test_a_sheet_does_not_replace_its_data_set(tmp_path):
    path = str(tmp_path / "a.png")
    assert HeadsConfig(out=path, contact_sheet=path).validate() == [
        f"contact_sheet: {path} is the data set's own path; give a .png file"
    ]


def test_an_old_set_stays_until_the_new_one_is_whole(tmp_path):
    source, out = write(tmp_path / "set", good_set()), tmp_path / "out.zip"
    convert_images(source, out, PLAIN)
    before = out.read_bytes()
    (source / "00000" / "2.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"2.png is not a readable image"):
        convert_images(source, out, PLAIN)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zip", "set"]


WRITER = """
import sys, time
from dataset_preprocessing.archive import create_archive
with create_archive(sys.argv[1]) as archive:
    archive.add_image(bytes(5000), None)
    print("writing", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def writer(out: Path):
    """A process in the middle of writing a data set."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(out)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
    finally:
        process.kill()
        process.wait()


def new_set(out: Path) -> None:
    with create_archive(out) as archive:
        archive.add_image(png(), camera())
        archive.finish(recipe={})


@pytest.mark.parametrize("name", ["set.zip", "set", "set.v1.zip", "a set"])
def test_what_a_killed_run_left_is_removed_at_the_next_start(tmp_path, name):
    others = [".set-notes.zip", ".other-12345678.zip", ".set-12345678.zip.txt", "set-12345678.zip"]
    for other in others:
        (tmp_path / other).write_text("mine")
    out = tmp_path / name
    with writer(out) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(list(tmp_path.iterdir())) == len(others) + 1
    new_set(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, name])
    assert check_archive(out).names


@pytest.mark.parametrize("name", ["set.zip", "set"])
def test_a_run_in_progress_is_not_harmed(tmp_path, name):
    out = tmp_path / name
    with writer(out) as process:
        (left,) = tmp_path.iterdir()
        new_set(out)
        assert process.poll() is None
        assert left.exists()
        assert sorted(tmp_path.iterdir()) == sorted([left, out])
        process.kill()
        process.wait()
        out_again = tmp_path / "again" / name
        new_set(out_again)
        assert left.exists()  # of another place
    if out.is_dir():
        return  # a folder that is full is no destination
    new_set(out)
    assert not left.exists()


def test_a_link_in_the_place_of_a_leftover_is_left_alone(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "x").write_text("x")
    (tmp_path / ".set-abcdefgh").symlink_to(precious)
    new_set(tmp_path / "set")
    assert (precious / "x").exists()
    assert (tmp_path / ".set-abcdefgh").is_symlink()


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(self, name, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dataset_preprocessing.archive.ArchiveWriter._write", full)
    for name in ("set.zip", "set"):
        with pytest.raises(OSError, match=r"No space left on device|disk is full") as caught:
            new_set(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_killed_while_converting(tmp_path):
    """As a user sees it: the command is killed in the middle, started again, and all is well."""
    source = write(tmp_path / "set", {f"{index:04d}.png": png(index, 64) for index in range(300)})
    words = ["--source", "set", "--dest", "out/set.zip", "--resolution", "512x512", "--workers", "1"]
    command = [sys.executable, "-m", "dataset_preprocessing.dataset_tool", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    end = time.time() + 120
    while time.time() < end and not any(path.stat().st_size > 10**6 for path in (tmp_path / "out").glob(".set-*.zip")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".zip"]
    for path in sorted(source.iterdir())[3:]:
        path.unlink()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["set.zip"]
    with pytest.raises(ValueError, match="has no labels"):
        ImageDataset(tmp_path / "out" / "set.zip")
