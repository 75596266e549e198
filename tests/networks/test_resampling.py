"""Resampling against definitions written out with explicit loops, in float64."""

import pytest
import torch
import torch.nn.functional as F

from eg3d.networks.resampling import (
    conv2d_down,
    conv2d_up,
    downsample2d,
    fast_layout,
    filter2d,
    make_resample_filter,
    upsample2d,
)

FILTER = make_resample_filter().double()


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
        (filter2d(x, FILTER, padding=2), naive_fir(x, FILTER, pad=(2, 2))),
    ]
    for ours, naive in pairs:
        assert ours.shape == naive.shape
        torch.testing.assert_close(ours, naive, rtol=0, atol=1e-12)


def test_shrinking_without_padding_leaves_one_pixel_less():
    x = random(2, 3, 6, 10)
    ours = downsample2d(x, FILTER, padding=0)
    assert ours.shape[2:] == (2, 4)
    torch.testing.assert_close(ours, naive_fir(x, FILTER, down=2), rtol=0, atol=1e-12)


def test_upsampling_keeps_a_constant_inside():
    x = torch.ones(1, 1, 6, 6, dtype=torch.float64)
    up = upsample2d(x, FILTER)
    torch.testing.assert_close(up[..., 1:-1, 1:-1], torch.ones(1, 1, 10, 10, dtype=torch.float64))
    assert up[0, 0, 0, 0] < 1  # zeros outside darken the border: the published operator does the same


@pytest.mark.parametrize("groups", [1, 3])
def test_convolution_that_enlarges_equals_definition(groups):
    x, w = random(2, 3 * groups, 6, 8), random(5 * groups, 3, 3, 3, seed=1)
    parts = [naive_transposed(*pair) for pair in zip(x.chunk(groups, 1), w.chunk(groups), strict=True)]
    expected = naive_fir(torch.cat(parts, 1), FILTER, pad=(1, 1), gain=4)
    ours = conv2d_up(x, w, FILTER, groups=groups)
    assert ours.shape[2:] == (12, 16)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("k", [1, 3])
def test_convolution_that_shrinks_equals_definition(k):
    x, w, b = random(2, 3, 6, 8), random(5, 3, k, k, seed=1), random(5, seed=2)
    if k == 1:
        expected = naive_correlation(naive_fir(x, FILTER, down=2, pad=(1, 1)), w)
    else:
        expected = naive_correlation(naive_fir(x, FILTER, pad=(2, 2)), w, stride=2)
    ours = conv2d_down(x, w, FILTER)
    assert ours.shape[2:] == (3, 4)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(conv2d_down(x, w, FILTER, bias=b), expected + b[:, None, None], rtol=0, atol=1e-11)


def test_fast_layout_keeps_the_values():
    x = random(2, 3, 4, 5)
    assert torch.equal(fast_layout(x), x)
    assert fast_layout(x).is_contiguous(memory_format=torch.channels_last)
