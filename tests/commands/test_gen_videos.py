"""python -m eg3d.gen_videos as a user runs it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from command_line import Run

from eg3d import gen_videos
from eg3d.installation import install_hint

SHORT = ("--w-frames", "3", "--sample-mult", "1", "--device", "cpu")


def decoded(path: Path) -> np.ndarray:
    """Frames [F, H, W, 3] of a film."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def test_help(run: Run) -> None:
    result = run(gen_videos, "--help")
    assert (result.code, result.err) == (0, "")
    published = "network seeds shuffle-seed grid num-keyframes w-frames trunc trunc-cutoff outdir cfg image-mode nrr"
    for option in f"{published} sample-mult shapes interpolate".split():
        assert f"--{option} " in result.out


def test_two_runs_give_the_same_film(run: Run, toy_networks: Path, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="films need imageio-ffmpeg")
    for out in ("a", "b"):
        arguments = ("--network", str(toy_networks), "--seeds", "0-3", "--grid", "2x1", "--outdir", out, *SHORT)
        result = run(gen_videos, *arguments, "--image_mode", "image")
        assert (result.code, result.out, result.err) == (0, f"1 files in {out}\n", "")
        assert [path.name for path in (tmp_path / out).iterdir()] == ["interpolation.mp4"]
    frames = decoded(tmp_path / "a" / "interpolation.mp4")
    assert frames.shape == (2 * 3, 16, 32, 3)
    assert np.array_equal(frames, decoded(tmp_path / "b" / "interpolation.mp4"))


def test_one_seed_with_shapes(run: Run, toy_networks: Path, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="films need imageio-ffmpeg")
    arguments = ("--network", str(toy_networks), "--seeds", "7", "--outdir", "out", *SHORT)
    shapes = ("--shapes", "--shape-res", "8", "--shape-level", "0")
    result = run(gen_videos, *arguments, *shapes, "--image_mode", "image_raw", "--cfg", "Shapenet")
    assert (result.code, result.err) == (0, "")
    folder = tmp_path / "out" / "interpolation_shapes"
    assert sorted(path.name for path in folder.iterdir()) == [
        "frame0000.ply", "frame0001.ply", "frame0002.ply", "trajectory.npy"
    ]  # fmt: skip
    assert np.load(folder / "trajectory.npy").shape == (3, 4, 4)
    assert decoded(tmp_path / "out" / "interpolation.mp4").shape == (3, 8, 8, 3)
    result = run(gen_videos, *arguments, *shapes, "--interpolate=False")
    assert (result.code, result.err) == (0, "")
    assert {"seed0007.mp4", "seed0007.ply"} <= {path.name for path in (tmp_path / "out").iterdir()}


BAD = {
    "grid": (["--grid", "2y2"], 2, "'2y2' is not columns and rows; write 4x3"),
    "too few seeds": (["--grid", "2x2"], 2, "seeds: 2 do not fill a grid of 2x2 evenly; give a multiple of 4"),
    "shapes of a grid": (["--grid", "2x1", "--shapes"], 2, "shapes: need a grid of 1x1"),
    "orbits in a grid": (["--grid", "2x1", "--interpolate", "no"], 2, "grid: an orbit around each seed"),
    "mode": (["--image_mode", "film"], 2, "'film' is not one of 'image', "),
    "bit rate": (["--bitrate", "fast"], 2, "bitrate: 'fast' is not a number of bits a second"),
    "network": (["--network", "nowhere.safetensors"], 1, "no network file at nowhere.safetensors"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_call_is_one_line_and_leaves_nothing(run: Run, toy_networks: Path, tmp_path: Path, kind: str) -> None:
    arguments, code, text = BAD[kind]
    result = run(gen_videos, "--network", str(toy_networks), "--seeds", "0,1", "--outdir", "out", *arguments)
    assert text in result.the_error()
    assert (result.code, result.out) == (code, "")
    assert list(tmp_path.iterdir()) == []


def test_without_the_encoder_one_line_says_what_to_install(
    run: Run, toy_networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "imageio_ffmpeg" else find(name, *a)
    )
    result = run(gen_videos, "--network", str(toy_networks), "--seeds", "0", "--outdir", "out", *SHORT)
    assert result.code == 1
    assert install_hint("tools") in result.the_error()
    assert list(tmp_path.iterdir()) == []
