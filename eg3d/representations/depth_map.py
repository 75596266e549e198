"""Expected depth from one or several cameras. Shape letters: N samples, V views, R side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from eg3d.config_checks import at_least
from eg3d.generators.protocol import Generator
from eg3d.representations.protocol import Representation, register
from eg3d.samples import Sample


@register
@dataclass
class DepthMap(Representation):
    """Distance along the rays at the neural resolution, one map a view. One sample is seen by all of them."""

    input_kind: ClassVar[str] = "maps"

    name: str = "depth_map"
    resolution_px: int = 128  # R
    # Radians from the frontal camera, one a view. The released triples have 1, 0 and -1; the paper says 60 degrees.
    yaws: list[float] = field(default_factory=lambda: [0.0])
    pitch: float = 0.0  # radians

    def validate(self) -> list[str]:
        faults = super().validate() + ([] if self.yaws else ["yaws: give at least one view"])
        return faults + at_least(self, 1, "resolution_px")

    def shape(self, G: Generator | None = None) -> tuple[int, int, int]:
        """(V, R, R)."""
        return len(self.yaws), self.resolution_px, self.resolution_px

    def extract(self, G: Generator, sample: Sample) -> Tensor:
        """Depth maps [N, V, R, R], world units along the rays; differentiable in the field."""
        views = []
        for yaw in self.yaws:
            c = G.camera.label(yaw, self.pitch).to(sample.ws).expand(len(sample), -1)
            rendered = G.render(
                sample.field, sample.ws, c, neural_rendering_resolution=self.resolution_px, superresolve=False
            )
            views.append(rendered.image_depth)
        return torch.cat(views, dim=1)
