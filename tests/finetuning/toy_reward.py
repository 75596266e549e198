"""A reward that a test can name in a config: the mean density of a small slab, times one weight."""

from __future__ import annotations

import numpy as np
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


def moderate(slab: Tensor, wanted: float = 0.0) -> Tensor:
    """A judge that likes one mean density [N] best: it goes along with ToyReward up to there, and no further."""
    return -(slab.mean(dim=(1, 2, 3)) - wanted).abs()


def moderate_one(volume: Tensor, wanted: float = 0.0) -> float:
    """The same of one volume [X, Y, Z], by NumPy: a judge without gradients."""
    return -abs(float(np.mean(volume.numpy())) - wanted)


def nothing_after(slab: Tensor, limit: float = 0.0) -> Tensor:
    """A judge that fails: NaN [N] from some mean density on."""
    mean = slab.mean(dim=(1, 2, 3))
    return torch.where(mean < limit, mean, torch.nan)
