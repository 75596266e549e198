"""Mapping network: latents and camera labels to style codes.

Shape letter: N batch. Sources: StyleGAN (2019), section 2; ADA (2020), conditional mapping; EG3D (2022), section 4
(modelling pose-correlated attributes).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eg3d.networks.layers import FullyConnected, second_moment_normalise

W_AVG_BETA = 0.998  # share of the mean code that a step keeps


class MappingNetwork(nn.Module):
    """z [N, z_dim] and c [N, c_dim] to ws [N, num_ws, w_dim] (num_ws None: [N, w_dim], no running mean).

    z_dim or c_dim may be 0, then that input is ignored and may be None. State: embed, fc0 .. fc{n-1}, w_avg.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        *,
        num_layers: int = 8,
        lr_multiplier: float = 0.01,
    ) -> None:
        super().__init__()
        if z_dim + c_dim == 0:
            raise ValueError("a mapping network needs z_dim or c_dim above 0, got 0 and 0")
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers = num_layers
        if c_dim > 0:
            self.embed = FullyConnected(c_dim, w_dim)
        features = z_dim + (w_dim if c_dim > 0 else 0)
        for k in range(num_layers):
            layer = FullyConnected(features, w_dim, activation="lrelu", lr_multiplier=lr_multiplier)
            setattr(self, f"fc{k}", layer)
            features = w_dim
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """Style codes [N, num_ws, w_dim] (or [N, w_dim]) of z [N, z_dim] and c [N, c_dim]; differentiable in both.

        psi = 1 skips truncation; cutoff None truncates every layer. update_emas moves w_avg towards the batch
        mean (before truncation, without gradient). Raises ValueError for inputs of another shape.
        """
        x = self._inputs(z, c)
        for k in range(self.num_layers):
            x = getattr(self, f"fc{k}")(x)
        if self.num_ws is None:
            return x
        if update_emas:
            self.move_average(x.detach().mean(0))
        ws = x[:, None].repeat(1, self.num_ws, 1)
        return self.truncate(ws, truncation_psi, truncation_cutoff)

    def move_average(self, mean: Tensor) -> None:
        """Move w_avg towards the mean style code [w_dim] of a batch by 1 - W_AVG_BETA of the way."""
        self.w_avg.copy_(torch.lerp(mean, self.w_avg, W_AVG_BETA))

    def truncate(self, ws: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """Pull the first `cutoff` codes of ws [N, num_ws, w_dim] towards w_avg: w_avg + psi (w - w_avg)."""
        if psi == 1.0:
            return ws
        if cutoff is not None and cutoff < 0:
            raise ValueError(f"truncation_cutoff must be None (all layers) or at least 0, got {cutoff}")
        if cutoff is None:
            return torch.lerp(self.w_avg, ws, psi)
        return torch.cat([torch.lerp(self.w_avg, ws[:, :cutoff], psi), ws[:, cutoff:]], dim=1)

    def _inputs(self, z: Tensor | None, c: Tensor | None) -> Tensor:
        dtype = self.fc0.weight.dtype if self.num_layers else torch.float32
        parts = []
        if self.z_dim > 0:
            parts.append(second_moment_normalise(_checked("z", z, self.z_dim).to(dtype)))
        if self.c_dim > 0:
            parts.append(second_moment_normalise(self.embed(_checked("c", c, self.c_dim).to(dtype))))
        sizes = [len(part) for part in parts]
        if len(set(sizes)) > 1:
            raise ValueError(f"z and c must have one batch size, got {sizes[0]} and {sizes[1]}")
        return torch.cat(parts, dim=1)


def _checked(name: str, x: Tensor | None, width: int) -> Tensor:
    if x is None or x.ndim != 2 or x.shape[1] != width:
        found = "None" if x is None else list(x.shape)
        raise ValueError(f"{name} must be [N, {width}], got {found}")
    return x
