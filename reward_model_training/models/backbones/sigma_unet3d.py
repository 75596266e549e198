"""Residual 3D U-Net with squeeze-and-excitation: the encoder of the density-slab reward.

Shapes: N slabs, C channels, (Z, Y, X) voxels, F final feature length. Module names give the published
state-dict keys (`encoders.0.basic_module.conv2.groupnorm.weight`, ...). Source: the released system.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eg3d.config_checks import one_of
from reward_model_training.models.backbones.narrow_convolution import narrow_conv3d
from reward_model_training.models.backbones.registry import BackboneConfig, Encoding, backbone

WIDEST, LONGEST_FEATURE = 2048, 2**20  # beyond them a config can only be a mistake
RECON_BIAS_SPAN = 0.5e-2  # the reconstruction layer starts as the identity plus a bias in +-this


@dataclass
class SigmaUNetConfig(BackboneConfig):
    """Sizes of the density U-Net; the defaults are the published model."""

    name: str = "sigma_unet3d"
    f_maps: list[int] = field(default_factory=lambda: [8, 16, 32, 64, 128, 256])  # channels of each level
    num_groups: int = 8  # groups of every group norm; one group where there are fewer channels
    num_recon_channels: int = 4  # output channels whose maximum is the reconstruction
    num_feature_channels: int = 4  # output channels whose maximum is pooled to the feature
    final_size_out: int = 8192  # length F of the global feature
    is_checkpointed: bool = False  # recompute each level in the backward pass: less memory, same numbers
    is_channels_last: bool = False  # memory layout of the convolutions: speed only
    precision: str = "fp32"  # fp32 or bf16 (autocast inside the U-Net, float32 outside)

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = super().validate()
        if len(self.f_maps) < 2 or any(width < 1 for width in self.f_maps):
            faults.append(f"f_maps: {list(self.f_maps)} needs at least two positive channel counts")
        elif any(2 * a != b for a, b in zip(self.f_maps, self.f_maps[1:], strict=False)):
            faults.append(f"f_maps: {list(self.f_maps)} must double from level to level, as [8, 16, 32, 64]")
        elif any(width >= self.num_groups and width % self.num_groups for width in self.f_maps):
            faults.append(f"f_maps: {list(self.f_maps)} must be multiples of num_groups {self.num_groups}")
        if self.num_groups < 1:
            faults.append(f"num_groups: {self.num_groups} must be at least 1")
        if max(self.f_maps, default=0) > WIDEST or self.final_size_out > LONGEST_FEATURE:
            faults.append(f"f_maps, final_size_out: at most {WIDEST} channels and {LONGEST_FEATURE} numbers")
        if max(self.num_recon_channels, self.num_feature_channels) > WIDEST:
            faults.append(f"num_recon_channels, num_feature_channels: at most {WIDEST}")
        if min(self.num_recon_channels, self.num_feature_channels, self.final_size_out) < 1:
            faults.append("num_recon_channels, num_feature_channels and final_size_out must be at least 1")
        return faults + one_of("precision", self.precision, ("fp32", "bf16"))

    @property
    def feature_size(self) -> int:
        return self.final_size_out

    @property
    def smallest_side(self) -> int:
        """Fewest voxels per axis that survive the poolings."""
        return 2 ** (len(self.f_maps) - 1)


class NormConv(nn.Module):
    """Group norm of x [N, C, Z, Y, X], then a 3x3x3 convolution without bias to the same (keys groupnorm, conv)."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.groupnorm = nn.GroupNorm(num_groups if channels >= num_groups else 1, channels)
        self.conv = nn.Conv3d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.groupnorm(x)
        if x.device.type != "cpu" or not x.is_contiguous():
            return self.conv(x)
        # A CPU differentiates narrow 3D convolutions 4 times as fast channels-last (4 channels, 33 x 36 x 32 voxels: 13
        # instead of 51 ms), but normalises more slowly there: so the layout of the convolution alone.
        return narrow_conv3d(x.contiguous(memory_format=torch.channels_last_3d), self.conv.weight).contiguous()


class ChannelGate(nn.Module):
    """Scale [N, C, 1, 1, 1] of each channel of x [N, C, Z, Y, X] from its mean over the volume (reduction ratio 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels)
        self.fc2 = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3, 4))))))
        return gate[:, :, None, None, None]


class SpatialGate(nn.Module):
    """Scale [N, 1, Z, Y, X] of each voxel of x [N, C, Z, Y, X] from its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))


class GatePair(nn.Module):
    """Element-wise maximum of the channel-gated and the voxel-gated volume (scSE) of x [N, C, Z, Y, X] >= 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cSE = ChannelGate(channels)
        self.sSE = SpatialGate(channels)

    def forward(self, x: Tensor) -> Tensor:
        channel, voxel = self.cSE(x), self.sSE(x)
        # x >= 0: the larger product is that of the larger gate. Not torch.maximum, whose gradient shares out ties in
        # eight passes over the volume.
        return x * torch.where(channel > voxel, channel, voxel)


class ResidualBlock(nn.Module):
    """Two norm-convolutions beside a 1x1x1 residual (identity if the widths agree), ReLU, scSE.

    [N, in_channels, Z, Y, X] to [N, channels, Z, Y, X].
    """

    def __init__(self, in_channels: int, channels: int, num_groups: int) -> None:
        super().__init__()
        if in_channels != channels:
            self.conv1 = nn.Conv3d(in_channels, channels, 1)
        self.is_widening = in_channels != channels
        self.conv2 = NormConv(channels, num_groups)
        self.conv3 = NormConv(channels, num_groups)
        self.se_module = GatePair(channels)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(x) if self.is_widening else x
        return self.se_module(F.relu(self.conv3(F.relu(self.conv2(residual))) + residual))


class EncoderLevel(nn.Module):
    """2x max pooling (not on the first level), then a residual block; [N, in_channels, Z, Y, X] to half of Z, Y, X."""

    def __init__(self, in_channels: int, channels: int, num_groups: int, *, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        self.basic_module = ResidualBlock(in_channels, channels, num_groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.basic_module(x if self.is_first else F.max_pool3d(x, 2))


class TransposedUpsample(nn.Module):
    """Transposed convolution of x [N, in_channels, Z, Y, X] to sides 2n - 1, then to `size`; key `conv_transposed`."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv_transposed = nn.ConvTranspose3d(in_channels, channels, 3, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        # The published order: 2n - 1 voxels first, then a nearest resize to the skip's size.
        return F.interpolate(self.conv_transposed(x), size=size, mode="nearest")


class Upsampling(nn.Module):
    """Wrapper that gives the published key level `upsampling.upsample`; [N, in_channels, Z, Y, X] to `size`."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.upsample = TransposedUpsample(in_channels, channels)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.upsample(x, size)


class DecoderLevel(nn.Module):
    """Upsample to the size of the skip [N, channels, Z, Y, X], add the skip, residual block."""

    def __init__(self, in_channels: int, channels: int, num_groups: int) -> None:
        super().__init__()
        self.upsampling = Upsampling(in_channels, channels)
        self.basic_module = ResidualBlock(channels, channels, num_groups)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.basic_module(self.upsampling(x, skip.shape[2:]) + skip)


def depth_profile_feature(m: Tensor, size: int) -> Tensor:
    """Adaptive max pooling of the maximum over channels of m [N, C, Z, Y, X] to (size, 1, 1), flattened: [N, size].

    Pooling to one voxel in y and x is a maximum over each constant-depth slice, so the feature is that
    profile [N, Z] stretched to `size` windows: F adaptive windows need Z numbers only. Differentiable;
    the gradient goes to one voxel per slice.
    """
    profile = m.flatten(3).max(3).values.amax(1)
    return F.adaptive_max_pool1d(profile, size)


@backbone(SigmaUNetConfig, input_kind="volume", reconstructs=True, state_prefix="Conv3DModule")  # published key
class SigmaUNet3D(nn.Module):
    """Normalised slab -> global feature and reconstruction. Source: the released system."""

    def __init__(self, cfg: SigmaUNetConfig) -> None:
        super().__init__()
        self.cfg = cfg
        widths, groups = list(cfg.f_maps), cfg.num_groups
        out_channels = cfg.num_recon_channels + cfg.num_feature_channels
        self.encoders = nn.ModuleList(
            EncoderLevel(before, width, groups, is_first=level == 0)
            for level, (before, width) in enumerate(zip([1, *widths], widths, strict=False))
        )
        self.decoders = nn.ModuleList(
            DecoderLevel(deep, shallow, groups) for deep, shallow in zip(widths[::-1], widths[-2::-1], strict=False)
        )
        self.final_conv = nn.Conv3d(widths[0], out_channels, 1)
        self.conv1d_for_recon = nn.Conv1d(1, 1, 1)  # published key, read by nothing
        self.conv3d_for_recon = nn.Conv3d(1, 1, 1)
        nn.init.ones_(self.conv3d_for_recon.weight)
        nn.init.uniform_(self.conv3d_for_recon.bias, -RECON_BIAS_SPAN, RECON_BIAS_SPAN)
        if cfg.is_channels_last:
            self.to(memory_format=torch.channels_last_3d)

    def _run(self, level: nn.Module, *inputs: Tensor) -> Tensor:
        if self.cfg.is_checkpointed and torch.is_grad_enabled():
            return checkpoint(level, *inputs, use_reentrant=False)
        return level(*inputs)

    def decode(self, x: Tensor) -> Tensor:
        """x [N, 1, Z, Y, X] in [0, 100] -> what `final_conv` reads, [N, C, Z, Y, X]."""
        skips = []
        for level in self.encoders:
            x = self._run(level, x)
            skips.append(x)
        for level, skip in zip(self.decoders, skips[-2::-1], strict=True):
            x = self._run(level, x, skip)
        return x

    def forward(self, x: Tensor) -> Encoding:
        """x [N, 1, Z, Y, X] in [0, 100] -> feature [N, F], reconstruction [N, 1, Z, Y, X], both float32.

        Differentiable. Raises ValueError for another shape or a side below `cfg.smallest_side`.
        """
        _check_input(x, self.cfg)
        if self.cfg.is_channels_last:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.cfg.precision == "bf16"):
            recon_part, feature_part = self._outputs(self.decode(x))
        recon = self.conv3d_for_recon(recon_part.to(x.dtype).amax(1, keepdim=True))
        return Encoding(depth_profile_feature(feature_part.to(x.dtype), self.cfg.final_size_out), recon)

    def _outputs(self, y: Tensor) -> list[Tensor]:
        """`final_conv` of y [N, C, Z, Y, X], the channels of the reconstruction and those of the feature, each alone.

        A gradient often comes from the feature only.
        """
        sizes, weight, bias = (
            [self.cfg.num_recon_channels, self.cfg.num_feature_channels],
            *self.final_conv.parameters(),
        )
        return [F.conv3d(y, w, b) for w, b in zip(weight.split(sizes), bias.split(sizes), strict=True)]


def _check_input(x: Tensor, cfg: SigmaUNetConfig) -> None:
    if x.ndim != 5 or x.shape[1] != 1:
        raise ValueError(f"slabs must be [N, 1, Z, Y, X], got {list(x.shape)}; pass them through the transform first")
    if min(x.shape[2:]) < cfg.smallest_side:
        raise ValueError(
            f"slab sides {list(x.shape[2:])} are below {cfg.smallest_side} voxels, the least for "
            f"{len(cfg.f_maps)} U-Net levels; use a larger slab or fewer f_maps"
        )
