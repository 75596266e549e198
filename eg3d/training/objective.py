"""The adversarial objective: the losses of one micro-batch, as the phases call them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eg3d.fields.protocol import Field
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.generators.protocol import Rendered
from eg3d.networks.augment import AugmentPipe
from eg3d.networks.discriminator import DualDiscriminator
from eg3d.random_streams import Rng, normal, uniform
from eg3d.training import losses, schedules
from eg3d.training.augmentation import augmented
from eg3d.training.config import TrainConfig, WarmStartConfig
from eg3d.training.phases import Draw, Phase, Term
from eg3d.training.ranks import Ranks
from eg3d.training.stats import Stats

LATENT_ROTATION_SEED = 20_001  # fixes the rotation that puts head parameters into the latent space


@dataclass
class Progress:
    """Where a run stands; everything that a schedule may look at."""

    num_images: int = 0  # real images shown
    iteration: int = 0
    tick: int = 0
    real_signs: float = 0.0  # of the logits of real images since augmentation was last adapted: sum
    real_count: float = 0.0  # and number


class AdversarialObjective:
    """Losses that share the networks, the schedules and one random generator."""

    def __init__(
        self,
        cfg: TrainConfig,
        generator: TriPlaneGenerator,
        discriminator: DualDiscriminator,
        progress: Progress,
        stats: Stats,
        augment: AugmentPipe | None = None,
    ) -> None:
        self.cfg, self.loss, self.stats, self.progress = cfg, cfg.loss, stats, progress
        self.generator, self.discriminator, self.augment = generator, discriminator, augment
        self.initial_neural_resolution = generator.neural_rendering_resolution
        self._codes: list[Tensor] = []  # style codes [N, w_dim] since the mean of all of them last moved

    @property
    def adversarial_images(self) -> float:
        """Images shown since adversarial training began: schedules count from there."""
        return max(self.progress.num_images - 1000 * self.cfg.warm_start.reconstruction_kimg, 0)

    @property
    def blur_sigma(self) -> float:
        loss = self.loss
        return schedules.blur_sigma(
            self.adversarial_images, init_sigma=loss.blur_init_sigma, fade_kimg=loss.blur_fade_kimg
        )

    @property
    def swap_probability(self) -> float | None:
        loss = self.loss
        return schedules.swap_probability(self.adversarial_images, final=loss.swap_final, fade_kimg=loss.swap_fade_kimg)

    @property
    def neural_resolution(self) -> int:
        return schedules.neural_resolution(
            self.adversarial_images,
            initial=self.initial_neural_resolution,
            final=self.cfg.neural_resolution_final,
            fade_kimg=self.cfg.neural_resolution_fade_kimg,
        )

    def render(self, draw: Draw, *, moves_average: bool = False) -> Rendered:
        """Training-time forward: swapped conditioning, mixed styles, random noise and jitter."""
        ws = self._styles(draw, uniform((len(draw.z), 1), draw.rng).to(draw.c), moves_average=moves_average)
        return self.generator.synthesis(
            ws, draw.c, noise_mode="random", rng=draw.rng, neural_rendering_resolution=self.neural_resolution
        )

    def _styles(self, draw: Draw, coins: Tensor, *, moves_average: bool = False) -> Tensor:
        """Style codes of a draw; `coins` [N, 1] decide about the conditioning camera."""
        conditioning = losses.swapped_labels(draw.c, draw.other, self.swap_probability, coins)
        ws = self.generator.mapping(draw.z, conditioning)
        if moves_average:
            self._codes.append(ws[:, 0].detach())
        if self.loss.style_mixing_prob == 0:
            return ws
        coins = uniform((len(ws), 2), draw.rng).to(ws)
        second = self.generator.mapping(normal(draw.z.shape, draw.rng).to(draw.z), draw.c)
        return mixed_styles(ws, second, coins, self.loss.style_mixing_prob)

    def move_average(self, ranks: Ranks) -> None:
        """Move the mean style code once a step, towards the mean over the whole batch, however it was cut."""
        mapping, codes = self.generator.backbone.mapping, torch.cat(self._codes)
        self._codes = []
        total = ranks.sum(torch.cat([codes.sum(0), codes.new_tensor([len(codes)])]))
        mapping.move_average(total[:-1] / total[-1])

    def generator_main(self, draw: Draw) -> Tensor:
        seen, c = self._seen(losses.fake_images(self.render(draw), self.blur_sigma), draw.c, draw)
        logits = self._judge(seen, c, draw, draw.c_std)
        self._report_logits("fake", logits)
        return self._reported("Loss/G/loss", losses.generator_loss(logits))

    def density(self, draw: Draw) -> Tensor:
        field = self.generator.field(self._styles(draw, draw.coin), noise_mode="random", rng=draw.rng)
        loss = losses.density_regularisation(
            field, num_points=self.loss.density_reg_points, std=self._density_std(), rng=draw.rng
        )
        self.stats.report("Loss/G/density_reg", loss)
        return loss * self.loss.density_reg * self._gain(self.loss.density_reg_interval)

    def monotonic(self, draw: Draw) -> Tensor:
        field = self.generator.field(self._styles(draw, draw.coin), noise_mode="random", rng=draw.rng)
        is_detached = self.loss.density_reg_type == "monotonic-detach"
        loss = losses.monotonic_regularisation(field, is_detached=is_detached, rng=draw.rng)
        return self._reported("Loss/G/monotonic", loss) * self._gain(self.loss.density_reg_interval)

    def density_terms(self) -> list[Term]:
        """The terms of the density regulariser that the config asks for."""
        terms = [Term("density_reg", self.density)]
        return terms if self.loss.density_reg_type == "l1" else [Term("monotonic", self.monotonic), *terms]

    def discriminator_fake(self, draw: Draw) -> Tensor:
        with torch.no_grad():
            rendered = self.render(draw, moves_average=True)
            seen, c = self._seen(losses.fake_images(rendered, self.blur_sigma), draw.c, draw)
        return losses.fake_loss(self._judge(seen, c, draw, draw.c_std))

    def discriminator_real(self, draw: Draw) -> Tensor:
        seen, c = self._real(draw)
        logits = self._judge(seen, c, draw, draw.real.label_std)
        self._report_logits("real", logits)
        if self.augment is not None:
            self.progress.real_signs += float(logits.detach().sign().sum())
            self.progress.real_count += len(logits)
        return self._reported("Loss/D/real", losses.real_loss(logits))

    def r1(self, draw: Draw) -> Tensor:
        seen, c = self._real(draw)
        names = ("image", "image_raw") if self.discriminator.cfg.dual_discrimination else ("image",)
        penalty, _ = losses.r1_penalty(lambda x: self._judge(x, c, draw, draw.real.label_std), seen, names)
        self.stats.report("Loss/r1_penalty", penalty.mean())
        return penalty.mean() * (self.loss.r1_gamma / 2) * self._gain(self.loss.r1_interval)

    def reconstruction(self, draw: Draw) -> Tensor:
        """The data set's own heads from their own cameras; the conditioning camera is a neighbour's."""
        if draw.real.code is None:
            raise ValueError("warm_start.reconstruction_kimg: the data set has no codes.npy; give 0 or synthetic heads")
        z = codes_to_latents(draw.real.code, self.generator.cfg.z_dim, draw.rng)
        generator, warm = self.generator, self.cfg.warm_start
        ws = generator.mapping(z, draw.real.label if draw.real.other is None else draw.real.other)
        self._codes.append(ws[:, 0].detach())
        field = generator.field(ws, noise_mode="random", rng=draw.rng)
        rendered = generator.render(field, ws, draw.real.label, rng=draw.rng)
        terms = {
            "reconstruction": losses.reconstruction_loss(rendered, draw.real.image, edge_weight=warm.edge_weight),
            "silhouette": warm.silhouette_weight * losses.silhouette_loss(rendered, draw.real.image),
            "spread": warm.spread_weight * rendered.depth_spread.mean(),
        }
        if warm.depth_weight > 0:
            terms["depth"] = warm.depth_weight * self._depth(field, draw)
        return sum((self._reported(f"Loss/{name}", term) for name, term in terms.items()), torch.zeros_like(z[0, 0]))

    def _depth(self, field: Field, draw: Draw) -> Tensor:
        if draw.real.depth is None:
            raise ValueError(
                "warm_start.depth_weight: the data set has no depths.npy; give 0, or heads with depths=true"
            )
        warm, rendering = self.cfg.warm_start, self.generator.cfg.rendering
        return losses.depth_loss(
            field,
            draw.real.label,
            draw.real.depth,
            limits=(float(rendering.ray_start), float(rendering.ray_end)),
            num_points=warm.depth_points,
            band=warm.depth_band,
            rng=draw.rng,
        )

    def _real(self, draw: Draw) -> tuple[losses.Images, Tensor]:
        real = losses.real_images(draw.real.image, self.neural_resolution, self.blur_sigma)
        return self._seen(real, draw.real.label, draw)

    def _seen(self, images: losses.Images, c: Tensor, draw: Draw) -> tuple[losses.Images, Tensor]:
        """Images and their cameras as the discriminator gets them: augmented where the run augments."""
        return (images, c) if self.augment is None else augmented(self.augment, images, c, draw.rng)

    def _judge(self, images: losses.Images, c: Tensor, draw: Draw, c_std: Tensor | None) -> Tensor:
        return self.discriminator(images, c, rng=draw.rng, c_std=c_std)

    def _density_std(self) -> float:
        """Published: the monotonic types perturb by one 256th of the box, whatever the configured deviation."""
        is_l1 = self.loss.density_reg_type == "l1"
        return self.loss.density_reg_std if is_l1 else self.generator.cfg.rendering.box_warp / losses.MONOTONIC_STEPS

    def _gain(self, interval: int) -> float:
        return float(interval) if self.loss.lazy_gain else 1.0

    def _reported(self, name: str, value: Tensor) -> Tensor:
        self.stats.report(name, value)
        return value

    def _report_logits(self, kind: str, logits: Tensor) -> None:
        self.stats.report(f"Loss/scores/{kind}", logits.mean())
        self.stats.report(f"Loss/signs/{kind}", logits.sign().mean())


def mixed_styles(ws: Tensor, second: Tensor, coins: Tensor, probability: float) -> Tensor:
    """Style codes [N, L, w_dim] whose later layers come from `second`, in a share `probability` of the samples.

    coins [N, 2] uniform: whether, and from which of the layers 1 ... L - 1 on. Source: StyleGAN (2019), section 3.1.
    """
    num_ws = ws.shape[1]
    first = 1 + (coins[:, 1:] * (num_ws - 1)).floor()
    is_second = (coins[:, :1] < probability) & (torch.arange(num_ws, device=ws.device) >= first)
    return torch.where(is_second[:, :, None], second, ws)


def codes_to_latents(codes: Tensor, z_dim: int, rng: Rng) -> Tensor:
    """Latents [N, z_dim] ~ N(0, I) whose first directions, in a fixed rotation, are the head parameters [N, K].

    The remaining directions are fresh noise. Raises ValueError when z_dim < K.
    """
    num, size = codes.shape
    if z_dim < size:
        raise ValueError(f"generator.z_dim: {z_dim} is smaller than the {size} head parameters of the data set")
    rest = normal((num, z_dim - size), rng).to(codes)
    return torch.cat([codes, rest], dim=1) @ latent_rotation(z_dim).to(codes)


def latent_rotation(z_dim: int) -> Tensor:
    """The fixed orthogonal matrix of `codes_to_latents`, [z_dim, z_dim]."""
    rng = torch.Generator().manual_seed(LATENT_ROTATION_SEED)
    matrix = torch.randn(z_dim, z_dim, generator=rng, dtype=torch.float64)
    q, r = torch.linalg.qr(matrix)
    return (q * r.diagonal().sign()).to(torch.float32)


def adversarial_phases(objective: AdversarialObjective) -> list[Phase]:
    """Gmain, Greg, Dmain, Dreg in their published order, before them the warm start where the config has one."""
    cfg, loss, warm = objective.cfg, objective.loss, objective.cfg.warm_start
    generator, discriminator = objective.generator, objective.discriminator
    has_density = loss.density_reg > 0 and loss.density_reg_interval > 0
    has_r1 = loss.r1_gamma > 0 and loss.r1_interval > 0
    g_opt = adam(cfg, generator, cfg.optim.generator_lr, loss.density_reg_interval if has_density else None)
    d_opt = adam(cfg, discriminator, cfg.optim.discriminator_lr, loss.r1_interval if has_r1 else None)
    d_start = 1000 * warm.reconstruction_kimg
    g_start = d_start + 1000 * warm.discriminator_kimg
    phases = _warm_phases(objective, warm)
    phases.append(Phase("Gmain", generator, g_opt, [Term("adversarial", objective.generator_main)], 1, g_start))
    if has_density:
        phases.append(Phase("Greg", generator, g_opt, objective.density_terms(), loss.density_reg_interval, g_start))
    d_terms = [Term("fake", objective.discriminator_fake), Term("real", objective.discriminator_real)]
    phases.append(Phase("Dmain", discriminator, d_opt, d_terms, 1, d_start, after=[objective.move_average]))
    if has_r1:
        phases.append(Phase("Dreg", discriminator, d_opt, [Term("r1", objective.r1)], loss.r1_interval, d_start))
    return phases


def adam(cfg: TrainConfig, network: torch.nn.Module, lr: float, lazy_interval: int | None) -> torch.optim.Adam:
    """Adam with the lazy-regularisation scaling of rate and betas."""
    ratio, optim = schedules.lazy_ratio(lazy_interval), cfg.optim
    betas = (float(optim.beta1) ** ratio if optim.beta1 else 0.0, optim.beta2**ratio)
    return torch.optim.Adam(network.parameters(), lr=lr * ratio, betas=betas, eps=optim.eps)


def _warm_phases(objective: AdversarialObjective, warm: WarmStartConfig) -> list[Phase]:
    if warm.reconstruction_kimg <= 0:
        return []
    last, generator = 1000 * warm.reconstruction_kimg, objective.generator
    optimizer = torch.optim.Adam(
        generator.parameters(), lr=warm.reconstruction_lr, betas=(warm.reconstruction_beta1, 0.99), eps=1e-8
    )

    def rate(num_images: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(num_images / last, 1.0)))
        return warm.reconstruction_final_lr + cosine * (warm.reconstruction_lr - warm.reconstruction_final_lr)

    term = Term("reconstruction", objective.reconstruction)
    return [Phase("Grec", generator, optimizer, [term], 1, 0, last, rate, after=[objective.move_average])]
