"""Planes and a decoder of the size of published faces, with random values."""

from __future__ import annotations

import torch
from torch import Tensor

from eg3d.networks.decoder import Decoder
from eg3d.ops.triplane import TriPlane


def random_planes(device: str, *, channels: int = 32, side: int = 256) -> Tensor:
    """planes [1, 3, C, S, S], standard normal, wanting gradients."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, channels, side, side, generator=rng).to(device).requires_grad_()


def with_tensors(field: TriPlane, dtype: torch.dtype) -> tuple[TriPlane, list[Tensor]]:
    """The field in another type, and its tensors (planes [N, 3, C, S, S] first), wanting gradients."""
    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in field.tensors]
    return field.with_tensors(*inputs), inputs


def random_field(device: str, *, has_features: bool = True) -> TriPlane:
    """Random planes and decoder; without features the decoder has its density output alone."""
    w1, b1, w2, b2 = random_decoder(device).weights()
    return TriPlane(random_planes(device), w1, b1, *((w2, b2) if has_features else (w2[:1], b2[:1])))


def random_decoder(device: str) -> Decoder:
    """32 channels, 64 hidden units, 32 features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Decoder(32, 64, 32).to(device)
