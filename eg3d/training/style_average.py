"""The mean style code of the mapping network: it moves once a step, however the batch was cut."""

from __future__ import annotations

import torch
from torch import Tensor

from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.training.ranks import Ranks


class StyleAverage:
    """Collects the style codes of a step and moves the generator's mean code towards them; truncation goes there.

    is_per_pass: published, every forward pass moves it on its own, so that smaller micro-batches move it further.
    """

    def __init__(self, generator: TriPlaneGenerator, *, is_per_pass: bool = False) -> None:
        self._generator, self.is_per_pass = generator, is_per_pass
        self._codes: list[Tensor] = []  # [N, w_dim] each, since the mean last moved
        self._before: Tensor | None = None  # [w_dim], the mean when the step began

    def begin(self) -> None:
        """Remember where the mean is, for `undo`."""
        self._before = self._generator.backbone.mapping.get_buffer("w_avg").clone()

    def undo(self) -> None:
        """Put the mean back to where it was at `begin`, and forget the codes since then."""
        self._codes = []
        if self._before is not None:
            self._generator.backbone.mapping.get_buffer("w_avg").copy_(self._before)

    def add(self, ws: Tensor) -> None:
        """Style codes [N, num_ws, w_dim], before any mixing and truncation."""
        self._codes.append(ws[:, 0].detach())

    def move(self, ranks: Ranks) -> None:
        """Move towards the mean over the whole batch, over all processes; without codes nothing moves."""
        parts = self._codes if self.is_per_pass or not self._codes else [torch.cat(self._codes)]
        self._codes = []
        for codes in parts:
            total = ranks.sum(torch.cat([codes.sum(0), codes.new_tensor([len(codes)])]))
            self._generator.backbone.mapping.move_average(total[:-1] / total[-1])
