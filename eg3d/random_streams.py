"""Random numbers that belong to a sample: what it draws depends neither on its neighbours nor on how a batch is cut.

Networks and renderer draw through `normal` and `uniform`. A `torch.Generator` fills the whole tensor, as published; a
`SampleStreams` fills each row from the row's own stream, so that micro-batches and processes change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class SampleStreams:
    """One random stream a sample, for tensors [N, ...]."""

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self.generators, self.device = list(generators), device

    @classmethod
    def seeded(cls, seeds: Sequence[int], device: torch.device | str = "cpu") -> SampleStreams:
        """Fresh streams, one from each seed."""
        return cls([torch.Generator(device).manual_seed(seed) for seed in seeds], torch.device(device))

    def __len__(self) -> int:
        return len(self.generators)

    def rows(self, rows: Sequence[int]) -> SampleStreams:
        """The streams of some samples; they are shared, so drawing here moves them there."""
        return SampleStreams([self.generators[row] for row in rows], self.device)


Rng = torch.Generator | SampleStreams


def normal(shape: Sequence[int], rng: Rng) -> Tensor:
    """Standard normal draws of any shape, on the device of `rng`; with SampleStreams [N, ...] for N streams."""
    return _draw(torch.randn, shape, rng)


def uniform(shape: Sequence[int], rng: Rng) -> Tensor:
    """Uniform draws in [0, 1) of any shape, on the device of `rng`; with SampleStreams [N, ...] for N streams."""
    return _draw(torch.rand, shape, rng)


def _draw(make, shape: Sequence[int], rng: Rng) -> Tensor:
    if isinstance(rng, torch.Generator):
        return make(tuple(shape), generator=rng, device=rng.device)
    if shape[0] != len(rng):
        raise ValueError(f"{len(rng)} streams cannot fill {shape[0]} rows; pass the streams of these samples")
    return torch.stack([make(tuple(shape[1:]), generator=stream, device=rng.device) for stream in rng.generators])


def derived_seed(*key: int) -> int:
    """A seed from a key of non-negative whole numbers; other keys give unrelated seeds. 32 bits, all a CPU uses."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])
