"""Synthesis network: style codes to a feature image with the skip architecture, and the tri-plane backbone.

Shape letters: N batch, R block resolution. Source: StyleGAN2 (2020), section 4; EG3D section 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eg3d.networks.layers import (
    ACTIVATION_GAIN,
    FUSED_MODCONV,
    PRECISIONS,
    FullyConnected,
    _activate_scaled,
    bias_act,
    check_choice,
    compute_dtype,
    fast_layout,
    is_low_precision,
    make_resample_filter,
    modulated_conv2d,
    upsample2d,
    use_fused,
)
from eg3d.networks.mapping import MappingNetwork
from eg3d.random_streams import Rng, normal

NOISE_MODES = ("random", "const", "none")


def check_noise(noise_mode: str, rng: Rng | None) -> None:
    """Raise ValueError for an unknown mode, or for random noise without a generator to draw it from."""
    check_choice("noise_mode", noise_mode, NOISE_MODES)
    if noise_mode == "random" and rng is None:
        raise ValueError(
            'noise_mode "random" needs a torch.Generator, got rng=None; '
            'pass rng=torch.Generator().manual_seed(seed) or use noise_mode "const"'
        )


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Number of feature channels of a block: min(channel_base / resolution, channel_max)."""
    return min(channel_base // resolution, channel_max)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU: x [N, I, R/up, R/up], w [N, w_dim] -> [N, O, R, R]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: int = 1,
        conv_clamp: float | None = None,
        fused_modconv: str = "auto",
    ):
        super().__init__()
        check_choice("fused_modconv", fused_modconv, FUSED_MODCONV)
        self.resolution, self.up = resolution, up
        self.conv_clamp, self.fused_modconv = conv_clamp, fused_modconv
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", make_resample_filter())

    def forward(self, x: Tensor, w: Tensor, *, noise_mode: str, rng: Rng | None) -> Tensor:
        styles = self.affine(w)
        noise = self._noise(x.shape[0], noise_mode, rng)
        fused = use_fused(self.fused_modconv, training=self.training, device=x.device)
        gain = ACTIVATION_GAIN["lrelu"]
        if x.dtype in (torch.float16, torch.bfloat16):
            offset = None if noise is None else noise.permute(0, 3, 1, 2)
            y = modulated_conv2d(x, self.weight, styles, f=self.resample_filter, up=self.up, fused=fused, offset=offset)
            return bias_act(y, self.bias, act="lrelu", clamp=self.conv_clamp)
        # Full precision: bias, noise and the positive gain join the demodulation in one multiply-add.
        offset = self.bias if noise is None else noise + self.bias
        offset = (offset * gain).reshape(1, 1, 1, -1) if noise is None else offset * gain
        y = modulated_conv2d(
            x,
            self.weight,
            styles,
            f=self.resample_filter,
            up=self.up,
            fused=fused,
            offset=offset.permute(0, 3, 1, 2),
            gain=gain,
        )
        return _activate_scaled(y, act="lrelu", clamp=self.conv_clamp)

    def _noise(self, n: int, noise_mode: str, rng: Rng | None) -> Tensor | None:
        """Scaled noise [N or 1, R, R, 1]; None for no noise."""
        if noise_mode == "none":
            return None
        if noise_mode == "const":
            noise = self.noise_const[None, None]
        else:
            shape = (n, 1, self.resolution, self.resolution)
            noise = normal(shape, rng).to(self.bias)
        return (noise * self.noise_strength).permute(0, 2, 3, 1)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution without demodulation or noise: x [N, I, R, R], w [N, w_dim] -> [N, O, R, R]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        *,
        conv_clamp: float | None = None,
        fused_modconv: str = "auto",
    ):
        super().__init__()
        self.conv_clamp, self.fused_modconv = conv_clamp, fused_modconv
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1.0 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) * self.weight_gain
        # A 1x1 layer is one batched matrix product, the faster form on a CPU whatever the 3x3 layers do.
        fused = (self.fused_modconv == "auto" and x.device.type == "cpu") or use_fused(
            self.fused_modconv, training=self.training, device=x.device
        )
        if x.dtype in (torch.float16, torch.bfloat16):
            y = modulated_conv2d(x, self.weight, styles, demodulate=False, fused=fused)
            return bias_act(y, self.bias, clamp=self.conv_clamp)
        offset = self.bias[None, :, None, None]
        y = modulated_conv2d(x, self.weight, styles, demodulate=False, fused=fused, offset=offset)
        return _activate_scaled(y, act="linear", clamp=self.conv_clamp)


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
        up: int = 2,
        low_precision: bool = False,
        precision: str = "fp32",
        conv_clamp: float | None = None,
        fused_modconv: str = "auto",
    ):
        super().__init__()
        check_choice("precision", precision, PRECISIONS)
        self.resolution, self.up = resolution, up
        self.low_precision, self.precision = low_precision, precision
        layer = {"conv_clamp": conv_clamp, "fused_modconv": fused_modconv}
        self.register_buffer("resample_filter", make_resample_filter())
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=up, **layer)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, **layer)
        self.torgb = ToRGB(out_channels, img_channels, w_dim, **layer)
        self.is_first = in_channels == 0
        self.num_ws = 2 if self.is_first else 3

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Tensor,
        *,
        noise_mode: str,
        rng: Rng | None,
    ) -> tuple[Tensor, Tensor]:
        """x features or None (first block), img running image or None, ws [N, num_ws, w_dim] -> (x, img)."""
        full = self.conv1.weight.dtype
        dtype = compute_dtype(self.precision, ws.device, full) if self.low_precision else full
        codes = iter(ws.unbind(1))
        if self.is_first:
            x = fast_layout(self.const.to(dtype)[None].repeat(ws.shape[0], 1, 1, 1))
        else:
            x = self.conv0(fast_layout(x.to(dtype)), next(codes), noise_mode=noise_mode, rng=rng)
        x = self.conv1(x, next(codes), noise_mode=noise_mode, rng=rng)
        if img is not None and self.up == 2:
            img = upsample2d(fast_layout(img), self.resample_filter)
        y = self.torgb(x, next(codes)).to(full)
        return x, (y if img is None else img + y)


class SynthesisNetwork(nn.Module):
    """Blocks b4, b8, ... b{img_resolution}. ws [N, num_ws, w_dim] -> [N, img_channels, R, R].

    Every torgb shares its style code with the next block's conv0, so num_ws = 2 * (number of blocks).
    The result may be channels-last in memory.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        *,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        precision: str = "fp32",
        fused_modconv: str = "auto",
    ):
        super().__init__()
        if img_resolution < 4 or img_resolution & (img_resolution - 1):
            raise ValueError(f"img_resolution must be a power of two, at least 4, got {img_resolution}")
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.resolutions = [2**k for k in range(2, int(math.log2(img_resolution)) + 1)]
        channels = 0
        for res in self.resolutions:
            out = channels_at(res, channel_base, channel_max)
            block = SynthesisBlock(
                channels,
                out,
                w_dim,
                res,
                img_channels,
                low_precision=is_low_precision(res, img_resolution, num_fp16_res),
                precision=precision,
                conv_clamp=conv_clamp,
                fused_modconv=fused_modconv,
            )
            setattr(self, f"b{res}", block)
            channels = out
        self.num_ws = 2 * len(self.resolutions)

    def forward(self, ws: Tensor, *, noise_mode: str = "const", rng: Rng | None = None) -> Tensor:
        """noise_mode random | const | none; random draws [N, 1, R, R] per layer from rng, in network order."""
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
    """Tri-plane backbone: `mapping` and `synthesis` side by side, num_ws taken from the synthesis network."""

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        *,
        mapping_layers: int = 8,
        mapping_lr_mul: float = 0.01,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        precision: str = "fp32",
        fused_modconv: str = "auto",
    ):
        super().__init__()
        self.synthesis = SynthesisNetwork(
            w_dim,
            img_resolution,
            img_channels,
            channel_base=channel_base,
            channel_max=channel_max,
            num_fp16_res=num_fp16_res,
            conv_clamp=conv_clamp,
            precision=precision,
            fused_modconv=fused_modconv,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(
            z_dim, c_dim, w_dim, self.num_ws, num_layers=mapping_layers, lr_multiplier=mapping_lr_mul
        )

    def forward(
        self,
        z: Tensor,
        c: Tensor,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        noise_mode: str = "const",
        rng: Rng | None = None,
    ) -> Tensor:
        """z, c -> [N, img_channels, R, R]."""
        ws = self.mapping(
            z,
            c,
            truncation_psi=truncation_psi,
            truncation_cutoff=truncation_cutoff,
            update_emas=update_emas,
        )
        return self.synthesis(ws, noise_mode=noise_mode, rng=rng)
