"""Making the data set of portraits: seeds -> heads and cameras -> pictures -> an archive.

The bytes depend on the seed and the sizes only, never on the number of workers: a task is a fixed group of heads, each
with its own random streams, and the writer takes the tasks in order.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import torch

from dataset_preprocessing.archive import create_archive, encode_png
from dataset_preprocessing.human_heads.codes import CODE_NAMES, head_codes
from dataset_preprocessing.human_heads.portrait import portrait
from dataset_preprocessing.human_heads.render import BACKGROUNDS, FFHQ_FOCAL, View, contact_sheet, render
from eg3d.cameras import camera_label, intrinsics, lookat_c2w
from eg3d.child_processes import in_processes, worker_faults
from eg3d.config_checks import faults_of, in_range
from eg3d.progress import Advance, ignore
from eg3d.safe_write import atomic_path
from eg3d.threads import limit_threads, one_thread

MAKER = "dataset_preprocessing.human_heads"
HEADS_PER_SEED = 1_000_000  # head i of data set s has the head seed s * HEADS_PER_SEED + i
GROUP = 8  # heads that travel together between processes; each is rendered by itself
MOST_RESOLUTION = 1024  # pixels a side
LEAST_SHARE = 0.01  # of a camera's normal draws that must lie within its maximum, or drawing one might never end
CAMERA_STREAM = 7  # separates the cameras' random numbers from the heads'


@dataclass
class HeadsConfig:
    """Posed portraits of a head model with camera labels in the EG3D format.

    A black background is exactly 0 and nothing else is, so that it marks the silhouette: a generator without a
    background of its own must paint a plain one as geometry, and `silhouette_weight` of its warm start asks for black.
    With "plain" the silhouette is where depths are positive; give depths=true.
    """

    out: str = "data/portraits64.zip"  # .zip or a new folder
    num_images: int = 10_000
    views_per_head: int = 2
    resolution: int = 64  # pixels a side, a power of two
    background: str = "black"  # "black" | "plain": a colour of each portrait's own
    depths: bool = False  # also write the true distances of every image (a warm start with depth_weight reads them)
    normals: bool = False  # also write the true normals of every image, in the world: 12 bytes a pixel
    seed: int = 0
    workers: int = 2  # processes; the bytes do not depend on it
    yaw_std: float = 0.30  # radians
    yaw_max: float = 0.50  # radians
    pitch_std: float = 0.12  # radians, nominal: the real elevation is 0.64 of it
    pitch_max: float = 0.25  # radians
    contact_sheet: str = ""  # a PNG path: also draw the first heads from the extreme poses
    contact_heads: int = 6  # rows of that sheet

    def validate(self) -> list[str]:
        """All faults, one line each."""
        faults = in_range(self, 1, 1000, "views_per_head", "contact_heads") + worker_faults(self.workers)
        if not self.out:
            faults.append("out: is empty; give a .zip file or a new folder")
        if self.contact_sheet and Path(self.contact_sheet) == Path(self.out):
            faults.append(f"contact_sheet: {self.contact_sheet} is the data set's own path; give a .png file")
        most = HEADS_PER_SEED * max(self.views_per_head, 1)
        if not (0 if self.contact_sheet else 1) <= self.num_images <= most:
            faults.append(f"num_images: {self.num_images} must be from 1 to {most}, or 0 with a contact_sheet only")
        if not 8 <= self.resolution <= MOST_RESOLUTION or self.resolution & (self.resolution - 1):
            faults.append(f"resolution: {self.resolution} must be a power of two, 8 to {MOST_RESOLUTION}")
        if self.background not in BACKGROUNDS:
            faults.append(f"background: {self.background!r} is not one of {', '.join(BACKGROUNDS)}")
        if not 0 <= self.seed < 2**32 // HEADS_PER_SEED:
            faults.append(f"seed: {self.seed} must be from 0 to {2**32 // HEADS_PER_SEED - 1}")
        return (
            faults
            + _angle_faults("yaw", self.yaw_std, self.yaw_max)
            + _angle_faults("pitch", self.pitch_std, self.pitch_max)
        )


def _angle_faults(name: str, std: float, limit: float) -> list[str]:
    if not (std >= 0 and 0 <= limit <= 1.2):
        return [f"{name}_std must be >= 0 and {name}_max in [0, 1.2] radians"]
    if std > 0 and limit > 0 and math.erf(limit / (std * math.sqrt(2))) < LEAST_SHARE:
        return [f"{name}_std: {std} is so far beyond {name}_max {limit} that hardly any draw would lie within it"]
    return []


def head_seed(seed: int, head: int) -> int:
    """The seed of head number `head` in data set `seed`; head_codes(head_seed(...)) is its code."""
    return seed * HEADS_PER_SEED + head


def head_cameras(cfg: HeadsConfig, head: int) -> torch.Tensor:
    """Labels [views_per_head, 25] of one head: yaw and pitch from normals truncated at their maxima."""
    rng = np.random.RandomState([CAMERA_STREAM, cfg.seed, head])
    angles = [
        (_truncated_normal(rng, cfg.yaw_std, cfg.yaw_max), _truncated_normal(rng, cfg.pitch_std, cfg.pitch_max))
        for _ in range(cfg.views_per_head)
    ]
    yaw, pitch = torch.tensor(angles, dtype=torch.float32).unbind(-1)
    return camera_label(lookat_c2w(yaw, pitch), intrinsics(FFHQ_FOCAL))


def _truncated_normal(rng: np.random.RandomState, std: float, limit: float) -> float:
    if limit == 0.0:
        return 0.0
    while abs(value := std * rng.randn()) > limit:
        pass
    return float(value)


class Picture(NamedTuple):
    """One view of one head."""

    png: bytes
    label: list[float]  # [25]
    depth: np.ndarray | None  # float32 [R, R] world units, 0 = background
    normals: np.ndarray | None  # float32 [R, R, 3] unit length, 0 = background


def pictures(cfg: HeadsConfig, group: int) -> list[Picture]:
    """Every view of the heads of one group; depends on the config and `group` only."""
    num_heads = -(-cfg.num_images // cfg.views_per_head)
    heads = range(group * GROUP, min((group + 1) * GROUP, num_heads))
    return [picture for head in heads for picture in _pictures_of(cfg, head)]


def _pictures_of(cfg: HeadsConfig, head: int) -> list[Picture]:
    subject = portrait(head_codes(head_seed(cfg.seed, head)))
    found = []
    for label in head_cameras(cfg, head):
        c2w = label[:16].reshape(4, 4).numpy()
        view: View = render(subject, c2w, cfg.resolution, background=cfg.background)
        depth, normals = (view.depth if cfg.depths else None), (view.normals if cfg.normals else None)
        found.append(Picture(encode_png(view.image), label.tolist(), depth, normals))
    return found


def make_heads(cfg: HeadsConfig, *, advance: Advance = ignore) -> Path:
    """Write the data set of `cfg`; `advance(count)` after every `count` images. Returns the path written.

    Raises ValueError with all faults of the config, or if a destination folder is not empty.
    """
    faults = faults_of(cfg)
    if faults:
        raise ValueError("; ".join(faults))
    num_heads = -(-cfg.num_images // cfg.views_per_head)
    heads = np.repeat(np.arange(num_heads), cfg.views_per_head)[: cfg.num_images]
    seeds = [head_seed(cfg.seed, int(h)) for h in heads]
    depths: list[np.ndarray] = []
    normals: list[np.ndarray] = []
    left = cfg.num_images
    with create_archive(cfg.out) as archive, _all_pictures(cfg, -(-num_heads // GROUP)) as groups:
        for views in groups:
            for view in views[:left]:
                archive.add_image(view.png, view.label)
                depths += [] if view.depth is None else [view.depth]
                normals += [] if view.normals is None else [view.normals]
            advance(len(views[:left]))
            left -= len(views[:left])
        archive.finish(
            recipe=_recipe(cfg, seeds),
            codes=np.stack([head_codes(s) for s in seeds]),
            depths=np.stack(depths) if depths else None,
            normals=np.stack(normals) if normals else None,
        )
    return Path(cfg.out)


def _recipe(cfg: HeadsConfig, seeds: list[int]) -> dict:
    skip = ("out", "workers", "contact_sheet", "contact_heads")  # nothing that leaves the content as it is
    settings = {k: v for k, v in asdict(cfg).items() if k not in skip}
    return {
        "maker": MAKER,
        **settings,
        "focal": FFHQ_FOCAL,
        "code_names": list(CODE_NAMES),
        "head_seeds": seeds,
    }


@contextlib.contextmanager
def _all_pictures(cfg: HeadsConfig, num_groups: int) -> Iterator[Iterator[list[Picture]]]:
    """Pictures of every group in order, from this process or from workers; for a `with` block."""
    if cfg.workers == 1:
        with one_thread():
            yield (pictures(cfg, group) for group in range(num_groups))
        return
    work = functools.partial(pictures, cfg)
    with in_processes(work, range(num_groups), workers=cfg.workers, prepare=limit_threads, arguments=(1,)) as groups:
        yield groups


def save_contact_sheet(path: str | Path, cfg: HeadsConfig, *, resolution: int = 128) -> None:
    """PNG of the first heads of a data set, one row each, from the front and from the extreme poses."""
    seeds = [head_seed(cfg.seed, i) for i in range(cfg.contact_heads)]
    with one_thread(), atomic_path(path) as temporary:
        sheet = contact_sheet(seeds, resolution=resolution, background=cfg.background)
        PIL.Image.fromarray(sheet).save(temporary, format="png")
