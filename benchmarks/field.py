"""Planes and a decoder of the size of published faces, with random values."""

from __future__ import annotations

import torch
from torch import Tensor

from eg3d.networks.decoder import Decoder


def random_planes(device: str, *, channels: int = 32, side: int = 256) -> Tensor:
    """planes [1, 3, C, S, S], standard normal, wanting gradients."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, channels, side, side, generator=rng).to(device).requires_grad_()


def random_decoder(device: str) -> Decoder:
    """32 channels, 64 hidden units, 32 features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Decoder(32, 64, 32).to(device)
