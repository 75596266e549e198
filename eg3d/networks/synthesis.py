"""Synthesis network: style codes to a feature image with the skip architecture, and the tri-plane backbone.

Shape letters: N batch, I and O input and output channels, R block resolution, L style codes of a network.
Sources: StyleGAN2 (2020), sections 2 and 4; EG3D (2022), section 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eg3d.networks.block_options import BlockPrecision, Channels, Precision
from eg3d.networks.layers import ACTIVATION_GAIN, FullyConnected, activate_scaled, bias_act, is_half
from eg3d.networks.mapping import MappingNetwork
from eg3d.networks.modulation import Modulation, modulated_conv2d_fast
from eg3d.networks.noise import check_noise, layer_noise
from eg3d.networks.resampling import fast_layout, make_resample_filter, upsample2d
from eg3d.random_streams import Rng


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU; up = 2 doubles the sides."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: int = 1,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.up, self.conv_clamp = up, conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", make_resample_filter())

    def forward(self, x: Tensor, w: Tensor, *, noise_mode: str, rng: Rng | None) -> Tensor:
        """x [N, I, R/up, R/up], style code w [N, w_dim] -> [N, O, R, R] in the dtype of x."""
        styles = self.affine(w)
        noise = layer_noise(noise_mode, self.noise_const, len(x), rng)
        noise = None if noise is None else noise * self.noise_strength
        up_filter = self.resample_filter if self.up == 2 else None
        if is_half(x):
            modulation = Modulation(up_filter=up_filter, noise=noise)
            y = modulated_conv2d_fast(x, self.weight, styles, modulation, is_training=self.training)
            return bias_act(y, self.bias, act="lrelu", clamp=self.conv_clamp)
        # Full precision: the positive gain goes through the activation to weights, bias and noise, which are small.
        gain = ACTIVATION_GAIN["lrelu"]
        bias, noise = self.bias[None, :, None, None] * gain, None if noise is None else noise * gain
        modulation = Modulation(up_filter=up_filter, gain=gain, bias=bias, noise=noise)
        y = modulated_conv2d_fast(x, self.weight, styles, modulation, is_training=self.training)
        return activate_scaled(y, act="lrelu", clamp=self.conv_clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution without demodulation or noise, to the channels of the image."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, *, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1.0 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, I, R, R], style code w [N, w_dim] -> [N, O, R, R] in the dtype of x."""
        styles = self.affine(w) * self.weight_gain
        bias = None if is_half(x) else self.bias[None, :, None, None]
        modulation = Modulation(demodulate=False, bias=bias)
        y = modulated_conv2d_fast(x, self.weight, styles, modulation, is_training=self.training)
        if bias is None:
            return bias_act(y, self.bias, clamp=self.conv_clamp)
        return activate_scaled(y, act="linear", clamp=self.conv_clamp)


class SynthesisBlock(nn.Module):
    """One resolution of the skip architecture: [const | conv0] -> conv1 -> torgb added to the running image.

    in_channels = 0 makes the first block (learned constant). up = 2 doubles the resolution of features and
    image; up = 1 keeps both (first block of the smaller super-resolution modules).
    num_ws is the number of style codes consumed by this block's forward, torgb included.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        *,
        precision: BlockPrecision,
        up: int = 2,
    ) -> None:
        super().__init__()
        self.up, self.precision, clamp = up, precision, precision.clamp
        self.register_buffer("resample_filter", make_resample_filter())
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=up, conv_clamp=clamp)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, conv_clamp=clamp)
        self.torgb = ToRGB(out_channels, img_channels, w_dim, conv_clamp=clamp)
        self.is_first = in_channels == 0
        self.num_ws = 2 if self.is_first else 3

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: Tensor, *, noise_mode: str, rng: Rng | None
    ) -> tuple[Tensor, Tensor]:
        """Features [N, I, R/up, R/up] and image [N, C, R/up, R/up] to features [N, O, R, R] and image [N, C, R, R].

        x is None for the first block, img is None where no image was made yet; ws [N, num_ws, w_dim]. The features
        come in the block's number format, the image in that of the weights.
        """
        full = self.conv1.weight.dtype
        dtype = self.precision.dtype(ws.device, full)
        codes = iter(ws.unbind(1))
        if self.is_first:
            x = fast_layout(self.const.to(dtype)[None].repeat(ws.shape[0], 1, 1, 1))
        else:
            x = self.conv0(fast_layout(x.to(dtype)), next(codes), noise_mode=noise_mode, rng=rng)
        x = self.conv1(x, next(codes), noise_mode=noise_mode, rng=rng)
        y = self.torgb(x, next(codes)).to(full)
        if img is None:
            return x, y
        if self.up == 2:
            return x, upsample2d(fast_layout(img), self.resample_filter).add_(y)  # in memory that nothing else holds
        return x, img + y


class SynthesisNetwork(nn.Module):
    """Blocks b4, b8, ... b{img_resolution}, from style codes to an image of img_channels.

    Every torgb shares its style code with the next block's conv0, so num_ws = 2 * (number of blocks).
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        *,
        channels: Channels,
        precision: Precision,
    ) -> None:
        super().__init__()
        if img_resolution < 4 or img_resolution & (img_resolution - 1):
            raise ValueError(f"img_resolution must be a power of two, at least 4, got {img_resolution}")
        self.w_dim, self.img_resolution = w_dim, img_resolution
        self.resolutions = [2**k for k in range(2, int(math.log2(img_resolution)) + 1)]
        below = 0
        for res in self.resolutions:
            here = channels.at(res)
            block = SynthesisBlock(
                below, here, w_dim, res, img_channels, precision=precision.block(res, img_resolution)
            )
            setattr(self, f"b{res}", block)
            below = here
        self.num_ws = 2 * len(self.resolutions)

    def forward(self, ws: Tensor, *, noise_mode: str = "const", rng: Rng | None = None) -> Tensor:
        """ws [N, num_ws, w_dim] -> [N, img_channels, R, R], R = img_resolution; possibly channels-last in memory.

        noise_mode const | none | random; random draws [N, 1, R, R] per layer from rng, in network order. Twice
        differentiable. Raises ValueError for codes of another shape, and as `check_noise`.
        """
        check_noise(noise_mode, rng)
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be [N, {self.num_ws}, {self.w_dim}], got {list(ws.shape)}")
        ws = ws.to(self.b4.const.dtype)
        x = img = None
        start = 0
        for res in self.resolutions:
            block = getattr(self, f"b{res}")
            x, img = block(x, img, ws[:, start : start + block.num_ws], noise_mode=noise_mode, rng=rng)
            start += block.num_ws - 1
        return img


class Backbone(nn.Module):
    """The two networks behind the tri-planes under their published names, `synthesis` and `mapping`.

    Make them in this order: it decides which weights a seed gives.
    """

    def __init__(self, synthesis: SynthesisNetwork, mapping: MappingNetwork) -> None:
        super().__init__()
        self.synthesis, self.mapping = synthesis, mapping

    @property
    def num_ws(self) -> int:
        """Style codes of one sample."""
        return self.synthesis.num_ws
