"""Bias-activation and resampling stay plain PyTorch: one graph for torch.compile, and twice differentiable."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eg3d.networks.layers import bias_act
from eg3d.networks.resampling import downsample2d, filter2d, make_resample_filter, upsample2d

TAPS = make_resample_filter().double()


def lrelu(x: Tensor, b: Tensor) -> Tensor:
    return bias_act(x, b, act="lrelu", clamp=1.5)


def up(x: Tensor, b: Tensor) -> Tensor:
    return upsample2d(x, TAPS) + b[:, None, None]


def down(x: Tensor, b: Tensor) -> Tensor:
    return downsample2d(x, TAPS) + b[:, None, None]


def blur(x: Tensor, b: Tensor) -> Tensor:
    return filter2d(x, TAPS, padding=1) * b[:, None, None]


@pytest.mark.parametrize("layer", [lrelu, up, down, blur])
def test_one_graph_and_two_derivatives(layer: Callable[[Tensor, Tensor], Tensor]) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, b))
    assert torch.autograd.gradgradcheck(layer, (x, b))
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)  # fullgraph: a graph break is an error
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, b), layer(x, b))
