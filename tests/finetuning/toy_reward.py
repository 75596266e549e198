"""A reward that a test can name in a config: the mean density of a small slab, times one weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eg3d.representations.sigma_field import SigmaField


class ToyReward(nn.Module):
    """slab [N, X, Y, Z] -> scores [N]; higher where there is more matter."""

    representation = SigmaField(resolution=8, grid="exact")

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, slab: Tensor) -> Tensor:
        return self.scale * slab.mean(dim=(1, 2, 3))


def load(device: str = "cpu", gain: float = 1.0) -> ToyReward:
    """A loader, as a config names one; `gain` is an argument that only this reward has."""
    return ToyReward(gain).to(device)


def mean_density(slab: Tensor, gain: float = 1.0) -> Tensor:
    """A plain function of a representation [N, X, Y, Z]."""
    return gain * slab.mean(dim=(1, 2, 3))


def of_another_shape(slab: Tensor) -> Tensor:
    """What no reward may give."""
    return slab.mean(dim=(2, 3))
