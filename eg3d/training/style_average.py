"""The mean style code of the mapping network: it moves once a step, however the batch was cut."""

from __future__ import annotations

import torch
from torch import Tensor

from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.training.ranks import Ranks


class StyleAverage:
    """Collects the style codes of a step and moves the generator's mean code towards them; truncation goes there."""

    def __init__(self, generator: TriPlaneGenerator) -> None:
        self._generator = generator
        self._codes: list[Tensor] = []  # [N, w_dim] each, since the mean last moved

    def add(self, ws: Tensor) -> None:
        """Style codes [N, num_ws, w_dim], before any mixing and truncation."""
        self._codes.append(ws[:, 0].detach())

    def move(self, ranks: Ranks) -> None:
        """Move towards the mean over the whole batch, over all processes."""
        codes = torch.cat(self._codes)
        self._codes = []
        total = ranks.sum(torch.cat([codes.sum(0), codes.new_tensor([len(codes)])]))
        self._generator.backbone.mapping.move_average(total[:-1] / total[-1])
