"""Bias-activation, fully connected and convolution layers against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from eg3d.networks.layers import Conv2dLayer, FullyConnected, bias_act, second_moment_normalise
from eg3d.networks.resampling import conv2d_down, make_resample_filter

FILTER = make_resample_filter().double()


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_bias_act_order_is_bias_activation_gain_clamp():
    x, b = torch.tensor([[-2.0, 1.0, 40.0]]), torch.tensor([1.0, 1.0, 1.0])
    y = bias_act(x, b, act="lrelu", gain=10.0, clamp=15.0)
    torch.testing.assert_close(y, torch.tensor([[-2.0, 15.0, 15.0]]))
    assert bias_act(x, act="lrelu")[0, 1] == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bias_act_rounds_16_bit_once(dtype):
    x, b = random(4, 64).to(dtype), random(64, seed=1).float()
    exact = bias_act(x.float(), b, act="lrelu")
    assert torch.equal(bias_act(x, b, act="lrelu"), exact.to(dtype))


@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("clamp", [None, 0.7])
def test_folded_gain_equals_separate_steps(down, clamp):
    layer = Conv2dLayer(3, 5, 3, activation="lrelu", down=down, conv_clamp=clamp).double()
    layer.bias.data = random(5)
    x, gain = random(2, 3, 8, 8), math.sqrt(0.5)
    w = layer.weight / math.sqrt(27)
    y = conv2d_down(x, w, FILTER) if down == 2 else F.conv2d(x, w, padding=1)
    expected = bias_act(y, layer.bias, act="lrelu", gain=math.sqrt(2) * gain, clamp=clamp and clamp * gain)
    torch.testing.assert_close(layer(x, gain=gain), expected)


def test_fully_connected_gains():
    fc = FullyConnected(4, 3, lr_multiplier=0.01, activation="lrelu", bias_init=2.0).double()
    x = random(2, 4)
    expected = F.leaky_relu(x @ (fc.weight * 0.005).t() + 0.02, 0.2) * math.sqrt(2)
    torch.testing.assert_close(fc(x), expected)
    assert fc.weight.std() > 10  # drawn with deviation 1 / lr_multiplier
    with pytest.raises(ValueError, match="activation: 'gelu' is not one of linear, lrelu"):
        FullyConnected(4, 3, activation="gelu")


def test_second_moment_normalise():
    x = second_moment_normalise(random(3, 7))
    torch.testing.assert_close(x.square().mean(1), torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)
    assert torch.equal(second_moment_normalise(torch.zeros(1, 4)), torch.zeros(1, 4))
