"""Films of seeds as files, with the shapes that they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eg3d.array_files import npy_bytes
from eg3d.progress import Advance, ignore
from eg3d.representations.shape import ShapeConfig
from eg3d.safe_write import atomic_path
from eg3d.viewing.film import BITRATE, FPS, FilmConfig, check_encoder, film_frames, write_film
from eg3d.viewing.written import Written

if TYPE_CHECKING:
    from eg3d.cameras import CameraConfig
    from eg3d.generators.protocol import Generator


@dataclass(frozen=True)
class VideosConfig:
    """Which films and shapes are written where."""

    film: FilmConfig
    outdir: Path
    interpolates: bool = True  # one film through all seeds; False: one orbit a seed
    camera: CameraConfig | None = None  # None = the network's own
    shape: ShapeConfig | None = None  # of every frame, or of the seed of an orbit; None = films only
    fps: int = FPS
    bitrate: str = BITRATE

    def validate(self) -> list[str]:
        """All faults, one line each."""
        faults = self.film.validate() + (self.shape.validate() if self.shape else [])
        if self.film.grid != (1, 1) and self.shape is not None:
            faults.append("shapes: need a grid of 1x1")
        if self.film.grid != (1, 1) and not self.interpolates:
            faults.append("grid: an orbit around each seed has one seed a film; give 1x1, or interpolate")
        if not re.fullmatch(r"[1-9]\d*[kM]?", self.bitrate):
            faults.append(f"bitrate: {self.bitrate!r} is not a number of bits a second; write 10M or 800k")
        return faults

    @property
    def num_frames(self) -> int:
        """Of all films together."""
        return self.film.num_frames if self.interpolates else len(self.film.seeds) * self.film.frames_per_keyframe


def generate_videos(G: Generator, cfg: VideosConfig, *, advance: Advance = ignore) -> Written:
    """Write interpolation.mp4, or seedNNNN.mp4 of each seed, into cfg.outdir; each file appears whole.

    With shapes, an interpolation also has a folder interpolation_shapes, with one shape a frame and the camera-to-world
    matrices [F, 4, 4] in trajectory.npy; an orbit has the shape of its seed beside it. Raises ValueError for a config
    with faults and RuntimeError where films cannot be encoded, before anything is written.
    """
    faults = cfg.validate()
    if faults:
        raise ValueError("; ".join(faults))
    check_encoder()
    written = Written()
    if cfg.interpolates:
        _interpolation(G, cfg, written, advance)
    else:
        for seed in cfg.film.seeds:
            _orbit(G, cfg, seed, written, advance)
    return written


def _interpolation(G: Generator, cfg: VideosConfig, written: Written, advance: Advance) -> None:
    path, folder = cfg.outdir / "interpolation.mp4", cfg.outdir / "interpolation_shapes"
    poses: list[np.ndarray] = []

    def pictures() -> Iterator[np.ndarray]:
        for index, frame in enumerate(film_frames(G, cfg.film, cfg.camera or G.camera)):
            if cfg.shape is not None:
                poses.append(frame.label[0, :16].reshape(4, 4).numpy())
                written.add_shape(frame.field, folder / f"frame{index:04d}", cfg.shape)
            yield frame.picture
            advance()

    write_film(path, pictures(), fps=cfg.fps, bitrate=cfg.bitrate)
    written.files.append(path)
    if poses:
        with atomic_path(folder / "trajectory.npy") as temporary:
            temporary.write_bytes(npy_bytes(np.stack(poses)))
        written.files.append(folder / "trajectory.npy")


def _orbit(G: Generator, cfg: VideosConfig, seed: int, written: Written, advance: Advance) -> None:
    stem = cfg.outdir / f"seed{seed:04d}"
    film = replace(cfg.film, seeds=[seed], num_keyframes=1)

    def pictures() -> Iterator[np.ndarray]:
        for index, frame in enumerate(film_frames(G, film, cfg.camera or G.camera)):
            if cfg.shape is not None and index == 0:
                written.add_shape(frame.field, stem, cfg.shape)
            yield frame.picture
            advance()

    path = stem.with_suffix(".mp4")
    write_film(path, pictures(), fps=cfg.fps, bitrate=cfg.bitrate)
    written.files.append(path)
