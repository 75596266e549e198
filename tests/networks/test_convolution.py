"""The twice differentiable convolutions against PyTorch's own, forward and through second derivatives."""

import pytest
import torch
import torch.nn.functional as F

from eg3d.networks import convolution
from eg3d.networks.convolution import conv2d, conv_transpose2d

CASES = [  # transposed, stride, padding, groups, kernel, input size
    (False, 1, 1, 1, 3, (5, 4)),
    (False, 1, 0, 1, 1, (3, 3)),
    (False, 2, 0, 1, 3, (7, 7)),
    (False, 2, 1, 4, 4, (6, 8)),
    (False, 2, 0, 4, 4, (7, 6)),  # last rows unused: the adjoint needs output padding
    (False, (1, 2), 0, 2, 3, (5, 7)),
    (True, 2, 0, 1, 3, (3, 4)),
    (True, 2, 1, 4, 4, (3, 3)),
    (True, 1, 1, 2, 3, (4, 4)),
]


def operands(case, seed=0):
    transposed, _, _, groups, k, size = case
    rng = torch.Generator().manual_seed(seed)
    inputs, outputs = 4, 8
    shape = (inputs, outputs // groups, k, k) if transposed else (outputs, inputs // groups, k, k)
    x = torch.randn(2, inputs, *size, generator=rng, dtype=torch.float64, requires_grad=True)
    w = torch.randn(shape, generator=rng, dtype=torch.float64, requires_grad=True)
    b = torch.randn(outputs, generator=rng, dtype=torch.float64, requires_grad=True)
    return x, w, b


def ours_and_native(case):
    transposed, stride, padding, groups, _, _ = case
    options = {"stride": stride, "padding": padding, "groups": groups}
    if transposed:
        return (
            lambda x, w, b: conv_transpose2d(x, w, **options),
            lambda x, w, b: F.conv_transpose2d(x, w, **options),
        )
    return lambda x, w, b: conv2d(x, w, b, **options), lambda x, w, b: F.conv2d(x, w, b, **options)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_equal_native(case):
    ours, native = ours_and_native(case)
    x, w, b = operands(case)
    y, expected = ours(x, w, b), native(x, w, b)
    torch.testing.assert_close(y, expected)
    for first, second in zip(_penalty_gradients(y, x, w), _penalty_gradients(expected, x, w), strict=True):
        torch.testing.assert_close(first, second)


def _penalty_gradients(y, x, w):
    (gx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    return [gx, *torch.autograd.grad(gx.square().sum(), [x, w])]


@pytest.mark.parametrize("case", [CASES[0], CASES[4], CASES[6]], ids=str)
def test_numerical_first_and_second_derivatives(case):
    ours, _ = ours_and_native(case)
    inputs = operands(case) if not case[0] else operands(case)[:2]
    function = ours if not case[0] else lambda x, w: ours(x, w, None)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("column_floats", [1, 100, 2**20], ids=["rows", "images", "whole"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_weight_gradients_by_columns_equal_native_to_second_order(case, column_floats, monkeypatch):
    ours, native = ours_and_native(case)
    expected = _weight_derivatives(native, operands(case))
    monkeypatch.setattr(convolution, "WIDE", 1)
    monkeypatch.setattr(convolution, "COLUMN_FLOATS", column_floats)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    for first, second in zip(_weight_derivatives(ours, operands(case)), expected, strict=True):
        torch.testing.assert_close(first, second)


def _weight_derivatives(function, inputs):
    x, w, b = inputs
    (plain,) = torch.autograd.grad((function(x, w, b) ** 3).sum(), w)
    (gw,) = torch.autograd.grad((function(x, w, b) ** 3).sum(), w, create_graph=True)
    return [plain, gw, *torch.autograd.grad(gw.square().sum(), [x, w])]


@pytest.mark.parametrize("is_transposed", [False, True])
def test_weight_gradients_by_columns_are_as_exact_as_native(is_transposed, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 128, 40, 40, generator=rng).to(memory_format=torch.channels_last)
    w = torch.randn(128, 128, 3, 3, generator=rng)
    ours, native = (conv_transpose2d, F.conv_transpose2d) if is_transposed else (conv2d, F.conv2d)

    def gradient(function, dtype):
        weight = w.to(dtype).requires_grad_(True)
        return torch.autograd.grad((function(x.to(dtype), weight, stride=2) ** 2).sum(), weight)[0]

    exact, found = gradient(native, torch.float64), gradient(ours, torch.float32)
    assert found.stride() == w.stride()
    assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_constant_weights_get_no_gradient():
    x, w, _ = operands(CASES[3])
    conv2d(x, w.detach(), stride=2, padding=1, groups=4).sum().backward()
    assert x.grad is not None
    assert w.grad is None


def test_empty_batch():
    x = torch.zeros(0, 4, 5, 5, requires_grad=True)
    y = conv2d(x, torch.zeros(8, 4, 3, 3, requires_grad=True), padding=1)
    assert y.shape == (0, 8, 5, 5)
