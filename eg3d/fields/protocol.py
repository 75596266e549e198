"""What a field promises, whatever it is made of: tri-planes, a tri-grid, spherical planes, a formula.

Shape letters: N samples, P points, F feature channels, X, Y, Z sides of a grid, R rays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from eg3d.ops.density_grid.grid import GridSpec
from eg3d.random_streams import Rng
from eg3d.rendering.rays import RayBundle
from eg3d.rendering.renderer import RenderedRays, RenderingConfig


class Field(Protocol):
    """Raw density (before its activation softplus(x - 1)) and colour of N samples in a cube around the origin."""

    @property
    def box_warp(self) -> float:
        """Side of the cube, world units."""

    @property
    def device(self) -> torch.device:
        """Where its tensors are, and where points have to be."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: slice | Tensor | list[int]) -> Self:
        """The fields of some of the samples."""

    def joined(self, others: Sequence[Self]) -> Self:
        """These samples and those of `others`, one after the other."""

    def density(self, points: Tensor) -> Tensor:
        """Raw density [N, P], any real value, at points [N, P, 3] (world units). Gradients flow to field and points."""

    def density_and_color(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Raw density [N, P], and colour features [N, P, F] in (-0.001, 1.001), the first three of which are RGB."""

    def density_grid(self, spec: GridSpec) -> Tensor:
        """Raw density [N, X, Y, Z] at the points of a regular grid, in the order (x, y, z)."""

    def render(self, rays: RayBundle, cfg: RenderingConfig, rng: Rng | None = None) -> RenderedRays:
        """Features, depth, opacity and spread of rays [N, R, 3]; without `rng` the samples along rays are fixed."""


AnyField = TypeVar("AnyField", bound=Field)


def join_fields(fields: Sequence[AnyField]) -> AnyField:
    """One field of all samples, in order; needs at least one."""
    return fields[0] if len(fields) == 1 else fields[0].joined(fields[1:])
