"""What the native operations ask of their arguments, with messages that name the argument."""

from __future__ import annotations

from torch import Tensor

from eg3d.rendering.planes import PLANE_AXES


def check_field(planes: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, plane_axes: str) -> None:
    """ValueError unless planes [N, 3, C, S, S] and weights w1 [H, C], b1 [H], w2 [H], b2 [] fit.

    With features w2 is [1 + F, H] and b2 [1 + F].
    """
    if planes.ndim != 5 or planes.shape[1] != 3 or planes.shape[3] != planes.shape[4]:
        raise ValueError(
            f"planes must be [N, 3, C, S, S], got {list(planes.shape)}; pass the output of G.planes(ws) as it is"
        )
    if plane_axes not in PLANE_AXES:
        raise ValueError(f"plane_axes: {plane_axes!r} is not one of {', '.join(PLANE_AXES)}")
    if w1.ndim != 2 or w1.shape[1] != planes.shape[2]:
        raise ValueError(f"w1 must be [H, {planes.shape[2]}] for these planes, got {list(w1.shape)}")
    outputs = w2.shape[:-1]
    for name, weight, shape in (("b1", b1, w1.shape[:1]), ("w2", w2, (*outputs, len(w1))), ("b2", b2, outputs)):
        if weight.shape != shape:
            raise ValueError(f"{name} must be {list(shape)} to go with w1, got {list(weight.shape)}")
    for name, weight in (("w1", w1), ("b1", b1), ("w2", w2), ("b2", b2)):
        if weight.device != planes.device:
            raise ValueError(f"{name} is on {weight.device}, planes on {planes.device}; move one of them")


def dense_planes(planes: Tensor) -> Tensor:
    """The planes themselves if their memory has no gaps and no repeats, in any order of axes; else a copy."""
    strides = sorted((stride, size) for stride, size in zip(planes.stride(), planes.shape) if size > 1)
    expected = 1
    for stride, size in strides:
        if stride != expected:
            return planes.contiguous()
        expected *= size
    return planes
