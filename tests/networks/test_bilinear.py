"""The bilinear look-up: both forms alike to second order, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d.networks import bilinear

FORMS = [bilinear.look_up, bilinear.look_up_by_adjoint]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    bilinear.has_second_derivative.cache_clear()
    yield
    bilinear.has_second_derivative.cache_clear()


def _operands(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Images, and a grid that leaves them on all sides."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 4, generator=rng, dtype=dtype, requires_grad=True)
    return x, torch.rand(2, 6, 7, 2, generator=rng, dtype=dtype) * 2.6 - 1.3


def _derivatives(form: Callable[[Tensor, Tensor], Tensor], x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = form(x, grid)
    (first,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    return y, first, torch.autograd.grad(first.square().sum(), x)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_forms_are_equal_to_second_order(dtype: torch.dtype) -> None:
    x, grid = _operands(dtype)
    for ours, other in zip(_derivatives(FORMS[0], x, grid), _derivatives(FORMS[1], x, grid), strict=True):
        torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("form", FORMS)
def test_derivatives_are_those_of_differences(form: Callable[[Tensor, Tensor], Tensor]) -> None:
    x, grid = _operands()
    assert torch.autograd.gradcheck(lambda images: form(images, grid), (x,))
    assert torch.autograd.gradgradcheck(lambda images: form(images, grid) ** 2, (x,))


@pytest.mark.parametrize("form", FORMS)
def test_the_grid_gets_no_gradient(form: Callable[[Tensor, Tensor], Tensor]) -> None:
    x, grid = _operands()
    grid.requires_grad_(True)
    form(x, grid).sum().backward()
    assert x.grad is not None
    assert grid.grad is None


class _OnceOnly(torch.autograd.Function):
    """grid_sample as an older PyTorch has it: its backward pass has no derivative."""

    @staticmethod
    def forward(ctx, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(x, grid)
        return torch.grid_sampler(x, grid, 0, 0, False)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _OnceOnlyBackward.apply(grad, *ctx.saved_tensors), None


class _OnceOnlyBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad: Tensor, x: Tensor, grid: Tensor) -> Tensor:
        return torch.ops.aten.grid_sampler_2d_backward(grad, x, grid, 0, 0, False, (True, False))[0]

    @staticmethod
    def backward(ctx, grad: Tensor):
        raise RuntimeError("derivative for aten::grid_sampler_2d_backward is not implemented")


def test_a_pytorch_without_second_derivative_takes_the_adjoint(monkeypatch: pytest.MonkeyPatch) -> None:
    x, grid = _operands()
    wanted = _derivatives(bilinear.look_up, x, grid)
    bilinear.has_second_derivative.cache_clear()
    monkeypatch.setattr(F, "grid_sample", lambda x, grid, align_corners: _OnceOnly.apply(x, grid))
    with pytest.raises(RuntimeError, match="is not implemented"):
        _derivatives(lambda images, at: F.grid_sample(images, at, align_corners=False), x, grid)
    assert not bilinear.has_second_derivative("cpu")
    for ours, expected in zip(_derivatives(bilinear.look_up, x, grid), wanted, strict=True):
        torch.testing.assert_close(ours, expected)


def test_it_is_tried_once_even_where_gradients_are_off() -> None:
    with torch.no_grad():
        first = bilinear.has_second_derivative("cpu")
    bilinear.has_second_derivative.cache_clear()
    with torch.inference_mode():
        assert bilinear.has_second_derivative("cpu") is first
    assert bilinear.has_second_derivative("cpu") is first
    assert bilinear.has_second_derivative.cache_info().misses == 1
