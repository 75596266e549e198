"""Bilinear look-up in images, twice differentiable in the images with every PyTorch.

Shape letters: N batch, C channels, H and W sides of the images, P and Q of the grid.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


def look_up(x: Tensor, grid: Tensor) -> Tensor:
    """x [N, C, H, W] at grid [N, P, Q, 2] -> [N, C, P, Q]; twice differentiable in x, constant in the grid.

    Grid entries are right, then down, -1 to 1 from border to border of the image; outside of it x is 0.
    """
    if has_second_derivative(x.device.type):
        return F.grid_sample(x, grid.detach(), align_corners=False)
    return look_up_by_adjoint(x, grid)


@functools.cache
def has_second_derivative(device_type: str) -> bool:
    """Whether this PyTorch differentiates grid_sample twice on such a device: tried once, on one pixel."""
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(1, 1, 1, 1, device=device_type, requires_grad=True)
        y = F.grid_sample(x, torch.zeros(1, 1, 1, 2, device=device_type), align_corners=False)
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        try:
            torch.autograd.grad(grad.sum(), x)
        except RuntimeError:  # "derivative for aten::grid_sampler_2d_backward is not implemented"
            return False
    return True


def look_up_by_adjoint(x: Tensor, grid: Tensor) -> Tensor:
    """`look_up` of x [N, C, H, W] at grid [N, A, B, 2] for a PyTorch that differentiates grid_sample once only."""
    return _LookUp.apply(x, grid)


class _LookUp(torch.autograd.Function):
    """The look-up is linear in x: its gradient is its adjoint, whose gradient is the look-up again."""

    @staticmethod
    def forward(ctx, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, align_corners=False)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (grid,) = ctx.saved_tensors
        return _Adjoint.apply(grad, grid, ctx.shape), None


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad: Tensor, grid: Tensor, shape) -> Tensor:
        ctx.save_for_backward(grid)
        with torch.enable_grad():
            x = grad.new_zeros(shape).requires_grad_(True)
            y = F.grid_sample(x, grid, align_corners=False)
        return torch.autograd.grad(y, x, grad)[0]

    @staticmethod
    def backward(ctx, grad: Tensor):
        (grid,) = ctx.saved_tensors
        return _LookUp.apply(grad, grid), None, None
