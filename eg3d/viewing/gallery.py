"""Networks side by side: the same seed as pictures and meshes from one camera, with what is slow to make kept.

Shape letters: R picture side.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eg3d.cameras import CameraConfig
from eg3d.pictures import depth_to_rgb, tile
from eg3d.representations.mesh import LEVEL, NoSurface
from eg3d.representations.shape import ShapeConfig, density_volume, shape_mesh
from eg3d.samples import PUBLISHED_CUTOFF, Sample
from eg3d.viewing.film import depth_limits
from eg3d.viewing.views import ViewingConfig, for_viewing, render, viewed_seeds

if TYPE_CHECKING:
    import trimesh

    from eg3d.generators.protocol import Generator

MODES = ("image", "image_raw", "image_depth", "mesh")
SIDE_BY_SIDE, LEFT, RIGHT, SPLIT, DIFFERENCE = "side by side", "left", "right", "split", "difference"
LAYOUTS = (SIDE_BY_SIDE, LEFT, RIGHT, SPLIT, DIFFERENCE)  # of two networks, seen by one camera
PREVIEW_SIDE = 32  # px of the rays of a preview
NUM_KEPT = 8  # tri-planes and meshes of that many latents: 25 MB of planes each at full size
STEEPEST = 1.4  # radians of pitch: looking along the vertical has no upright picture


@dataclass(frozen=True)
class Pose:
    """Where a picture is seen from: offsets in radians from the frontal camera, and magnification."""

    yaw: float = 0.0
    pitch: float = 0.0
    zoom: float = 1.0


@dataclass(frozen=True)
class Choice:
    """What is to be seen."""

    seed: int = 0
    psi: float = 0.7
    truncation_cutoff: int | None = PUBLISHED_CUTOFF
    mode: str = "image"
    layout: str = SIDE_BY_SIDE  # of two networks
    resolution: int = 128  # grid points per side behind a mesh
    level: float = LEVEL  # raw density of its surface
    is_colored: bool = True  # a mesh has the field's colours


def pose_from(position: Sequence[float], target: Sequence[float], camera: CameraConfig) -> Pose:
    """The pose on the sphere of `camera` that looks along the line from `position` to `target` (world units).

    The line is moved so that it meets the pivot; coming nearer to the target than the sphere is becomes magnification.
    """
    line = np.asarray(position, dtype=float) - np.asarray(target, dtype=float)
    distance = max(float(np.linalg.norm(line)), 1e-6)
    line, pivot = line / distance, np.asarray(camera.pivot, dtype=float)
    along = float(pivot @ line)
    reach = -along + math.sqrt(max(along**2 - float(pivot @ pivot) + camera.radius**2, 0.0))
    centre = pivot + reach * line
    pitch = -math.asin(1.0) * centre[1] / camera.radius  # inverse of arccos(1 - 2v / pi), see eg3d/cameras.py
    frontal = float(np.linalg.norm(np.array([0, 0, camera.radius]) - pivot))
    return Pose(
        yaw=math.atan2(centre[0], centre[2]),
        pitch=float(np.clip(pitch, -STEEPEST, STEEPEST)),
        zoom=float(np.clip(frontal / distance, 0.1, 20)),
    )


class Gallery:
    """Pictures and meshes of named networks. Not thread-safe: one thread at a time."""

    def __init__(self, networks: Mapping[str, Generator]) -> None:
        self.names = list(networks)
        self._networks = {name: for_viewing(G, ViewingConfig()) for name, G in networks.items()}
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    @property
    def camera(self) -> CameraConfig:
        """Cameras of the first network, which the viewer starts with."""
        return self._networks[self.names[0]].camera

    @torch.no_grad()
    def picture(self, choice: Choice, pose: Pose, *, is_preview: bool = False) -> np.ndarray:
        """The networks that the layout shows, uint8 [R, R, 3], or [R, 2 R, 3] side by side.

        "split" is the left half of the one and the right half of the other; "difference" is grey where they agree, and
        lighter where the right one is. A preview has few rays and no super-resolution.
        """
        pictures = [self._picture(name, choice, pose, is_preview) for name in self.shown(choice)]
        side = max(picture.shape[-1] for picture in pictures)
        pictures = [F.interpolate(picture, (side, side), mode="nearest") for picture in pictures]
        if len(pictures) == 2 and choice.layout == SPLIT:
            pictures = [torch.cat([pictures[0][..., : side // 2], pictures[1][..., side // 2 :]], dim=-1)]
        elif len(pictures) == 2 and choice.layout == DIFFERENCE:
            pictures = [(pictures[1] - pictures[0]) / 2]
        return tile(torch.cat(pictures), len(pictures))

    def shown(self, choice: Choice) -> list[str]:
        """Names of the networks that the layout shows, from left to right."""
        if len(self.names) == 2 and choice.layout in (LEFT, RIGHT):
            return [self.names[choice.layout == RIGHT]]
        return self.names

    def mesh(self, name: str, choice: Choice) -> trimesh.Trimesh:
        """The surface in one network's field, world units. Raises NoSurface when nothing crosses the level."""
        key = ("mesh", name, replace(choice, mode="mesh", layout=SIDE_BY_SIDE))

        def make() -> trimesh.Trimesh | NoSurface:
            field = self._sample(name, choice).field
            cfg = ShapeConfig(resolution=choice.resolution, level=choice.level, is_colored=choice.is_colored)
            try:
                return shape_mesh(field, density_volume(field, cfg.resolution, grid=cfg.grid), cfg)
            except NoSurface as error:
                return error

        made = self._keep(key, make)
        if isinstance(made, NoSurface):
            raise made
        return made

    def _picture(self, name: str, choice: Choice, pose: Pose, is_preview: bool) -> Tensor:
        """[1, 3, R, R] in [-1, 1] on the CPU."""
        G = self._networks[name]
        sample = self._sample(name, choice)
        camera = replace(G.camera, focal=G.camera.focal * pose.zoom)
        label = camera.label(pose.yaw, pose.pitch)
        kind = choice.mode if choice.mode in MODES[:3] else "image"
        if is_preview:
            G = for_viewing(
                G, ViewingConfig(neural_rendering_resolution=min(PREVIEW_SIDE, G.neural_rendering_resolution))
            )
            kind = "image_raw" if kind == "image" else kind
        is_full = not is_preview and kind != "image_depth"
        made = getattr(render(G, sample, label, ViewingConfig(), superresolve=is_full), kind).float()
        return (depth_to_rgb(made, limits=depth_limits(G)) if kind == "image_depth" else made).cpu()

    def _sample(self, name: str, choice: Choice) -> Sample:
        """The chosen seed, conditioned on the frontal camera."""
        G = self._networks[name]
        cfg = ViewingConfig(psi=choice.psi, truncation_cutoff=choice.truncation_cutoff)

        @torch.no_grad()
        def make() -> Sample:
            return viewed_seeds(G, [choice.seed], cfg)

        return self._keep(("sample", name, choice.seed, choice.psi, choice.truncation_cutoff), make)

    def _keep(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` made for this key, the last few of which are kept."""
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > NUM_KEPT * len(self.names):
            self._kept.popitem(last=False)
        return self._kept[key]
