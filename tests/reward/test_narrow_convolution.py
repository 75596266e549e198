"""Two voxels at a time: the same convolution, in values and gradients, wherever it is taken and wherever it is not."""

import pytest
import torch
import torch.nn.functional as F

from reward_model_training.models.backbones.narrow_convolution import narrow_conv3d
from reward_model_training.models.backbones.sigma_unet3d import GatePair

ROUNDING = {"rtol": 1e-4, "atol": 1e-4}  # float32; sums of up to 216 numbers, in another order

SIZES = [(2, 4, 5, 6, 8), (1, 4, 3, 3, 2), (3, 1, 4, 3, 6), (2, 3, 2, 5, 4), (2, 4, 3, 4, 5), (2, 8, 3, 4, 6)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_convolution_and_so_are_its_derivatives(size, dtype):
    channels = size[1]
    x = torch.randn(size, dtype=dtype).contiguous(memory_format=torch.channels_last_3d).requires_grad_(True)
    w = torch.randn(channels, channels, 3, 3, 3, dtype=dtype, requires_grad=True)
    found, expected = narrow_conv3d(x, w), F.conv3d(x, w, padding=1)
    torch.testing.assert_close(found, expected, **ROUNDING)
    upstream = torch.randn_like(expected, memory_format=torch.contiguous_format)
    gradients = []
    for y in (found, expected):
        first = torch.autograd.grad((y.square() * upstream).sum(), (x, w), create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first) / 1000, (x, w))
        gradients.append([*first, *second])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * (1 + float(theirs.detach().abs().amax())))


def test_gates_take_the_larger_product():
    gates = GatePair(4)
    x = torch.randn(2, 4, 3, 4, 5).relu().requires_grad_(True)
    found, expected = gates(x), torch.maximum(x * gates.cSE(x), x * gates.sSE(x))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    upstream = torch.randn_like(found)
    wanted = [torch.autograd.grad(y, (x, *gates.parameters()), upstream) for y in (found, expected)]
    for k, (ours, theirs) in enumerate(zip(*wanted, strict=True)):
        is_seen = x > 0 if k == 0 else torch.ones_like(ours, dtype=torch.bool)  # a ReLU before keeps the rest back
        torch.testing.assert_close(ours[is_seen], theirs[is_seen], rtol=1e-5, atol=1e-5)
