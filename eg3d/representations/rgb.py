"""Final images from one or several cameras. Shape letters: N samples, V views, S image side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from eg3d.generators.protocol import Generator
from eg3d.representations.protocol import Representation, register
from eg3d.samples import Sample


@register
@dataclass
class RgbViews(Representation):
    """What people usually look at: the generator's own pictures."""

    input_kind: ClassVar[str] = "images"

    name: str = "rgb"
    yaws: list[float] = field(default_factory=lambda: [0.0])  # radians from the frontal camera, one a view
    pitch: float = 0.0  # radians

    def validate(self) -> list[str]:
        return super().validate() + ([] if self.yaws else ["yaws: give at least one view"])

    def shape(self, G: Generator | None = None) -> tuple[int, int, int, int]:
        """(V, 3, S, S); S is the generator's."""
        if G is None:
            raise ValueError("rgb: the side of its images is the generator's; give one")
        side = G.cfg.img_resolution
        return len(self.yaws), 3, side, side

    def extract(self, G: Generator, sample: Sample) -> Tensor:
        """Images [N, V, 3, S, S], about -1 to 1; differentiable in field and style codes."""
        cameras = [G.camera.label(yaw, self.pitch).to(sample.ws).expand(len(sample), -1) for yaw in self.yaws]
        return torch.stack([G.render(sample.field, sample.ws, c).final for c in cameras], dim=1)
