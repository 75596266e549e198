"""The warm start: before adversarial training, the generator learns to render heads whose parameters are known.

Letters: N batch, K head parameters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eg3d.fields.protocol import Field
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.random_streams import Rng, normal
from eg3d.training.config import WarmStartConfig
from eg3d.training.phases import Draw, Phase, Term
from eg3d.training.reconstruction import depth_loss, reconstruction_loss, silhouette_loss
from eg3d.training.stats import Stats
from eg3d.training.style_average import StyleAverage

LATENT_ROTATION_SEED = 20_001  # fixes the rotation that puts head parameters into the latent space


class ReconstructionObjective:
    """The loss of one micro-batch of known heads; it moves the mean style code as the adversarial losses do."""

    def __init__(
        self, cfg: WarmStartConfig, generator: TriPlaneGenerator, stats: Stats, style_average: StyleAverage
    ) -> None:
        self.cfg, self.generator, self.stats, self.style_average = cfg, generator, stats, style_average

    def reconstruction(self, draw: Draw) -> Tensor:
        """Loss, a scalar, of the data set's heads from their own cameras; the conditioning camera is a neighbour's."""
        if draw.real.code is None:
            raise ValueError("warm_start.reconstruction_kimg: the data set has no codes.npy; give 0 or portraits")
        z = codes_to_latents(draw.real.code, self.generator.cfg.z_dim, draw.rng)
        generator, warm = self.generator, self.cfg
        ws = generator.mapping(z, draw.real.label if draw.real.other is None else draw.real.other)
        self.style_average.add(ws)
        field = generator.field(ws, noise_mode="random", rng=draw.rng)
        rendered = generator.render(field, ws, draw.real.label, rng=draw.rng)
        terms = {
            "reconstruction": reconstruction_loss(rendered, draw.real.image, edge_weight=warm.edge_weight),
            "silhouette": warm.silhouette_weight * silhouette_loss(rendered, draw.real.image),
            "spread": warm.spread_weight * rendered.depth_spread.mean(),
        }
        if warm.depth_weight > 0:
            terms["depth"] = warm.depth_weight * self._depth(field, draw)
        return sum((self._reported(f"Loss/{name}", term) for name, term in terms.items()), torch.zeros_like(z[0, 0]))

    def _depth(self, field: Field, draw: Draw) -> Tensor:
        if draw.real.depth is None:
            raise ValueError(
                "warm_start.depth_weight: the data set has no depths.npy; give 0, or portraits with depths=true"
            )
        warm, rendering = self.cfg, self.generator.cfg.rendering
        return depth_loss(
            field,
            draw.real.label,
            draw.real.depth,
            limits=(float(rendering.ray_start), float(rendering.ray_end)),
            num_points=warm.depth_points,
            band=warm.depth_band,
            rng=draw.rng,
        )

    def _reported(self, name: str, value: Tensor) -> Tensor:
        self.stats.report(name, value)
        return value


def warm_start_phases(objective: ReconstructionObjective) -> list[Phase]:
    """The phase of the reconstruction, with its cosine rate, where the config has one."""
    warm, generator = objective.cfg, objective.generator
    if warm.reconstruction_kimg <= 0:
        return []
    last = 1000 * warm.reconstruction_kimg
    optimizer = torch.optim.Adam(
        generator.parameters(), lr=warm.reconstruction_lr, betas=(warm.reconstruction_beta1, 0.99), eps=1e-8
    )

    def rate(num_images: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(num_images / last, 1.0)))
        return warm.reconstruction_final_lr + cosine * (warm.reconstruction_lr - warm.reconstruction_final_lr)

    term = Term("reconstruction", objective.reconstruction)
    return [Phase("Grec", generator, optimizer, [term], 1, 0, last, rate, objective.style_average)]


def codes_to_latents(codes: Tensor, z_dim: int, rng: Rng) -> Tensor:
    """Latents [N, z_dim] ~ N(0, I) whose first directions, in a fixed rotation, are the head parameters [N, K].

    The remaining directions are fresh noise. Raises ValueError when z_dim < K.
    """
    num, size = codes.shape
    if z_dim < size:
        raise ValueError(f"generator.z_dim: {z_dim} is smaller than the {size} head parameters of the data set")
    rest = normal((num, z_dim - size), rng).to(codes)
    return torch.cat([codes, rest], dim=1) @ latent_rotation(z_dim).to(codes)


def latents_to_codes(latents: Tensor, num_codes: int) -> Tensor:
    """Head parameters [N, K] of latents [N, z_dim]: what `codes_to_latents` was given. ValueError when z_dim < K."""
    if latents.shape[1] < num_codes:
        raise ValueError(f"latents of {latents.shape[1]} numbers hold no {num_codes} head parameters")
    return (latents @ latent_rotation(latents.shape[1]).to(latents).T)[:, :num_codes]


def latent_rotation(z_dim: int) -> Tensor:
    """The fixed orthogonal matrix of `codes_to_latents`, [z_dim, z_dim]."""
    rng = torch.Generator().manual_seed(LATENT_ROTATION_SEED)
    matrix = torch.randn(z_dim, z_dim, generator=rng, dtype=torch.float64)
    q, r = torch.linalg.qr(matrix)
    return (q * r.diagonal().sign()).to(torch.float32)


@torch.no_grad()
def scale_styles(generator: TriPlaneGenerator, factor: float) -> None:
    """Multiply the weights (not the biases) of all style affines: near 0 every latent makes the same head at first."""
    for name, parameter in generator.named_parameters():
        if name.endswith("affine.weight"):
            parameter.mul_(factor)
