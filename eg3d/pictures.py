"""Pictures as files: values to grey levels, depth as grey, many images side by side in one PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from eg3d.safe_write import atomic_path


def to_uint8(images: Tensor) -> Tensor:
    """Colours of any shape in -1 to 1 to uint8 by clamp(127.5 x + 128), truncated, as EG3D writes its images."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def depth_to_rgb(depth: Tensor, *, limits: tuple[float, float] | None = None) -> Tensor:
    """Depth [N, 1, R, R] as grey [N, 3, R, R] in [-1, 1], near = bright.

    limits: distances that become white and black, so that pictures can be compared; None stretches each by itself.
    """
    if limits is not None:
        grey = 1 - 2 * ((depth - limits[0]) / (limits[1] - limits[0])).clamp(0, 1)
        return grey.expand(-1, 3, -1, -1)
    low, high = depth.amin(dim=(1, 2, 3), keepdim=True), depth.amax(dim=(1, 2, 3), keepdim=True)
    grey = 1 - 2 * (depth - low) / (high - low).clamp_min(1e-8)
    return grey.expand(-1, 3, -1, -1)


def tile(images: Tensor, columns: int) -> np.ndarray:
    """[N, 3, H, W] in [-1, 1] to one uint8 picture [rows * H, columns * W, 3]; missing tiles are black."""
    num, channels, height, width = images.shape
    rows = -(-num // columns)
    canvas = torch.zeros(rows * columns, channels, height, width, dtype=torch.uint8)
    canvas[:num] = to_uint8(images.cpu())
    canvas = canvas.reshape(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    return canvas.reshape(rows * height, columns * width, channels).numpy()


def save_grid(images: Tensor, path: str | Path, *, columns: int) -> None:
    """Write [N, 3, H, W] in [-1, 1] as one PNG."""
    with atomic_path(path) as temporary:
        PIL.Image.fromarray(tile(images, columns)).save(temporary)
