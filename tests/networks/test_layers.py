"""Layers against definitions written out with explicit loops, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from eg3d.networks.layers import (
    Conv2dLayer,
    FullyConnected,
    bias_act,
    compute_dtype,
    conv2d_resample,
    demodulation,
    downsample2d,
    filter2d,
    is_low_precision,
    make_resample_filter,
    modulated_conv2d,
    second_moment_normalise,
    upsample2d,
    use_fused,
)

FILTER = make_resample_filter().double()


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def naive_fir(x, f, *, up=1, down=1, pad=(0, 0), gain=1.0):
    """Zeros between pixels, zero padding (same on both axes), true convolution, every down-th pixel from 0."""
    n, c, h, w = x.shape
    z = x.new_zeros(n, c, h * up, w * up)
    z[:, :, ::up, ::up] = x
    z = F.pad(z, [*pad, *pad])
    taps = f.shape[0]
    out = x.new_zeros(n, c, z.shape[2] - taps + 1, z.shape[3] - taps + 1)
    for a in range(taps):
        for b in range(taps):
            rows, columns = taps - 1 - a, taps - 1 - b
            out += f[a, b] * gain * z[:, :, rows : rows + out.shape[2], columns : columns + out.shape[3]]
    return out[:, :, ::down, ::down]


def naive_correlation(x, w, *, pad=0, stride=1):
    k = w.shape[-1]
    x = F.pad(x, [pad] * 4)
    h, v = x.shape[2] - k + 1, x.shape[3] - k + 1
    out = x.new_zeros(x.shape[0], w.shape[0], h, v)
    for a in range(k):
        for b in range(k):
            out += torch.einsum("nihw,oi->nohw", x[:, :, a : a + h, b : b + v], w[:, :, a, b])
    return out[:, :, ::stride, ::stride]


def naive_transposed(x, w):
    n, _, h, v = x.shape
    out = x.new_zeros(n, w.shape[0], 2 * h + 1, 2 * v + 1)
    for a in range(3):
        for b in range(3):
            part = torch.einsum("nihw,oi->nohw", x, w[:, :, a, b])
            out[:, :, a : a + 2 * h : 2, b : b + 2 * v : 2] += part
    return out


def test_resample_filter_taps():
    f = make_resample_filter() * 64
    assert torch.equal(f, torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])))


@pytest.mark.parametrize("size", [(4, 4), (6, 10), (2, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_resampling_equals_definition(size, layout):
    x = random(2, 3, *size).contiguous(memory_format=layout)
    pairs = [
        (upsample2d(x, FILTER), naive_fir(x, FILTER, up=2, pad=(2, 1), gain=4)),
        (downsample2d(x, FILTER), naive_fir(x, FILTER, down=2, pad=(1, 1))),
        (filter2d(x, FILTER), naive_fir(x, FILTER, pad=(2, 1))),
        (filter2d(x, FILTER, padding=2), naive_fir(x, FILTER, pad=(2, 2))),
    ]
    for ours, naive in pairs:
        assert ours.shape == naive.shape
        torch.testing.assert_close(ours, naive, rtol=0, atol=1e-12)


@pytest.mark.parametrize("taps", [1, 3, 5, 8])
def test_separable_filter_equals_its_outer_product(taps):
    k = torch.linspace(1, 2, taps, dtype=torch.float64)
    k = k + k.flip(0)
    x = random(1, 2, 9, 9)
    expected = naive_fir(x, torch.outer(k, k), pad=(taps // 2, (taps - 1) // 2))
    torch.testing.assert_close(filter2d(x, k), expected, rtol=0, atol=1e-10)


def test_upsampling_keeps_a_constant_inside():
    x = torch.ones(1, 1, 6, 6, dtype=torch.float64)
    up = upsample2d(x, FILTER)
    torch.testing.assert_close(up[..., 1:-1, 1:-1], torch.ones(1, 1, 10, 10, dtype=torch.float64))
    assert up[0, 0, 0, 0] < 1  # zeros outside darken the border: the published operator does the same


@pytest.mark.parametrize(("k", "up", "down"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (1, 1, 2), (1, 2, 1)])
def test_convolution_with_resampling_equals_definition(k, up, down):
    x, w = random(2, 3, 6, 8), random(5, 3, k, k, seed=1)
    ours = conv2d_resample(x, w, FILTER, up=up, down=down)
    if (k, up) == (3, 2):
        naive = naive_fir(naive_transposed(x, w), FILTER, pad=(1, 1), gain=4)
    elif (k, down) == (3, 2):
        naive = naive_correlation(naive_fir(x, FILTER, pad=(2, 2)), w, stride=2)
    elif down == 2:
        naive = naive_correlation(naive_fir(x, FILTER, down=2, pad=(1, 1)), w)
    elif up == 2:
        naive = naive_fir(naive_correlation(x, w), FILTER, up=2, pad=(2, 1), gain=4)
    else:
        naive = naive_correlation(x, w, pad=k // 2)
    assert ours.shape[2:] == (6 * up // down, 8 * up // down)
    torch.testing.assert_close(ours, naive, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("k", "up", "demodulate"), [(3, 1, True), (3, 2, True), (1, 1, False), (1, 1, True)])
@pytest.mark.parametrize("with_offset", [False, True])
def test_modulated_convolution_forms_agree_with_per_sample_weights(k, up, demodulate, with_offset):
    x, w, s = random(3, 4, 6, 6), random(5, 4, k, k, seed=1), 1 + random(3, 4, seed=2)
    offset = random(3, 5, 6 * up, 6 * up, seed=3) if with_offset else None
    expected = []
    for n in range(3):
        wn = w * s[n][None, :, None, None]
        if demodulate:
            wn = wn / (wn.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected.append(conv2d_resample(x[n : n + 1], wn, FILTER, up=up))
    expected = 1.5 * torch.cat(expected) + (0 if offset is None else offset)
    for fused in (False, True):
        ours = modulated_conv2d(x, w, s, f=FILTER, up=up, demodulate=demodulate, fused=fused, offset=offset, gain=1.5)
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_fused_equals_unfused_in_float32():
    x, w, s = random(2, 32, 16, 16).float(), random(24, 32, 3, 3).float(), 1 + random(2, 32).float()
    one, other = (modulated_conv2d(x, w, s, f=FILTER, fused=fused) for fused in (False, True))
    assert (one - other).abs().max() <= 1e-5 * one.abs().max()


def test_demodulated_output_has_unit_expected_scale():
    w, s = random(8, 16, 3, 3), 1 + random(4, 16, seed=3)
    d = demodulation(w, s)
    power = torch.einsum("oikl,ni,no->no", w.square(), s.square(), d.square())
    torch.testing.assert_close(power, torch.ones_like(power), rtol=1e-6, atol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_float16_stays_finite_for_huge_styles(fused):
    x, w = random(2, 8, 8, 8).half(), random(8, 8, 3, 3).float() * 100
    s = random(2, 8).float() * 1e4
    y = modulated_conv2d(x, w, s, fused=fused)
    reference = modulated_conv2d(x.double(), w.double(), s.double())
    assert y.dtype is torch.float16
    assert torch.isfinite(y).all()
    assert (y.double() - reference).abs().max() < 0.02 * reference.abs().max()  # 11-bit products over 72 taps


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
    y = conv2d_resample(x, layer.weight / math.sqrt(27), FILTER, down=down)
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


def test_precision_policy():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert compute_dtype("fp16", cpu, torch.float32) is torch.float32  # published: fp16 only on CUDA
    assert compute_dtype("fp16", cuda, torch.float32) is torch.float16
    assert compute_dtype("bf16", cpu, torch.float32) is torch.bfloat16
    assert compute_dtype("fp32", cuda, torch.float64) is torch.float64
    low = [res for res in (4, 8, 16, 32, 64, 128, 256, 512) if is_low_precision(res, 512, 4)]
    assert low == [64, 128, 256, 512]
    assert not is_low_precision(4, 8, 4)
    assert is_low_precision(8, 8, 4)
    assert not is_low_precision(512, 512, 0)


def test_auto_form_of_modulated_convolution():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert use_fused("auto", training=False, device=cuda)
    assert not use_fused("auto", training=True, device=cuda)
    assert not use_fused("auto", training=False, device=cpu)
    assert use_fused("fused", training=True, device=cpu)
