"""Phases of a training step: which network moves, by which losses, how often.

A phase runs its terms over micro-batches, sums their gradients (each term's mean over the whole batch, over all
processes) and takes one optimiser step. Terms of one phase share the step; their gradient norms are logged one by one.
Losses and norms are read once, before the step: with one that is not finite nothing moves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from eg3d.data import Batch, label_std
from eg3d.random_streams import SampleStreams, derived_seed
from eg3d.training.nonfinite import clean_gradient, fault_of, gradient_norm
from eg3d.training.ranks import Ranks
from eg3d.training.shares import whole_groups
from eg3d.training.style_average import StyleAverage

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


class Watch(Protocol):
    """Values behind a term that must be finite whatever its loss makes of them; a process alone has any."""

    def take(self) -> Tensor:
        """Values [K] since the last call, where they were made."""

    def check(self, values: list[float]) -> None:
        """Raise ValueError, which ends the run, when the values of a step cannot be trained on."""


@dataclass
class Term:
    """One loss: `loss(draw)` returns the micro-batch mean, already weighted; None = it has no part in the step."""

    name: str
    loss: Callable[[Draw], Tensor | None]
    micro_batch: int = 0  # 0 = the phase's
    watch: Watch | None = None


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
    average: StyleAverage | None = None  # the mean style code that the terms move, which moves with the step or not
    after: list[Callable[[Mapping[str, float]], None]] = field(default_factory=list)  # called with the norms of a step
    norms: dict[str, float] = field(default_factory=dict)  # gradient norm of each term at the last step
    faults: list[str] = field(default_factory=list)  # what was not finite at the last step, one text a term

    def is_due(self, iteration: int, num_images: int) -> bool:
        return self.first_image <= num_images < self.last_image and iteration % self.interval == 0

    def step(
        self, draw: Draw, *, micro_batch: int, num_images: int, ranks: Ranks = ALONE, nonfinite: str = "skip"
    ) -> None:
        """Accumulate all terms and step; `self.norms` then holds each term's gradient norm.

        When a loss or gradient is not finite, `self.faults` says which, and with nonfinite="skip" weights, optimiser
        and mean style code stay as they were; "published" replaces the numbers and steps. Raises ValueError when a
        watch does.
        """
        if self.average is not None:
            self.average.begin()
        total, seen = self._gradients(draw, micro_batch, ranks, is_cleaned=nonfinite == "published")
        self._read(seen)
        if self.faults and nonfinite == "skip":
            self.optimizer.zero_grad(set_to_none=True)
            if self.average is not None:
                self.average.undo()
            return
        for parameter, gradient in zip(self.network.parameters(), total, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups if self.lr else ():
            group["lr"] = self.lr(num_images) if self.lr else group["lr"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.move(ranks)
        for call in self.after:
            call(self.norms)

    def _gradients(
        self, draw: Draw, micro_batch: int, ranks: Ranks, *, is_cleaned: bool
    ) -> tuple[list[Tensor | None], dict[str, Tensor]]:
        """Gradients of all terms together, and of each its loss, the norm of its gradients, and that after cleaning."""
        parameters, seen = list(self.network.parameters()), {}
        total: list[Tensor | None] = [None] * len(parameters)
        self.network.requires_grad_(True)
        for term in self.terms:
            self.optimizer.zero_grad(set_to_none=True)
            losses = [self._backward(term, part, draw) for part in draw.split(term.micro_batch or micro_batch)]
            if losses[0] is None:
                continue
            loss = torch.stack([value for value in losses if value is not None]).sum()
            *gradients, mean = ranks.mean([*(p.grad for p in parameters), loss])
            norm = gradient_norm(gradients)
            values = [loss if mean is None else mean, norm.to(loss), norm.to(loss)]
            if is_cleaned:
                gradients = [clean_gradient(gradient) for gradient in gradients]
                values[2] = gradient_norm(gradients).to(loss)
            seen[term.name] = torch.stack(values)
            total = [_sum(a, b) for a, b in zip(total, gradients, strict=True)]
        self.network.requires_grad_(False)
        return total, seen

    def _backward(self, term: Term, part: Draw, draw: Draw) -> Tensor | None:
        """Add the gradients of a micro-batch; returns its share of the loss."""
        loss = term.loss(part)
        if loss is None:
            return None
        loss = loss * (len(part.z) / len(draw.z))
        loss.backward()
        return loss.detach()

    def _read(self, seen: dict[str, Tensor]) -> None:
        """Fetch losses, norms and what is watched in one go; fills `norms` and `faults`."""
        watches = [term.watch for term in self.terms if term.watch is not None]
        watched = [watch.take() for watch in watches]
        parts = [*seen.values(), *watched]
        values = torch.cat(parts).tolist() if parts else []
        self.norms, self.faults = {}, []
        for number, name in enumerate(seen):
            loss, norm, cleaned = values[3 * number : 3 * number + 3]
            self.norms[name] = cleaned
            self.faults += [fault] if (fault := fault_of(name, loss, norm)) else []
        first = 3 * len(seen)
        for watch, tensor in zip(watches, watched, strict=True):
            watch.check(values[first : first + len(tensor)])
            first += len(tensor)


def optimizers_of(phases: Iterable[Phase]) -> dict[str, torch.optim.Optimizer]:
    """The optimisers, each by the name of its first phase; phases may share one."""
    named: dict[str, torch.optim.Optimizer] = {}
    for phase in phases:
        if not any(phase.optimizer is known for known in named.values()):
            named[phase.name] = phase.optimizer
    return named


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
