"""A reward that a test can name in a config: the mean density of a small slab, times one weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eg3d.representations.sigma_field import SigmaFieldConfig


class ToyReward(nn.Module):
    """slab [N, X, Y, Z] -> scores [N]; higher where there is more matter."""

    slab = SigmaFieldConfig(resolution=8, grid="exact")

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, slab: Tensor) -> Tensor:
        return self.scale * slab.mean(dim=(1, 2, 3))


def load(path: str, device: str = "cpu") -> ToyReward:
    """The reward that a config calls `toy`. Raises FileNotFoundError for any other path."""
    if path != "toy":
        raise FileNotFoundError(f"no reward bundle at {path}")
    return ToyReward().to(device)
