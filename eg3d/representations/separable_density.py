"""Density on an axis-parallel grid without a look-up per point.

On such a grid each plane is needed only at the crossings of two axes. The planes are interpolated there once, the first
decoder layer (linear) is applied to these tables, and the hidden layer of a grid point is the sum of two or three table
rows: h(x, y, z) = A[x, y] + B[x, z] (+ E[y, z]) + b. What is left for a point is softplus and a dot product. Nothing of
hidden size is stored; the backward pass computes it again, block by block.

Shape letters: N batch, C plane channels, H hidden width, X, Y, Z grid sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eg3d.rendering.planes import PLANE_AXES

if TYPE_CHECKING:
    from eg3d.generator import TriPlaneGenerator

BLOCK_ELEMENTS = 2**18  # hidden values of one block: 1 MB in float32, so that it stays in the cache
EXPONENT_LIMIT = 80.0  # exp(a)·exp(b) stays finite in float32 while |a| + |b| is below this


def has_separable_density(G: TriPlaneGenerator, planes: Tensor) -> bool:
    """Whether the field of `G` is three known planes, a mean and a decoder of two linear layers with a softplus."""
    net = getattr(getattr(G, "decoder", None), "net", None)
    axes = getattr(G.cfg.rendering, "plane_axes", None)
    return axes in PLANE_AXES and planes.shape[1] == 3 and net is not None and len(net) == 3


def separable_density(G: TriPlaneGenerator, planes: Tensor, coordinates: Sequence[Tensor]) -> Tensor:
    """Raw density [N, X, Y, Z] at all crossings of the world `coordinates` (x [X], y [Y], z [Z]).

    Equals G.sigma at these points but for rounding (1e-5 of the largest value). Differentiable, twice where needed, in
    the planes and in the decoder's weights.
    """
    w1, b1, w2, b2 = density_layers(G.decoder)
    axes = PLANE_AXES[G.cfg.rendering.plane_axes]
    scale = 2.0 / G.cfg.rendering.box_warp
    weights: dict[tuple[int, int], Tensor] = {}

    def interpolation(axis: int, size: int) -> Tensor:
        if (axis, size) not in weights:
            weights[axis, size] = interpolation_weights(coordinates[axis] * scale, size)
        return weights[axis, size]

    volumes = []
    for sample in planes.float().unbind(0):
        tables: dict[tuple[int, int], Tensor] = {}
        for plane, (across, down) in zip(sample, axes, strict=True):
            rows = interpolation(down, plane.shape[-2]) @ plane  # [C, D_down, W]
            table = rows @ interpolation(across, plane.shape[-1]).T  # [C, D_down, D_across]
            key = (min(across, down), max(across, down))
            table = table if down < across else table.transpose(1, 2)
            tables[key] = tables[key] + table if key in tables else table
        hidden = {key: torch.einsum("cab,hc->abh", table, w1 / 3) for key, table in tables.items()}
        volumes.append(_combine(hidden[0, 1] + b1, hidden[0, 2], hidden.get((1, 2)), w2) + b2)
    sides = [len(axis) for axis in coordinates]
    return torch.stack(volumes) if volumes else planes.new_zeros(0, *sides)


def density_layers(decoder: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Effective weights of the density: w1 [H, C], b1 [H], w2 [H], b2 [] with all gains applied, differentiable."""
    first, _, second = decoder.net
    w1, b1 = _effective(first)
    w2, b2 = _effective(second, rows=slice(0, 1))
    return w1, b1, w2[0], b2[0]


def interpolation_weights(u: Tensor, size: int) -> Tensor:
    """Linear interpolation at u [D] in a row of `size` texels over [-1, 1], as a matrix [D, size].

    The rule of grid_sample with align_corners=False and zero padding: texel address ((u + 1)·size − 1)/2, and
    neighbours outside the row count as zero.
    """
    address = ((u + 1) * size - 1) / 2
    left = address.floor()
    share = address - left
    matrix = u.new_zeros(len(u), size + 2)  # one column of padding at each end takes what falls outside
    index = left.long().clamp(-1, size - 1) + 1
    is_near = (left >= -1) & (left <= size - 1)
    matrix.scatter_add_(1, index[:, None], ((1 - share) * is_near)[:, None])
    matrix.scatter_add_(1, index[:, None] + 1, (share * is_near)[:, None])
    return matrix[:, 1:-1].contiguous()


def _effective(layer: Any, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """Weight [rows, in] and bias [rows] of a linear layer with its run-time gains multiplied in."""
    weight = layer.weight[rows].float() * getattr(layer, "weight_gain", 1.0)
    bias = layer.bias[rows].float() * getattr(layer, "bias_gain", 1.0)
    return weight, bias


def _combine(xy: Tensor, xz: Tensor, yz: Tensor | None, w2: Tensor) -> Tensor:
    """sum_h w2[h]·softplus(xy[x, y, h] + xz[x, z, h] + yz[y, z, h]) as [X, Y, Z]."""
    parts = [xy, xz] if yz is None else [xy, xz, yz]
    bound = sum(part.detach().abs().amax() for part in parts)
    if bool(bound <= EXPONENT_LIMIT):  # False for NaN too, which the plain way carries on
        # softplus(a + b) = log(1 + exp(a)·exp(b)): exponentials are taken on the tables, not on the grid.
        return _ProductSoftplus.apply(xy.exp(), xz.exp(), None if yz is None else yz.exp(), w2)
    return torch.cat([_combine_plainly(xy[b], xz[b], yz, w2) for b in _blocks(xy, xz)])


def _combine_plainly(xy: Tensor, xz: Tensor, yz: Tensor | None, w2: Tensor) -> Tensor:
    hidden = xy[:, :, None] + xz[:, None]
    hidden = hidden if yz is None else hidden + yz
    return F.softplus(hidden) @ w2


def _blocks(xy: Tensor, xz: Tensor) -> Iterator[slice]:
    """Ranges of x whose hidden values fit one block."""
    per_x = max(1, xy.shape[1] * xz.shape[1] * xz.shape[2])
    step = max(1, BLOCK_ELEMENTS // per_x)
    return (slice(start, start + step) for start in range(0, len(xy), step))


class _ProductSoftplus(torch.autograd.Function):
    """sum_h w2[h]·log(1 + p), p = xy[x, y, h]·xz[x, z, h]·yz[y, z, h]; the hidden layer is never kept."""

    @staticmethod
    def forward(ctx: Any, xy: Tensor, xz: Tensor, yz: Tensor | None, w2: Tensor) -> Tensor:
        ctx.save_for_backward(xy, xz, yz, w2)
        out = xy.new_empty(len(xy), xy.shape[1], xz.shape[1])
        for b in _blocks(xy, xz):
            out[b] = _product(xy[b], xz[b], yz).log1p_() @ w2
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        xy, xz, yz, w2 = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative was asked for: let autograd see every step
            inputs = [part for part in (xy, xz, yz, w2) if part is not None and part.requires_grad]
            value = torch.log1p(_product(xy, xz, yz)) @ w2
            grads = iter(torch.autograd.grad(value, inputs, grad, create_graph=True))
            is_input = [part is not None and part.requires_grad for part in (xy, xz, yz, w2)]
            return tuple(next(grads) if flag else None for flag in is_input)
        return _gradients(xy, xz, yz, w2, grad, needs_w2=ctx.needs_input_grad[3])


def _product(xy: Tensor, xz: Tensor, yz: Tensor | None) -> Tensor:
    p = xy[:, :, None] * xz[:, None]
    return p if yz is None else p * yz


def _gradients(
    xy: Tensor, xz: Tensor, yz: Tensor | None, w2: Tensor, grad: Tensor, *, needs_w2: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of _ProductSoftplus, block by block: d/dp log(1 + p) = 1 / (1 + p)."""
    d_xy, d_xz = torch.empty_like(xy), torch.empty_like(xz)
    d_yz = None if yz is None else torch.zeros_like(yz)
    d_w2 = torch.zeros_like(w2) if needs_w2 else None
    for b in _blocks(xy, xz):
        g = grad[b]
        p = _product(xy[b], xz[b], yz)
        if d_w2 is not None:
            d_w2 += g.reshape(-1) @ torch.log1p(p).flatten(0, 2)
        r = p.add_(1).reciprocal_().mul_(g[..., None])  # g / (1 + p)
        if yz is not None and d_yz is not None:
            d_yz += (r * xy[b][:, :, None]).mul_(xz[b][:, None]).sum(0)
            r.mul_(yz)
        d_xy[b] = (r * xz[b][:, None]).sum(2)
        d_xz[b] = r.mul_(xy[b][:, :, None]).sum(1)
    return d_xy * w2, d_xz * w2, None if d_yz is None else d_yz * w2, d_w2
