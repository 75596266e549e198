"""Uniform numbers that are a function of a seed and a position alone, the same on every device.

Source: Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
JITTER, IMPORTANCE = 0, 1  # streams


@dataclass(frozen=True)
class CounterDraws:
    """The draws of one render call. Renders with the same seed draw the same; take a new seed for the next call."""

    seed: int  # 0 <= seed < 2^63

    def uniform(self, stream: int, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        """float32 in [0, 1), multiples of 2^-24; element i (in memory order) depends on seed, stream and i."""
        count = 1
        for size in shape:
            count *= size
        counter = torch.arange((count + 3) // 4, dtype=torch.int64, device=device)
        words = torch.stack(_philox(counter, stream, self.seed), dim=-1).reshape(-1)[:count]
        return ((words >> 8).float() * 2.0**-24).reshape(shape)


def _philox(counter: Tensor, stream: int, seed: int) -> list[Tensor]:
    """Four tensors of 32-bit words, held in int64."""
    c0, c1 = counter & _WORD, (counter >> 32) & _WORD
    c2, c3 = torch.full_like(counter, stream & _WORD), torch.full_like(counter, stream >> 32)
    k0, k1 = seed & _WORD, seed >> 32
    for _ in range(10):
        (a_high, a_low), (b_high, b_low) = _product(c0, _MULTIPLIERS[0]), _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = b_high ^ c1 ^ k0, b_low, a_high ^ c3 ^ k1, a_low
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return [c0, c1, c2, c3]


def _product(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low word of a 64-bit product, in halves so that nothing overflows int64."""
    low = word * (multiplier & 0xFFFF)
    high = word * (multiplier >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)
