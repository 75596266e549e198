"""What the fused operations on tri-planes read: planes, the decoder's weights, the box and the axes of the planes.

Shape letters: N batch, C plane channels, S plane side, H hidden width of the decoder, F feature channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from eg3d.rendering.planes import PLANE_AXES

NATIVE_TYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class TriPlane:
    """Tri-planes with their decoder: raw density and features anywhere in space follow from these values alone.

    The decoder is a linear layer, softplus, a linear layer, with all gains applied. Source: EG3D (2022), section 3.
    """

    planes: Tensor  # [N, 3, C, S, S]
    w1: Tensor  # [H, C]
    b1: Tensor  # [H]
    w2: Tensor  # [1 + F, H], raw density first
    b2: Tensor  # [1 + F]
    box_warp: float = 1.0  # world units, side of the cube around the origin that the planes cover
    plane_axes: str = "xy_xz_zx"  # see eg3d/rendering/planes.py

    def __len__(self) -> int:
        return len(self.planes)

    def __getitem__(self, rows: slice | Tensor | list[int]) -> Self:
        """Some of the samples, in the order of `rows`."""
        return replace(self, planes=self.planes[rows])

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """planes [N, 3, C, S, S], w1 [H, C], b1 [H], w2 [1 + F, H], b2 [1 + F]: the inputs that gradients flow to."""
        return self.planes, self.w1, self.b1, self.w2, self.b2

    @property
    def has_corrected_axes(self) -> bool:
        """Whether one plane sees (y, z), which the published planes do not."""
        return self.plane_axes == "xy_xz_zy"

    def with_tensors(self, planes: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Self:
        """The same box and axes around other tensors, of the shapes of `tensors`: [N, 3, C, S, S] and so on."""
        return replace(self, planes=planes, w1=w1, b1=b1, w2=w2, b2=b2)

    def in_one_type(self) -> Self:
        """All tensors in the type of the planes, if that is float32 or float64, else in float32."""
        kind = self.planes.dtype if self.planes.dtype in NATIVE_TYPES else torch.float32
        return self.with_tensors(*(tensor.to(kind) for tensor in self.tensors))

    def check(self) -> None:
        """ValueError, naming what does not fit, unless shapes, devices and axes go together."""
        planes, w1, b1, w2, b2 = self.tensors
        if planes.ndim != 5 or planes.shape[1] != 3 or planes.shape[3] != planes.shape[4]:
            raise ValueError(
                f"planes must be [N, 3, C, S, S], got {list(planes.shape)}; pass the field that G.field(ws) gives"
            )
        if self.plane_axes not in PLANE_AXES:
            raise ValueError(f"plane_axes: {self.plane_axes!r} is not one of {', '.join(PLANE_AXES)}")
        if w1.ndim != 2 or w1.shape[1] != planes.shape[2]:
            raise ValueError(f"w1 must be [H, {planes.shape[2]}] for these planes, got {list(w1.shape)}")
        outputs = w2.shape[:1]
        for name, weight, shape in (("b1", b1, w1.shape[:1]), ("w2", w2, (*outputs, len(w1))), ("b2", b2, outputs)):
            if weight.shape != shape:
                raise ValueError(f"{name} must be {list(shape)} to go with w1, got {list(weight.shape)}")
        for name, weight in (("w1", w1), ("b1", b1), ("w2", w2), ("b2", b2)):
            if weight.device != planes.device:
                raise ValueError(f"{name} is on {weight.device}, planes on {planes.device}; move one of them")


def dense_planes(planes: Tensor) -> Tensor:
    """The planes [N, 3, C, S, S] themselves if their memory has no gaps and no repeats, in any order; else a copy."""
    strides = sorted((stride, size) for stride, size in zip(planes.stride(), planes.shape) if size > 1)
    expected = 1
    for stride, size in strides:
        if stride != expected:
            return planes.contiguous()
        expected *= size
    return planes
