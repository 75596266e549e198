"""Phases of a training step: which network moves, by which losses, how often.

A phase runs its terms over micro-batches, sums their gradients (each term's mean over the whole batch), cleans them and
takes one optimiser step. Terms of one phase share the step; their gradient norms are logged one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from eg3d.data import Batch

NAN_GRADIENT, INFINITE_GRADIENT = 0.0, 1e5  # published clean-up of gradients before a step


@dataclass(frozen=True)
class Draw:
    """What one phase works on: its own latents and cameras, and the iteration's real images."""

    z: Tensor  # [N, z_dim]
    c: Tensor  # [N, 25]
    real: Batch

    def split(self, size: int) -> list[Draw]:
        """Micro-batches of `size` samples."""
        starts = range(0, len(self.z), size)
        return [self._part(slice(start, start + size)) for start in starts]

    def _part(self, part: slice) -> Draw:
        return Draw(self.z[part], self.c[part], self.real.part(part))


@dataclass
class Term:
    """One loss: `loss(draw)` returns the micro-batch mean, already weighted."""

    name: str
    loss: Callable[[Draw], Tensor]
    micro_batch: int = 0  # 0 = the phase's


@dataclass
class Phase:
    """One optimiser step on `network`, every `interval` iterations, while first_image <= images shown < last_image."""

    name: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    terms: list[Term]
    interval: int = 1
    first_image: float = 0
    last_image: float = float("inf")
    lr: Callable[[int], float] | None = None  # of images shown; None = constant
    norms: dict[str, float] = field(default_factory=dict)  # gradient norm of each term at the last step

    def is_due(self, iteration: int, num_images: int) -> bool:
        return self.first_image <= num_images < self.last_image and iteration % self.interval == 0

    def step(self, draw: Draw, *, micro_batch: int, num_images: int) -> None:
        """Accumulate all terms and step; `self.norms` then holds each term's gradient norm."""
        parameters = list(self.network.parameters())
        self.network.requires_grad_(True)
        total: list[Tensor | None] = [None] * len(parameters)
        for term in self.terms:
            self.optimizer.zero_grad(set_to_none=True)
            for part in draw.split(term.micro_batch or micro_batch):
                (term.loss(part) * (len(part.z) / len(draw.z))).backward()
            gradients = [clean_gradient(p.grad) for p in parameters]
            self.norms[term.name] = gradient_norm(gradients)
            total = [_sum(a, b) for a, b in zip(total, gradients, strict=True)]
        self.network.requires_grad_(False)
        for parameter, gradient in zip(parameters, total, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups if self.lr else ():
            group["lr"] = self.lr(num_images) if self.lr else group["lr"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def clean_gradient(gradient: Tensor | None) -> Tensor | None:
    """NaN to 0 and infinities to +-1e5, as published; None stays None (the parameter had no part)."""
    if gradient is None:
        return None
    return torch.nan_to_num(gradient, nan=NAN_GRADIENT, posinf=INFINITE_GRADIENT, neginf=-INFINITE_GRADIENT)


def gradient_norm(gradients: list[Tensor | None]) -> float:
    """L2 norm over all tensors."""
    squares = [float(g.square().sum()) for g in gradients if g is not None]
    return sum(squares) ** 0.5


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
