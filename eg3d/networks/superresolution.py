"""Super-resolution: rendered colours and features to the final image.

Shape letters: N batch, F feature channels, R neural rendering resolution, L style codes, H final image side.
Source: EG3D (2022), section 4, super resolution, and its supplement.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from eg3d.networks.block_options import Precision
from eg3d.networks.noise import check_noise
from eg3d.networks.resampling import make_resample_filter
from eg3d.networks.synthesis import SynthesisBlock
from eg3d.random_streams import Rng

RGB_CHANNELS = 3
# The published modules without an upsampling first block add that block's colours to the rendered image in
# place, so the image_raw they return carries the residual and their discriminator has learned to expect it.
RAW_CARRIES_RESIDUAL = True


@dataclass(frozen=True)
class SuperresolutionKind:
    """Sizes of one super-resolution class. Raises ValueError if the resolutions are not its enlargement apart."""

    name: str
    img_resolution: int  # pixels, output
    input_resolution: int  # pixels, both inputs are resized to it
    channels: tuple[int, int]  # features of block0 and block1
    first_up: bool  # whether block0 doubles the resolution
    shrinks_input: bool  # whether inputs larger than input_resolution are accepted and resized
    has_filter: bool  # whether the class owns an (unused) resample_filter buffer

    def __post_init__(self) -> None:
        made = self.factor * self.input_resolution
        if self.img_resolution != made:
            raise ValueError(
                f"super-resolution {self.name} enlarges {self.factor}x: input {self.input_resolution} gives {made}, "
                f"but img_resolution is {self.img_resolution}"
            )

    @property
    def factor(self) -> int:
        """Enlargement from input_resolution to img_resolution."""
        return 4 if self.first_up else 2


_PUBLISHED = (
    SuperresolutionKind("8XDC", 512, 128, (256, 128), first_up=True, shrinks_input=True, has_filter=False),
    SuperresolutionKind("8X", 512, 128, (128, 64), first_up=True, shrinks_input=True, has_filter=True),
    SuperresolutionKind("4X", 256, 128, (128, 64), first_up=False, shrinks_input=False, has_filter=True),
    SuperresolutionKind("2X", 128, 64, (128, 64), first_up=False, shrinks_input=True, has_filter=True),
)
SUPERRESOLUTION_KINDS = {kind.name: kind for kind in _PUBLISHED}


class SuperResolution(nn.Module):
    """Two synthesis blocks driven by the last style code only.

    `kind` is a published one, or that with other sizes (dataclasses.replace). Any number of low-precision resolutions
    above 0 stands for both blocks.
    """

    def __init__(
        self,
        kind: SuperresolutionKind,
        *,
        feature_channels: int,
        w_dim: int,
        precision: Precision,
        antialias: bool = True,
    ) -> None:
        super().__init__()
        self.kind, self.antialias = kind, antialias
        c0, c1 = kind.channels
        resolution, block_precision = kind.img_resolution, precision.every_block()
        up0 = 2 if kind.first_up else 1
        self.block0 = SynthesisBlock(
            feature_channels, c0, w_dim, resolution // 2, RGB_CHANNELS, up=up0, precision=block_precision
        )
        self.block1 = SynthesisBlock(c0, c1, w_dim, resolution, RGB_CHANNELS, precision=block_precision)
        if kind.has_filter:
            self.register_buffer("resample_filter", make_resample_filter())

    def forward(
        self, rgb: Tensor, features: Tensor, ws: Tensor, *, noise_mode: str = "none", rng: Rng | None = None
    ) -> tuple[Tensor, Tensor]:
        """rgb [N, 3, R, R], features [N, F, R, R], ws [N, L, w_dim] -> image [N, 3, H, H], raw [N, 3, R, R].

        raw is what the published model returns as image_raw: rgb plus block0's colours where that block works
        at the rendering resolution and no resize came between (2X and 4X at R = input), else rgb itself.
        rgb is never modified. Differentiable in all three. Raises ValueError for a rendering that is too large, and
        as `check_noise`.
        """
        check_noise(noise_mode, rng)
        is_resized = self._needs_resize(rgb.shape[-1])
        x, img = (self._resize(features), self._resize(rgb)) if is_resized else (features, rgb)
        ws = ws[:, -1:].to(self.block0.conv1.weight.dtype).repeat(1, 3, 1)
        x, img = self.block0(x, img, ws, noise_mode=noise_mode, rng=rng)
        is_aliased = RAW_CARRIES_RESIDUAL and not (is_resized or self.kind.first_up)
        raw = img if is_aliased else rgb
        _, image = self.block1(x, img, ws, noise_mode=noise_mode, rng=rng)
        return image, raw

    def _needs_resize(self, size: int) -> bool:
        if size > self.kind.input_resolution and not self.kind.shrinks_input:
            raise ValueError(
                f"super-resolution {self.kind.name} takes renderings up to {self.kind.input_resolution} pixels, "
                f"got {size}; lower neural_rendering_resolution"
            )
        return size != self.kind.input_resolution

    def _resize(self, x: Tensor) -> Tensor:
        size = (self.kind.input_resolution, self.kind.input_resolution)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=self.antialias)
