"""Small values that networks hand to their blocks: how many channels, which number format, which clamp."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from eg3d.config_checks import require_one_of

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CONV_CLAMP = 256.0  # published bound of every layer's output in networks with 16-bit blocks
LOWEST_RESOLUTION = 8  # of a 16-bit block


@dataclass(frozen=True)
class Channels:
    """Feature channels of a block: base / resolution, but at most `largest`."""

    base: int = 32768
    largest: int = 512

    def at(self, resolution: int) -> int:
        """Channels of the block of a resolution (pixels)."""
        return min(self.base // resolution, self.largest)


@dataclass(frozen=True)
class BlockPrecision:
    """How the layers of one block compute."""

    is_low: bool = False  # whether in number format `kind`; else in that of the weights
    kind: str = "fp32"  # fp32 | bf16 | fp16
    clamp: float | None = None  # bound of every layer's output; None = no bound

    def dtype(self, device: torch.device, full: torch.dtype) -> torch.dtype:
        """Number format of the block's features; `full` is that of its weights.

        Published models run fp16 blocks in float32 off CUDA (their clamps stay); bf16 is honoured everywhere.
        """
        low = PRECISIONS[self.kind] if self.is_low else None
        if low is None or (low is torch.float16 and device.type != "cuda"):
            return full
        return low


@dataclass(frozen=True)
class Precision:
    """Which blocks of a network compute in 16 bits. If any do, all its layers are clamped.

    Source: ADA (2020), appendix D, mixed-precision training. Raises ValueError for an unknown format.
    """

    num_resolutions: int = 0  # the highest ones in number format `kind`, none below 8; 0 = neither formats nor clamps
    kind: str = "fp32"  # fp32 | bf16 | fp16
    clamp: float = CONV_CLAMP

    def __post_init__(self) -> None:
        require_one_of("precision", self.kind, PRECISIONS)

    def block(self, resolution: int, top_resolution: int) -> BlockPrecision:
        """Of the block of one resolution in a network up to `top_resolution` (pixels)."""
        lowest = max(2 ** (int(math.log2(top_resolution)) + 1 - self.num_resolutions), LOWEST_RESOLUTION)
        return self._block(is_low=resolution >= lowest)

    def every_block(self) -> BlockPrecision:
        """Of networks that know all or nothing: any number above 0 stands for all blocks."""
        return self._block(is_low=self.num_resolutions > 0)

    def _block(self, *, is_low: bool) -> BlockPrecision:
        return BlockPrecision(is_low, self.kind, self.clamp if self.num_resolutions > 0 else None)
