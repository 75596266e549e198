"""The visible front of slabs of raw density: its height map, and ways to move or carve it. What damage is made of.

Shapes: N slabs, X, Y, Z their sides (x image right, y up, z towards the camera), K things on a face. Lengths are world
units; z is counted from the back of the slab, x and y from its middle. Nothing here is differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

FACE_X, FACE_Y = (0.25, 0.75), (0.3, 0.75)  # face window, fractions of the slab: the simulated annotator's
SOFT_EDGE = 0.08  # fraction of the slab over which a window fades
REACH = 0.12  # how far behind the surface matter moves along with it
STEEPEST, FLATTEST = 50_000.0, 50.0  # raw density per world unit, bounds of what is taken for the slope of a surface


def window(n: int, low: float, high: float, device: torch.device, soft: float = SOFT_EDGE) -> Tensor:
    """Weights [n] along a side: 1 between the fractions `low` and `high`, fading to 0 over `soft` outside."""
    at = torch.arange(n, device=device) / max(n - 1, 1)
    outside = (torch.maximum(low - at, at - high) / soft).clamp(0, 1)
    return 0.5 + 0.5 * torch.cos(torch.pi * outside)


@dataclass(frozen=True)
class Front:
    """Slabs and where their visible surfaces are."""

    x: Tensor  # [N, X, Y, Z] raw density, float32
    voxel: float  # world units between neighbouring points
    level: float  # raw density of the surface

    @cached_property
    def nearest(self) -> Tensor:
        """int64 [N, X, Y]: index of the point nearest to the camera that is inside; -1 = none."""
        inside = self.x >= self.level
        number = torch.arange(1, self.x.shape[3] + 1, device=self.x.device)
        return (inside * number).amax(3) - 1

    @cached_property
    def is_hit(self) -> Tensor:
        """bool [N, X, Y]: there is a surface."""
        return self.nearest >= 0

    @cached_property
    def height(self) -> Tensor:
        """[N, X, Y]: where a ray along -z first meets the surface; its mean over the slab where none does."""
        first = self.nearest.clamp(min=0)[..., None]
        at = self.x.gather(3, first)[..., 0]
        before = self.x.gather(3, (first + 1).clamp(max=self.x.shape[3] - 1))[..., 0]
        share = ((at - self.level) / (at - before).clamp(min=1e-6)).clamp(0, 1) * (before < self.level)
        height = (first[..., 0] + share) * self.voxel
        count = self.is_hit.sum((1, 2)).clamp(min=1)
        mean = (height * self.is_hit).sum((1, 2)) / count
        return torch.where(self.is_hit, height, mean[:, None, None])

    @cached_property
    def slope(self) -> Tensor:
        """[N, 1, 1, 1]: typical rise of the density towards the inside at the surface, per world unit."""
        first = self.nearest.clamp(0, self.x.shape[3] - 2)[..., None]
        rise = (self.x.gather(3, first) - self.x.gather(3, first + 1))[..., 0] / self.voxel
        rise = torch.where(self.is_hit, rise, torch.nan).flatten(1).nanmedian(1).values
        return rise.nan_to_num(1000.0).clamp(FLATTEST, STEEPEST)[:, None, None, None]

    @cached_property
    def grid(self) -> tuple[Tensor, Tensor, Tensor]:
        """World coordinates of the points along each side: x [X, 1], y [Y] from the middle, z [Z] from the back."""
        sides = [torch.arange(n, device=self.x.device) * self.voxel for n in self.x.shape[1:]]
        (x, y, z), (nx, ny, _) = sides, self.x.shape[1:]
        return (x - (nx - 1) / 2 * self.voxel)[:, None], y - (ny - 1) / 2 * self.voxel, z

    def window(self, x: tuple[float, float] = FACE_X, y: tuple[float, float] = FACE_Y) -> Tensor:
        """Weights [X, Y] of a window of slab fractions with soft edges."""
        device, (nx, ny) = self.x.device, self.x.shape[1:3]
        return window(nx, *x, device)[:, None] * window(ny, *y, device)

    def places(self, u: Tensor, x: tuple[float, float] = FACE_X, y: tuple[float, float] = FACE_Y) -> Tensor:
        """World x and y [N, K, 2] of u [N, K, 2] in [0, 1], spread over a window of slab fractions."""
        low, high = (torch.tensor(ends, device=u.device) for ends in zip(x, y, strict=True))
        size = torch.tensor([n - 1 for n in self.x.shape[1:3]], device=u.device) * self.voxel
        return (low + u * (high - low) - 0.5) * size

    def height_at(self, place: Tensor) -> Tensor:
        """Heights [N, K] of the surface at places [N, K, 2], of the nearest column."""
        nx, ny = self.x.shape[1:3]
        half = torch.tensor([(nx - 1) / 2, (ny - 1) / 2], device=place.device)
        i, j = (place / self.voxel + half).round().long().unbind(-1)
        columns = i.clamp(0, nx - 1) * ny + j.clamp(0, ny - 1)
        return self.height.flatten(1).gather(1, columns)

    def distance(self, place: Tensor) -> Tensor:
        """[N, X, Y]: distance of every column from one place [N, 2] a slab."""
        x, y, _ = self.grid
        return torch.hypot(x - place[:, 0, None, None], y - place[:, 1, None, None])

    def moved(self, out: Tensor) -> Tensor:
        """Slabs whose surface stands out by `out` [N, X, Y] more (negative: less); matter deeper than REACH stays."""
        z, out = self.grid[2], torch.where(self.is_hit, out, torch.zeros_like(out))
        depth = (self.height + out.clamp(max=0))[..., None] - z  # behind the old surface and the new one
        share = (1 - depth / REACH).clamp(0, 1)
        share = share * share * (3 - 2 * share)
        at = z / self.voxel - out[..., None] / self.voxel * share
        beyond = (at - (self.x.shape[3] - 1)).clamp(min=0) * self.voxel
        return along(self.x, at, axis=3) - self.slope * beyond  # a nose may be cut off by the slab's end: air follows

    def blob(self, weight: Tensor) -> Tensor:
        """[N, X, Y]: the quadratic that fits the height best, columns counting by `weight` [X, Y]."""
        nx, ny = self.x.shape[1:3]
        x, y = (torch.linspace(-1, 1, n, device=self.x.device, dtype=torch.float64) for n in (nx, ny))
        x, y = x[:, None].expand(nx, ny), y.expand(nx, ny)
        terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(-1, 6)
        w = (weight * self.is_hit).flatten(1).double()  # [N, X Y]
        left = torch.einsum("np,pi,pj->nij", w, terms, terms) + 1e-6 * torch.eye(6, device=w.device, dtype=w.dtype)
        right = torch.einsum("np,pi,np->ni", w, terms, self.height.flatten(1).double())
        fit = torch.linalg.solve(left, right[..., None])[..., 0]
        return (fit @ terms.T).reshape(-1, nx, ny).to(self.x.dtype)


def along(x: Tensor, at: Tensor, *, axis: int) -> Tensor:
    """x [N, X, Y, Z] read at the points `at` (in voxels, broadcast to its shape) of one axis; linear, ends repeated."""
    size = x.shape[axis]
    at = at.expand_as(x).clamp(0, size - 1)
    low = at.floor().clamp(max=max(size - 2, 0))
    share = at - low
    index = low.long()
    return torch.lerp(x.gather(axis, index), x.gather(axis, (index + 1).clamp(max=size - 1)), share)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """x [N, X, Y, Z] after a Gaussian of `sigma` voxels along every axis, ends repeated."""
    radius = max(1, round(2.5 * sigma))
    taps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in (1, 2, 3):
        rows = x.movedim(axis, -1)
        padded = F.pad(rows.reshape(-1, 1, rows.shape[-1]), (radius, radius), mode="replicate")
        x = F.conv1d(padded, kernel[None, None]).reshape(rows.shape).movedim(-1, axis)
    return x
