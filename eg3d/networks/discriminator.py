"""Dual discriminator: the final image and the enlarged raw rendering judged together, given the camera.

Shape letters: N batch, H final image side, R raw image side, C channels.
Sources: EG3D (2022), section 4, dual discrimination; StyleGAN2 (2020), section 4 (residual discriminator);
Progressive GAN (2018), section 3 (minibatch standard deviation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eg3d.config_checks import one_of, require_one_of
from eg3d.networks.block_options import CONV_CLAMP, PRECISIONS, BlockPrecision, Channels, Precision
from eg3d.networks.layers import Conv2dLayer, FullyConnected
from eg3d.networks.mapping import MappingNetwork
from eg3d.networks.resampling import downsample2d, fast_layout, make_resample_filter, upsample2d
from eg3d.random_streams import Rng, normal

RESIZE_MODES = ("antialiased", "classic", "none")
MBSTD_CHANNELS = 1


@dataclass
class DiscriminatorConfig:
    """Sizes and options of the discriminator; the defaults are the published 512-pixel model."""

    img_resolution: int = 512  # pixels, power of two, at least 8
    img_channels: int = 3  # colour channels of one image
    channel_base: int = 32768  # channels at resolution r: min(channel_base / r, channel_max)
    channel_max: int = 512
    c_dim: int = 25  # camera label length; 0 = unconditional
    mapping_layers: int = 8  # the published label mapping has 8 layers whatever the generator's depth
    mbstd_group_size: int = 4  # images per minibatch-std group; the batch must be a multiple (or smaller)
    dual_discrimination: bool = True  # False judges the final image alone
    disc_c_noise: float = 0.0  # label noise over the batch standard deviation; > 0 needs rng in forward
    freeze_layers: int = 0  # first layers kept as buffers (Freeze-D), counting fromrgb, conv0, conv1, skip
    num_fp16_res: int = 4  # highest resolutions clamped at conv_clamp and run in `precision`
    conv_clamp: float = CONV_CLAMP  # used only when num_fp16_res > 0
    precision: str = "fp32"  # fp32 | bf16 | fp16 (fp16 runs as fp32 off CUDA)
    raw_resize: str = "antialiased"  # antialiased | classic | none

    def validate(self) -> list[str]:
        """All faults of this configuration, one sentence each."""
        faults = []
        if self.img_resolution < 8 or self.img_resolution & (self.img_resolution - 1):
            faults.append(f"img_resolution must be a power of two, at least 8, got {self.img_resolution}")
        elif self.channel_base < self.img_resolution:
            faults.append(f"channel_base must be at least img_resolution, got {self.channel_base}")
        for name, choices in (("precision", PRECISIONS), ("raw_resize", RESIZE_MODES)):
            faults += one_of(name, getattr(self, name), list(choices))
        for name, least in (("mbstd_group_size", 1), ("disc_c_noise", 0), ("freeze_layers", 0), ("c_dim", 0)):
            if getattr(self, name) < least:
                faults.append(f"{name} must be at least {least}, got {getattr(self, name)}")
        return faults


def resize_raw(x: Tensor, size: int, *, mode: str = "antialiased", f: Tensor | None = None) -> Tensor:
    """Resize images [N, C, H, H] to [N, C, size, size]; also shrinks real images to the raw resolution.

    antialiased: bilinear with antialiasing. none: plain bilinear. classic: filtered enlargement by 2, bilinear
    to 2 size + 2, filtered shrink without padding; f is its [4, 4] filter, None builds the usual one.
    """
    require_one_of("resize mode", mode, RESIZE_MODES)
    if mode == "classic":
        f = make_resample_filter().to(x) if f is None else f
        return downsample2d(_bilinear(upsample2d(x, f), 2 * size + 2, antialias=False), f, padding=0)
    return _bilinear(x, size, antialias=mode == "antialiased")


def _bilinear(x: Tensor, size: int, *, antialias: bool) -> Tensor:
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=antialias)


def minibatch_std(x: Tensor, group_size: int) -> Tensor:
    """Append one channel: the standard deviation over each group, averaged over channels and pixels.

    x [N, C, H, W] -> [N, C + 1, H, W]. Group size G = min(group_size, N); element n is in column n mod (N/G).
    Raises ValueError if N is no multiple of G. Source: Progressive GAN, section 3.
    """
    n = x.shape[0]
    group = min(group_size, n)
    if n % group:
        raise ValueError(f"batch size must be a multiple of the minibatch-std group {group}, got {n}")
    y = x.reshape(group, n // group, *x.shape[1:])
    y = (y.var(dim=0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    y = y.repeat(group)[:, None, None, None].expand(-1, MBSTD_CHANNELS, *x.shape[2:])
    return torch.cat([x, y], dim=1)


class DiscriminatorBlock(nn.Module):
    """Residual block: conv0, conv1 (down 2) plus a 1x1 skip (down 2, never clamped), both scaled by sqrt(1/2).

    img_channels above 0 makes the first block, which starts from the image via fromrgb. The first num_frozen of its
    layers (fromrgb, conv0, conv1, skip) are kept as buffers.
    """

    def __init__(
        self, channels: int, out_channels: int, *, img_channels: int, precision: BlockPrecision, num_frozen: int
    ) -> None:
        super().__init__()
        self.precision, self.has_fromrgb = precision, img_channels > 0
        self.register_buffer("resample_filter", make_resample_filter())
        self.num_layers = 4 if self.has_fromrgb else 3
        trainable = iter([k >= num_frozen for k in range(self.num_layers)])
        clamped = {"activation": "lrelu", "conv_clamp": precision.clamp}
        if self.has_fromrgb:
            self.fromrgb = Conv2dLayer(img_channels, channels, 1, trainable=next(trainable), **clamped)
        self.conv0 = Conv2dLayer(channels, channels, 3, trainable=next(trainable), **clamped)
        self.conv1 = Conv2dLayer(channels, out_channels, 3, down=2, trainable=next(trainable), **clamped)
        self.skip = Conv2dLayer(channels, out_channels, 1, bias=False, down=2, trainable=next(trainable))

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, channels, H, H], or images [N, img_channels, H, H], to features [N, out_channels, H/2, H/2]."""
        dtype = self.precision.dtype(x.device, self.conv0.weight.dtype)
        # Evaluation keeps the published layout too, since it decides the order of sums (see Conv2dLayer.forward).
        x = fast_layout(x.to(dtype)) if self.training else x.to(dtype).contiguous()
        if self.has_fromrgb:
            x = self.fromrgb(x)
        y = self.skip(x, gain=math.sqrt(0.5))
        return y + self.conv1(self.conv0(x), gain=math.sqrt(0.5))


class DiscriminatorEpilogue(nn.Module):
    """Minibatch-std, conv 3x3, two full layers. Never 16-bit."""

    def __init__(self, channels: int, cmap_dim: int, *, group_size: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.group_size = group_size
        self.conv = Conv2dLayer(channels + MBSTD_CHANNELS, channels, 3, activation="lrelu", conv_clamp=conv_clamp)
        self.fc = FullyConnected(channels * 16, channels, activation="lrelu")
        self.out = FullyConnected(channels, cmap_dim or 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, C, 4, 4] -> [N, cmap_dim], or logits [N, 1] if that is 0. Raises as `minibatch_std`."""
        x = self.conv(minibatch_std(x.to(self.fc.weight.dtype), self.group_size))
        return self.out(self.fc(x.flatten(1)))


class DualDiscriminator(nn.Module):
    """Logits for pairs of final and raw image under a camera label: blocks b{H} .. b8, b4, `mapping`."""

    def __init__(self, cfg: DiscriminatorConfig) -> None:
        super().__init__()
        faults = cfg.validate()
        if faults:
            raise ValueError("discriminator: " + "; ".join(faults))
        self.cfg = cfg
        self.img_channels = cfg.img_channels * (2 if cfg.dual_discrimination else 1)
        channels = Channels(cfg.channel_base, cfg.channel_max)
        precision = Precision(cfg.num_fp16_res, cfg.precision, cfg.conv_clamp)
        self.register_buffer("resample_filter", make_resample_filter())
        self.resolutions = [2**k for k in range(int(math.log2(cfg.img_resolution)), 2, -1)]
        num_layers = 0
        for res in self.resolutions:
            block = DiscriminatorBlock(
                channels.at(res),
                channels.at(res // 2),
                img_channels=self.img_channels if res == cfg.img_resolution else 0,
                precision=precision.block(res, cfg.img_resolution),
                num_frozen=cfg.freeze_layers - num_layers,
            )
            num_layers += block.num_layers
            setattr(self, f"b{res}", block)
        last = channels.at(4)
        self.cmap_dim = last if cfg.c_dim > 0 else 0
        if cfg.c_dim > 0:
            self.mapping = MappingNetwork(0, cfg.c_dim, self.cmap_dim, None, num_layers=cfg.mapping_layers)
        clamp = precision.block(4, cfg.img_resolution).clamp
        self.b4 = DiscriminatorEpilogue(last, self.cmap_dim, group_size=cfg.mbstd_group_size, conv_clamp=clamp)

    def forward(
        self, img: dict[str, Tensor], c: Tensor | None, *, rng: Rng | None = None, c_std: Tensor | None = None
    ) -> Tensor:
        """img: image [N, 3, H, H] and image_raw [N, 3, R, R], -1 to 1; c [N, c_dim] -> logits [N, 1].

        Twice differentiable in both images. rng is needed only with disc_c_noise > 0; c is never modified. c_std
        [c_dim] is the labels' deviation that scales their noise; None = that of this batch.
        """
        x = self.join(img)
        for res in self.resolutions:
            x = getattr(self, f"b{res}")(x)
        x = self.b4(x)
        if self.cfg.c_dim == 0:
            return x
        cmap = self.mapping(None, self._noisy(c, rng, c_std))
        return (x * cmap).sum(1, keepdim=True) / math.sqrt(self.cmap_dim)

    def join(self, img: dict[str, Tensor]) -> Tensor:
        """The network's input [N, 6, H, H]: the image and the raw image enlarged to its size."""
        image, size, channels = img["image"], self.cfg.img_resolution, self.cfg.img_channels
        if image.ndim != 4 or tuple(image.shape[1:]) != (channels, size, size):
            raise ValueError(f"image must be [N, {channels}, {size}, {size}], got {list(image.shape)}")
        if not self.cfg.dual_discrimination:
            return image
        raw = resize_raw(img["image_raw"], size, mode=self.cfg.raw_resize, f=self.resample_filter)
        return torch.cat([image, raw], dim=1)

    def _noisy(self, c: Tensor, rng: Rng | None, c_std: Tensor | None) -> Tensor:
        """c plus Gaussian noise scaled by the batch's (unbiased) deviation per component; a new tensor."""
        if self.cfg.disc_c_noise == 0:
            return c
        if rng is None:
            raise ValueError("disc_c_noise > 0 needs a torch.Generator: call D(img, c, rng=generator)")
        noise = normal(c.shape, rng).to(c)
        return c + noise * (c.std(0) if c_std is None else c_std) * self.cfg.disc_c_noise
