"""Films of seeds: an orbit while the latent moves through keyframes, or an orbit around each seed.

Nothing is drawn anew from frame to frame, so that neighbouring frames differ by their camera and latent only. The
latent runs along a periodic cubic spline and the camera along a closed curve: a film ends where it began.

Shape letters: F frames, K keyframes, G grid cells, R picture side.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eg3d.cameras import CameraConfig
from eg3d.fields.protocol import Field, join_fields
from eg3d.generators.protocol import Generator, device_of
from eg3d.installation import install_hint
from eg3d.pictures import depth_to_rgb, tile
from eg3d.safe_write import atomic_path
from eg3d.samples import Sample, seed_latents, style_codes
from eg3d.viewing.views import ViewingConfig, field_of, for_viewing, pictures_at_once, render

IMAGE_MODES = ("image", "image_depth", "image_raw")
PITCH_CENTRE = -0.05  # radians, as published
FPS, BITRATE = 60, "10M"  # as published
# Colours are converted to BT.709 and say so at every size. Without a word, encoders take BT.601 and players choose by
# the number of lines, so that a red of more than 720 lines turns orange.
_TO_BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int+full_chroma_inp,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)
_BT709 = ["-vf", _TO_BT709]  # frames carry the tags, which newer encoders read; older ones read the options
_BT709 += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]


@dataclass(frozen=True)
class FilmConfig:
    """What one film shows."""

    seeds: Sequence[int]  # K a cell, cell after cell; repeated from the start when there are too few
    viewing: ViewingConfig = field(default_factory=ViewingConfig)
    grid: tuple[int, int] = (1, 1)  # columns, rows
    num_keyframes: int | None = None  # K; None = what the seeds give
    frames_per_keyframe: int = 120
    image_mode: str = "image"
    yaw_range: float = 0.35  # radians to each side
    pitch_range: float = 0.25  # radians up and down

    def validate(self) -> list[str]:
        """All faults, one line each."""
        cells, faults = self.grid[0] * self.grid[1], self.viewing.validate()
        if min(self.grid) < 1:
            faults.append(f"grid: needs at least one column and one row, got {self.grid[0]}x{self.grid[1]}")
        elif not self.seeds:
            faults.append("seeds: give at least one")
        elif self.num_keyframes is None and len(self.seeds) % cells:
            faults.append(
                f"seeds: {len(self.seeds)} do not fill a grid of {self.grid[0]}x{self.grid[1]} evenly; "
                f"give a multiple of {cells}, or a number of keyframes"
            )
        for name in ("num_keyframes", "frames_per_keyframe"):
            value = getattr(self, name)
            if value is not None and value < 1:
                faults.append(f"{name}: must be at least 1, got {value}")
        if self.image_mode not in IMAGE_MODES:
            faults.append(f"image_mode: {self.image_mode!r} is not one of {', '.join(IMAGE_MODES)}")
        return faults

    @property
    def keyframes(self) -> list[list[int]]:
        """Seeds by cell: G lists of K."""
        cells = self.grid[0] * self.grid[1]
        count = self.num_keyframes or len(self.seeds) // cells
        return [[self.seeds[(cell * count + k) % len(self.seeds)] for k in range(count)] for cell in range(cells)]

    @property
    def num_frames(self) -> int:
        """F."""
        return len(self.keyframes[0]) * self.frames_per_keyframe


@dataclass(frozen=True)
class Frame:
    """One picture of a film, and what it was made from."""

    picture: np.ndarray  # uint8 [rows * R, columns * R, 3]
    field: Field  # of G samples
    label: Tensor  # camera [1, 25], on the CPU


def orbit(camera: CameraConfig, num_frames: int, *, yaw_range: float = 0.35, pitch_range: float = 0.25) -> Tensor:
    """Labels [F, 25] of a closed path around the frontal camera. The published one takes 3.14 for pi and stays open."""
    angle = 2 * math.pi * torch.arange(num_frames) / num_frames
    return camera.label(yaw_range * torch.sin(angle), PITCH_CENTRE + pitch_range * torch.cos(angle))


def interpolated_codes(keyframes: Tensor, frames_per_keyframe: int) -> Tensor:
    """Style codes [K * frames_per_keyframe, ...] along the periodic cubic spline through `keyframes` [K, ...].

    Frame k * frames_per_keyframe is keyframe k; after the last comes the first again. Float32, on the CPU.
    """
    from scipy.interpolate import CubicSpline

    knots = keyframes.detach().cpu().numpy()
    count = len(knots)
    spline = CubicSpline(np.arange(count + 1), np.concatenate([knots, knots[:1]]), bc_type="periodic")
    at = np.arange(count * frames_per_keyframe) / frames_per_keyframe
    return torch.from_numpy(spline(at).astype(np.float32))


@torch.no_grad()
def film_frames(G: Generator, cfg: FilmConfig, camera: CameraConfig) -> Iterator[Frame]:
    """The F frames of a film, one at a time. Raises ValueError for a config with faults.

    The field is made once where the latent stands still (one keyframe a cell), else once a frame.
    """
    faults = cfg.validate()
    if faults:
        raise ValueError("; ".join(faults))
    G = for_viewing(G, cfg.viewing)
    cells = cfg.keyframes
    codes = torch.stack(
        [interpolated_codes(_keyframe_codes(G, seeds, camera, cfg), cfg.frames_per_keyframe) for seeds in cells],
        dim=1,
    )  # [F, G, num_ws, w_dim]
    labels = orbit(camera, cfg.num_frames, yaw_range=cfg.yaw_range, pitch_range=cfg.pitch_range)
    limits = depth_limits(G)
    is_still = len(cells[0]) == 1
    sample: Sample | None = None
    for ws, label in zip(codes.to(device_of(G)), labels.split(1), strict=True):
        if sample is None or not is_still:
            parts = [field_of(G, part, cfg.viewing) for part in ws.split(pictures_at_once(G))]
            sample = Sample(ws, join_fields(parts))
        pictures = _pictures(G, sample, label, cfg, limits)
        yield Frame(tile(pictures, cfg.grid[0]), sample.field, label)


def _keyframe_codes(G: Generator, seeds: Sequence[int], camera: CameraConfig, cfg: FilmConfig) -> Tensor:
    return style_codes(G, seed_latents(G, seeds), cfg.viewing, c=camera.canonical())


def depth_limits(G: Generator) -> tuple[float, float]:
    """Distances shown as white and black, the same for every frame: the front of the box and its middle."""
    radius = G.camera.radius
    return radius - G.cfg.rendering.box_warp / 2, radius


def _pictures(G: Generator, sample: Sample, label: Tensor, cfg: FilmConfig, limits: tuple[float, float]) -> Tensor:
    """Pictures [G, 3, R, R] of all cells from one camera, on the CPU."""
    made, is_depth = [], cfg.image_mode == "image_depth"
    at_once = pictures_at_once(G)
    for start in range(0, len(sample), at_once):
        part = sample.rows(slice(start, start + at_once))
        out = render(G, part, label.expand(len(part), -1), cfg.viewing, superresolve=not is_depth)
        picture = getattr(out, cfg.image_mode).float()
        made.append((depth_to_rgb(picture, limits=limits) if is_depth else picture).cpu())
    return torch.cat(made)


def write_film(path: Path, frames: Iterable[np.ndarray], *, fps: int = FPS, bitrate: str = BITRATE) -> None:
    """Write uint8 frames [H, W, 3] as H.264 in an .mp4 that appears whole; odd sides lose their last row or column.

    Colours are BT.709 with the range of television, and tagged so.

    Raises RuntimeError without imageio-ffmpeg or when the encoder fails.
    """
    check_encoder()
    import imageio_ffmpeg

    iterator = iter(frames)
    first = _even(next(iterator))
    with atomic_path(path) as temporary:
        size = (first.shape[1], first.shape[0])
        writer = imageio_ffmpeg.write_frames(
            str(temporary),
            size,
            fps=fps,
            codec="libx264",
            bitrate=bitrate,
            macro_block_size=2,
            ffmpeg_log_level="quiet",
            output_params=_BT709,
        )
        try:
            writer.send(None)
            writer.send(first)
            for frame in iterator:
                writer.send(_even(frame))
        finally:
            writer.close()
        if temporary.stat().st_size == 0:
            raise RuntimeError(f"{path}: the encoder wrote nothing for {size[0]}x{size[1]} pixels at {bitrate} bit/s")


def check_encoder() -> None:
    """Raise RuntimeError, saying what to install, if films cannot be written."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise RuntimeError(f"writing .mp4 needs imageio-ffmpeg, which is not installed: {install_hint('tools')}")


def _even(frame: np.ndarray) -> np.ndarray:
    height, width = (side - side % 2 if side > 1 else side for side in frame.shape[:2])
    return np.ascontiguousarray(frame[:height, :width])
