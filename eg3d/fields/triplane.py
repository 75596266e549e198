"""The tri-plane field of EG3D: three axis-aligned planes and a small decoder. Source: EG3D (2022), section 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from eg3d.ops.density_grid.grid import GridSpec
from eg3d.ops.density_grid.op import density_grid
from eg3d.ops.density_points.op import density_points, field_points
from eg3d.ops.render_rays.op import render_rays
from eg3d.ops.triplane import TriPlane
from eg3d.random_streams import Rng
from eg3d.rendering.rays import RayBundle
from eg3d.rendering.renderer import RenderedRays, RenderingConfig


@dataclass(frozen=True)
class TriPlaneField(TriPlane):
    """A `Field` (eg3d/fields/protocol.py) of tri-planes; every query goes through the fused operations of eg3d/ops."""

    @property
    def device(self) -> torch.device:
        return self.planes.device

    def joined(self, others: Sequence[Self]) -> Self:
        return replace(self, planes=torch.cat([self.planes, *(other.planes for other in others)]))

    def density(self, points: Tensor) -> Tensor:
        return density_points(self, points)

    def density_and_color(self, points: Tensor) -> tuple[Tensor, Tensor]:
        sigma_raw, rgb = field_points(self, points)
        return sigma_raw, rgb.transpose(1, 2)

    def density_grid(self, spec: GridSpec) -> Tensor:
        return density_grid(self, spec)

    def render(self, rays: RayBundle, cfg: RenderingConfig, rng: Rng | None = None) -> RenderedRays:
        return render_rays(self, rays, cfg, rng)
