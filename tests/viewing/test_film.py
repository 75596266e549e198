"""Films: the path of latent and camera, frames that repeat and do not flicker, and the file."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from eg3d.cameras import CameraConfig, split_label
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.viewing.film import FilmConfig, film_frames, interpolated_codes, orbit, write_film
from eg3d.viewing.views import ViewingConfig


@pytest.fixture
def G(generator_config) -> TriPlaneGenerator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = TriPlaneGenerator(generator_config).eval()
    for name, parameter in made.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.3)
    return made


def frames(G: TriPlaneGenerator, cfg: FilmConfig) -> np.ndarray:
    return np.stack([frame.picture for frame in film_frames(G, cfg, G.cfg.camera)])


def test_codes_pass_through_the_keyframes_and_close() -> None:
    keyframes = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    codes = interpolated_codes(keyframes, 10)
    assert codes.shape == (40, 2, 3) and codes.dtype == torch.float32
    torch.testing.assert_close(codes[::10], keyframes)
    # the seam is as smooth as the rest: second differences of a cubic spline are of second order everywhere
    closed = torch.cat([codes, codes[:2]])
    bend = (closed[2:] - 2 * closed[1:-1] + closed[:-2]).abs().amax((1, 2))
    assert bend[-2:].max() <= bend.max() < 0.2
    for count in (1, 2):
        few = interpolated_codes(keyframes[:count], 4)
        torch.testing.assert_close(few[::4], keyframes[:count])
    torch.testing.assert_close(interpolated_codes(keyframes[:1], 4), keyframes[:1].expand(4, -1, -1))


def test_the_orbit_is_closed_and_looks_at_the_pivot() -> None:
    camera = CameraConfig()
    labels = orbit(camera, 16)
    torch.testing.assert_close(labels[0], camera.label(0.0, 0.2)[0])  # -0.05 + 0.25
    torch.testing.assert_close(labels[4], camera.label(0.35, -0.05)[0])
    c2w, _ = split_label(labels)
    torch.testing.assert_close(c2w[:, :3, 3].norm(dim=1), torch.full((16,), camera.radius))
    towards = torch.nn.functional.normalize(torch.tensor(camera.pivot) - c2w[:, :3, 3], dim=1)
    torch.testing.assert_close(c2w[:, :3, 2], towards)
    steps = (torch.cat([labels, labels[:1]]).diff(dim=0)).norm(dim=1)
    assert steps[-1] <= steps.max() * 1.001


@pytest.mark.parametrize("mode", ["image", "image_depth", "image_raw"])
def test_two_runs_show_the_same_frames(G, mode) -> None:
    cfg = FilmConfig(seeds=[0, 1, 2, 3], grid=(2, 1), frames_per_keyframe=3, image_mode=mode)
    first = frames(G, cfg)
    side = 16 if mode == "image" else 8
    assert first.shape == (6, side, 2 * side, 3) and first.dtype == np.uint8
    torch.manual_seed(5)
    assert np.array_equal(first, frames(G, cfg))


@pytest.mark.parametrize("viewing", [ViewingConfig(), ViewingConfig(noise_mode="random", jitter=True)])
def test_frames_share_their_noise(G, viewing) -> None:
    """With camera and latent standing still every frame is the same one, whatever noise there is."""
    still = FilmConfig(seeds=[3], viewing=viewing, frames_per_keyframe=4, yaw_range=0, pitch_range=0)
    made = frames(G, still)
    assert all(np.array_equal(made[0], frame) for frame in made[1:])


def test_neighbouring_frames_differ_less_the_more_there_are(G) -> None:
    def largest_step(count: int) -> float:
        made = frames(G, FilmConfig(seeds=[0, 1], frames_per_keyframe=count, image_mode="image")).astype(float)
        return float(np.abs(np.diff(made, axis=0)).mean((1, 2, 3)).max())

    assert largest_step(32) < 0.4 * largest_step(8)  # noise drawn anew would not shrink


def test_a_cell_is_a_film_of_its_own(G) -> None:
    together = frames(G, FilmConfig(seeds=[0, 1, 5, 6], grid=(1, 2), frames_per_keyframe=2))
    alone = frames(G, FilmConfig(seeds=[5, 6], frames_per_keyframe=2))
    lower = together[:, 16:].astype(int)
    assert np.abs(lower - alone).max() <= 1  # another batch size may round another way


def test_keyframes_are_shared_out_and_repeat() -> None:
    assert FilmConfig(seeds=[1, 2, 3, 4], grid=(2, 1)).keyframes == [[1, 2], [3, 4]]
    assert FilmConfig(seeds=[1, 2, 3], num_keyframes=2, grid=(2, 1)).keyframes == [[1, 2], [3, 1]]
    assert FilmConfig(seeds=[7]).num_frames == 120


def test_depth_has_one_scale_for_the_whole_film(G) -> None:
    """Empty space in every frame: stretched frame by frame it would not be one grey."""
    G.decoder.net[2].weight.data.zero_()
    G.decoder.net[2].bias.data.fill_(-1e4)
    made = frames(G, FilmConfig(seeds=[0], frames_per_keyframe=3, image_mode="image_depth"))
    assert (made == 0).all()


def test_all_faults_at_once(G) -> None:
    bad = FilmConfig(seeds=[1, 2, 3], grid=(2, 1), frames_per_keyframe=0, image_mode="film")
    with pytest.raises(ValueError, match="3 do not fill a grid of 2x1") as error:
        next(film_frames(G, bad, G.cfg.camera))
    assert "frames_per_keyframe: " in str(error.value) and "image_mode: 'film'" in str(error.value)
    assert FilmConfig(seeds=[]).validate() == ["seeds: give at least one"]
    assert dataclasses.replace(bad, grid=(0, 1)).validate()[0].startswith("grid: ")


def test_the_file_holds_the_frames(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="films need imageio-ffmpeg")
    shades = [np.full((33, 64, 3), shade, np.uint8) for shade in (40, 120, 200)]
    write_film(tmp_path / "new" / "film.mp4", shades, fps=30)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["film.mp4"]
    reader = ffmpeg.read_frames(str(tmp_path / "new" / "film.mp4"))
    about = next(reader)
    assert about["size"] == (64, 32) and about["fps"] == 30
    means = [np.frombuffer(frame, np.uint8).mean() for frame in reader]
    assert np.allclose(means, [40, 120, 200], atol=3)  # colours of video are 219 steps


PURE = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "skin": (200, 120, 40), "grey": (128, 128, 128)}


@pytest.mark.parametrize("size", [(64, 64), (512, 256), (722, 1280), (1440, 96)], ids=str)
def test_colours_are_bt709_and_say_so_at_every_size(tmp_path: Path, size: tuple[int, int]) -> None:
    """A decoder gives every pure colour back; the bytes are those of ITU-R BT.709, and the file is tagged."""
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="films need imageio-ffmpeg")
    path, (height, width) = tmp_path / "film.mp4", size
    write_film(path, (np.full((*size, 3), color, np.uint8) for color in PURE.values() for _ in range(2)))
    reader = ffmpeg.read_frames(str(path))
    next(reader)
    decoded = [np.frombuffer(frame, np.uint8).reshape(-1, 3) for frame in reader][::2]
    assert len(decoded) == len(PURE)
    for wanted, found in zip(PURE.values(), decoded, strict=True):
        assert np.abs(found.astype(int) - wanted).max() <= 4
    command = [ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    assert "yuv420p(tv, bt709, " in said or "yuv420p(tv, bt709)" in said  # matrix, primaries and transfer alike
    raw = [*command, "-v", "quiet", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"]
    frames = np.frombuffer(subprocess.run(raw, capture_output=True, check=True).stdout, np.uint8)
    planes = frames.reshape(-1, height * width * 3 // 2)[::2]
    for (r, g, b), frame in zip(PURE.values(), planes, strict=True):
        luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
        wanted = [16 + luma * 219 / 255, 128 + (b - luma) / 1.8556 * 224 / 255, 128 + (r - luma) / 1.5748 * 224 / 255]
        cut = [height * width, height * width * 5 // 4]
        assert np.allclose([plane.mean() for plane in np.split(frame, cut)], wanted, atol=1.5)


def test_a_film_that_fails_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="films need imageio-ffmpeg")

    def broken():
        yield np.zeros((16, 16, 3), np.uint8)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_film(tmp_path / "film.mp4", broken())
    assert list(tmp_path.iterdir()) == []
