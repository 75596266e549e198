"""Raw density (the decoder's first output, before softplus) on a regular grid, cropped to a slab or whole.

Shape letters: N batch, D grid side, X, Y, Z sides of the slab.
A volume is stored in the order (x, y, z); x is image right, y up, z towards the camera. It is never mirrored.
Source: Sculpting NeRF Geometry (2026) and its released behaviour (the published slab and its grid).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from eg3d.generators.protocol import Generator
from eg3d.ops.density_grid.grid import GRIDS, GridSpec, Slices
from eg3d.representations.protocol import Representation, register
from eg3d.samples import Sample

MOST_POINTS = 1024  # per side: 4 GiB a volume


class SlabFrame(NamedTuple):
    """Where the grid points of a slab lie in the world: point (i, j, k) at origin + voxel * (i, j, k)."""

    origin: tuple[float, float, float]  # world units
    voxel: float  # world units between neighbouring points


@register
@dataclass
class SigmaField(Representation):
    """The density slab: which grid, and which part of it."""

    input_kind: ClassVar[str] = "volume"

    name: str = "sigma_field"
    resolution: int = 256  # grid points per side of the cube
    grid: str = "skewed"  # "skewed": the published grid (needed by released rewards) | "exact"
    rhs: float = 0.25  # fraction trimmed at low x
    lhs: float = 0.25  # fraction trimmed at high x
    bot: float = 0.25  # fraction trimmed at low y
    top: float = 0.2  # fraction trimmed at high y
    rear: float = 0.4  # fraction trimmed at low z, the back of the head
    front: float = 0.1  # fraction trimmed at high z, the camera's side

    def validate(self) -> list[str]:
        faults = super().validate()
        if not 2 <= self.resolution <= MOST_POINTS:
            faults.append(
                f"resolution: a grid needs at least 2 points per side and at most {MOST_POINTS}, got {self.resolution}"
            )
        if self.grid not in GRIDS:
            faults.append(f"grid: {self.grid!r} is not one of {', '.join(GRIDS)}")
        for low, high in (("rhs", "lhs"), ("bot", "top"), ("rear", "front")):
            ends = (getattr(self, low), getattr(self, high))
            if not (min(ends) >= 0 and sum(ends) < 1):
                faults.append(f"{low}, {high}: expected fractions >= 0 with a sum below 1, got {ends[0]}, {ends[1]}")
        return faults

    def slices(self) -> Slices:
        """Index ranges (x, y, z) of the slab in the D^3 grid; int(fraction * D) points go at each end.

        At 256 with the default fractions: x 64:192, y 64:205, z 102:231. Raises ValueError if nothing is left.
        """
        d = self.resolution
        ends = ((self.rhs, self.lhs), (self.bot, self.top), (self.rear, self.front))
        x, y, z = (slice(int(low * d), d - int(high * d)) for low, high in ends)
        ranges = (x, y, z)
        if any(r.start < 0 or r.stop > d or r.start >= r.stop for r in ranges):
            raise ValueError(f"the crop fractions leave no grid points of {d} per side: {'; '.join(self.validate())}")
        return ranges

    def spec(self) -> GridSpec:
        """The slab as a part of the grid."""
        return GridSpec(self.resolution, self.grid, self.slices())

    def shape(self, G: Generator | None = None) -> tuple[int, int, int]:
        """(X, Y, Z): (128, 141, 129) at 256, (32, 36, 33) at 64."""
        return self.spec().shape

    def extract(self, G: Generator, sample: Sample) -> Tensor:
        """Raw density of the slab [N, X, Y, Z], any real value; differentiable in the field."""
        return sample.field.density_grid(self.spec())

    def voxel(self, box_warp: float) -> float:
        """World units between neighbouring grid points."""
        return box_warp / (self.resolution - 1)

    def frame(self, box_warp: float = 1.0) -> SlabFrame:
        """Where the slab lies in the box of side `box_warp` about the origin, by the exact grid.

        The skewed grid shears it by up to a voxel.
        """
        voxel = self.voxel(box_warp)
        x, y, z = (r.start * voxel - box_warp / 2 for r in self.slices())
        return SlabFrame((x, y, z), voxel)
