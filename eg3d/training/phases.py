"""Phases of a training step: which network moves, by which losses, how often.

A phase runs its terms over micro-batches, sums their gradients (each term's mean over the whole batch, over all
processes) and takes one optimiser step. Terms of one phase share the step; their gradient norms are logged one by one.
A step whose loss or gradient is not finite is skipped, where the published code puts 0 for NaN and goes on.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from eg3d.data import Batch, label_std
from eg3d.random_streams import SampleStreams, derived_seed
from eg3d.training.ranks import Ranks
from eg3d.training.shares import whole_groups

MOST_SKIPPED = 10  # steps of a phase in a row, after which the run ends
log = logging.getLogger(__name__)
ALONE = Ranks(torch.device("cpu"))


@dataclass(frozen=True)
class Draw:
    """What one phase works on: its own latents and cameras, the iteration's real images, and their random streams."""

    z: Tensor  # [N, z_dim]
    c: Tensor  # [N, 25]
    other: Tensor  # [N, 25] another sample's camera, for swapped conditioning
    c_std: Tensor  # [25] deviation of the cameras over the whole batch
    coin: Tensor  # [N, 1] one uniform number for the whole batch
    real: Batch
    rng: SampleStreams
    group: int = 1  # samples of a minibatch-std group, which micro-batches must not cut

    def split(self, size: int) -> list[Draw]:
        """Micro-batches of `size` samples, of whole groups where the size allows it.

        Samples alone are conditioned on their own camera: the published fine-tuning, with its micro-batches of one,
        has no other camera to swap to.
        """
        num = len(self.z)
        if num % size == 0 and size % self.group == 0:
            parts = [self.rows(rows) for rows in whole_groups(num, num // size, self.group)]
        else:
            parts = [self.rows(list(range(k, min(k + size, num)))) for k in range(0, num, size)]
        return [dataclasses.replace(part, other=part.c) for part in parts] if size == 1 else parts

    def rows(self, rows: list[int]) -> Draw:
        """Some of the samples."""
        z, c, other, coin = (tensor[rows] for tensor in (self.z, self.c, self.other, self.coin))
        return dataclasses.replace(
            self, z=z, c=c, other=other, coin=coin, real=self.real.rows(rows), rng=self.rng.rows(rows)
        )


def draw_samples(
    labels: Tensor,
    real: Batch,
    *,
    z_dim: int,
    batch: int,
    key: tuple[int, ...],
    device: torch.device | None = None,
    rows: list[int] | None = None,
    group: int = 1,
) -> Draw:
    """Latents and cameras of a batch, the latter from `labels` [D, 25]; everything random follows from `key`.

    `rows` are the samples of the batch that this process works on, and those that `real` holds; None = all of them.
    """
    device = real.image.device if device is None else device
    rows = list(range(batch)) if rows is None else rows
    rng = torch.Generator().manual_seed(derived_seed(*key, 0))
    z = torch.randn(batch, z_dim, generator=rng)
    c = labels[torch.randint(len(labels), (batch,), generator=rng)]
    coin = torch.rand(1, 1, generator=rng).expand(batch, 1)
    parts = [tensor[rows].to(device) for tensor in (z, c, c.roll(1, dims=0), coin)]
    streams = SampleStreams.seeded([derived_seed(*key, 1 + row) for row in rows], device)
    return Draw(parts[0], parts[1], parts[2], label_std(c).to(device), parts[3], real, streams, group)


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
    after: list[Callable[[Ranks], None]] = field(default_factory=list)  # called at the end of every step
    num_skipped: int = 0  # steps in a row that were not finite

    def is_due(self, iteration: int, num_images: int) -> bool:
        return self.first_image <= num_images < self.last_image and iteration % self.interval == 0

    def step(self, draw: Draw, *, micro_batch: int, num_images: int, ranks: Ranks = ALONE) -> None:
        """Accumulate all terms and step; `self.norms` then holds each term's gradient norm.

        A step that is not finite leaves network and optimiser as they were. Raises RuntimeError after MOST_SKIPPED of
        them in a row.
        """
        parameters = list(self.network.parameters())
        self.network.requires_grad_(True)
        total: list[Tensor | None] = [None] * len(parameters)
        faults = []
        for term in self.terms:
            self.optimizer.zero_grad(set_to_none=True)
            losses = []
            for part in draw.split(term.micro_batch or micro_batch):
                loss = term.loss(part) * (len(part.z) / len(draw.z))
                loss.backward()
                losses.append(loss.detach().to(parameters[0].dtype))
            *gradients, mean = ranks.mean([*(p.grad for p in parameters), torch.stack(losses).sum()])
            self.norms[term.name] = gradient_norm(gradients)
            faults += _faults(term.name, mean, self.norms[term.name])
            total = [_sum(a, b) for a, b in zip(total, gradients, strict=True)]
        self.network.requires_grad_(False)
        for parameter, gradient in zip(parameters, total, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups if self.lr else ():
            group["lr"] = self.lr(num_images) if self.lr else group["lr"]
        if not faults:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for finish in self.after:
            finish(ranks)
        self._count(faults, num_images)

    def _count(self, faults: list[str], num_images: int) -> None:
        """Count a step that was skipped, and say so; end the run when there are too many."""
        self.num_skipped = self.num_skipped + 1 if faults else 0
        if not faults:
            return
        said = f"{self.name} at {num_images} images: {'; '.join(faults)}"
        if self.num_skipped >= MOST_SKIPPED:
            raise RuntimeError(f"{said}: not finite {MOST_SKIPPED} times in a row; lower the learning rates and resume")
        log.warning("%s: not finite, the step is skipped", said)


def optimizers_of(phases: Iterable[Phase]) -> dict[str, torch.optim.Optimizer]:
    """The optimisers, each by the name of its first phase; phases may share one."""
    named: dict[str, torch.optim.Optimizer] = {}
    for phase in phases:
        if not any(phase.optimizer is known for known in named.values()):
            named[phase.name] = phase.optimizer
    return named


def gradient_norm(gradients: list[Tensor | None]) -> float:
    """L2 norm over all tensors, of any shapes."""
    squares = [float(g.square().sum()) for g in gradients if g is not None]
    return sum(squares) ** 0.5


def _faults(term: str, loss: Tensor | None, norm: float) -> list[str]:
    """A line when the loss of a term or the norm of its gradient is not finite."""
    value = float(loss) if loss is not None else 0.0
    if math.isfinite(value) and math.isfinite(norm):
        return []
    return [f"{term}: loss {value:.3g}, norm of its gradient {norm:.3g}"]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
