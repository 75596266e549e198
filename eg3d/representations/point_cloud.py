"""The surface seen by the canonical camera as points. Shape letters: N samples, P points, R side of the depth map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eg3d.cameras import split_label
from eg3d.generators.protocol import Generator
from eg3d.rendering.rays import pixel_rays
from eg3d.representations.depth_map import DepthMap
from eg3d.representations.protocol import Representation, register
from eg3d.samples import Sample


@register
@dataclass
class PointCloud(Representation):
    """Ends of the expected depths of the canonical camera's rays, thinned evenly. Source: released behaviour."""

    input_kind: ClassVar[str] = "points"

    name: str = "point_cloud"
    resolution_px: int = 128  # R of the depth map behind it
    num_points: int = 2048  # P

    def validate(self) -> list[str]:
        num_rays = self.resolution_px**2
        faults = super().validate()
        if not 1 <= self.num_points <= num_rays:
            faults.append(f"num_points: must lie in 1 to {num_rays}, the rays behind it, got {self.num_points}")
        return faults

    def shape(self, G: Generator | None = None) -> tuple[int, int]:
        """(P, 3)."""
        return self.num_points, 3

    def extract(self, G: Generator, sample: Sample) -> Tensor:
        """Points [N, P, 3], world units, in the order of their pixels; differentiable in the field."""
        depth = DepthMap(resolution_px=self.resolution_px).extract(G, sample).flatten(1)
        c = G.camera.canonical().to(depth).expand(len(depth), -1)
        rays = pixel_rays(*split_label(c), self.resolution_px)
        at = torch.linspace(0, depth.shape[1] - 1, self.num_points).round().long()  # evenly, both ends included
        return rays.rays_o[:, at] + depth[:, at, None] * rays.rays_d[:, at]
