"""Super-resolution: rendered colours and features to the final image.

Shape letters: N batch, R neural rendering resolution. Source: EG3D section 4.4 and supplement.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from eg3d.networks.layers import check_choice, make_resample_filter
from eg3d.networks.synthesis import SynthesisBlock, check_noise
from eg3d.random_streams import Rng

SR_CONV_CLAMP = 256.0
# The published modules without an upsampling first block add that block's colours to the rendered image in
# place, so the image_raw they return carries the residual and their discriminator has learned to expect it.
RAW_CARRIES_RESIDUAL = True


@dataclass(frozen=True)
class SuperresolutionKind:
    """Published sizes of one super-resolution class."""

    img_resolution: int  # pixels, output
    input_resolution: int  # pixels, both inputs are resized to it
    channels: tuple[int, int]  # features of block0 and block1
    first_up: bool  # whether block0 doubles the resolution
    shrinks_input: bool  # whether inputs larger than input_resolution are accepted and resized
    has_filter: bool  # whether the class owns an (unused) resample_filter buffer


SUPERRESOLUTION_KINDS = {
    "8XDC": SuperresolutionKind(512, 128, (256, 128), True, True, False),
    "8X": SuperresolutionKind(512, 128, (128, 64), True, True, True),
    "4X": SuperresolutionKind(256, 128, (128, 64), False, False, True),
    "2X": SuperresolutionKind(128, 64, (128, 64), False, True, True),
}


class SuperResolution(nn.Module):
    """Two synthesis blocks driven by the last style code only.

    kind names a published layout (2X, 4X, 8X, 8XDC); sizes left at None are the published ones.
    sr_num_fp16_res > 0 clamps the layers at +-256 and runs them in `precision`; 0 means neither.
    """

    def __init__(
        self,
        kind: str,
        *,
        feature_channels: int = 32,
        w_dim: int = 512,
        img_resolution: int | None = None,
        input_resolution: int | None = None,
        channels: tuple[int, int] | None = None,
        img_channels: int = 3,
        sr_num_fp16_res: int = 4,
        antialias: bool = True,
        precision: str = "fp32",
        fused_modconv: str = "auto",
    ):
        super().__init__()
        check_choice("superresolution", kind, SUPERRESOLUTION_KINDS)
        published = SUPERRESOLUTION_KINDS[kind]
        self.kind, self.layout, self.antialias = kind, published, antialias
        self.img_resolution = img_resolution or published.img_resolution
        self.input_resolution = input_resolution or published.input_resolution
        self.channels = tuple(channels or published.channels)
        factor = 4 if published.first_up else 2
        if self.img_resolution != factor * self.input_resolution:
            raise ValueError(
                f"super-resolution {kind} enlarges {factor}x: input {self.input_resolution} gives "
                f"{factor * self.input_resolution}, but img_resolution is {self.img_resolution}"
            )
        block = {
            "low_precision": sr_num_fp16_res > 0,
            "precision": precision,
            "conv_clamp": SR_CONV_CLAMP if sr_num_fp16_res > 0 else None,
            "fused_modconv": fused_modconv,
        }
        c0, c1 = self.channels
        res0 = self.img_resolution // 2
        up0 = 2 if published.first_up else 1
        self.block0 = SynthesisBlock(feature_channels, c0, w_dim, res0, img_channels, up=up0, **block)
        self.block1 = SynthesisBlock(c0, c1, w_dim, self.img_resolution, img_channels, up=2, **block)
        if published.has_filter:
            self.register_buffer("resample_filter", make_resample_filter())

    def forward(
        self,
        rgb: Tensor,
        features: Tensor,
        ws: Tensor,
        *,
        noise_mode: str = "none",
        rng: Rng | None = None,
    ) -> tuple[Tensor, Tensor]:
        """rgb [N, 3, R, R], features [N, F, R, R], ws [N, L, w_dim] -> image [N, 3, res, res], raw [N, 3, R, R].

        raw is what the published model returns as image_raw: rgb plus block0's colours where that block works
        at the rendering resolution and no resize came between (2X and 4X at R = input), else rgb itself.
        rgb is never modified.
        """
        check_noise(noise_mode, rng)
        is_resized = self._needs_resize(rgb.shape[-1])
        x, img = (self._resize(features), self._resize(rgb)) if is_resized else (features, rgb)
        ws = ws[:, -1:].to(self.block0.conv1.weight.dtype).repeat(1, 3, 1)
        x, img = self.block0(x, img, ws, noise_mode=noise_mode, rng=rng)
        is_aliased = RAW_CARRIES_RESIDUAL and not (is_resized or self.layout.first_up)
        raw = img if is_aliased else rgb
        _, image = self.block1(x, img, ws, noise_mode=noise_mode, rng=rng)
        return image, raw

    def _needs_resize(self, size: int) -> bool:
        if size > self.input_resolution and not self.layout.shrinks_input:
            raise ValueError(
                f"super-resolution {self.kind} takes renderings up to {self.input_resolution} pixels, "
                f"got {size}; lower neural_rendering_resolution"
            )
        return size != self.input_resolution

    def _resize(self, x: Tensor) -> Tensor:
        size = (self.input_resolution, self.input_resolution)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=self.antialias)
