"""The adversarial objective: the losses of one micro-batch, as the phases call them."""

from __future__ import annotations

import torch
from torch import Tensor

from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.generators.protocol import Rendered
from eg3d.networks.augment import AugmentPipe
from eg3d.networks.discriminator import DualDiscriminator
from eg3d.random_streams import normal, uniform
from eg3d.training import losses, schedules
from eg3d.training.augmentation import augmented
from eg3d.training.config import TrainConfig
from eg3d.training.counters import Counters
from eg3d.training.phases import Draw, Term
from eg3d.training.stats import Stats
from eg3d.training.style_average import StyleAverage


class AdversarialObjective:
    """L_D and L_G of a micro-batch; they share the networks, the schedules and the mean style code."""

    def __init__(
        self,
        cfg: TrainConfig,
        generator: TriPlaneGenerator,
        discriminator: DualDiscriminator,
        counters: Counters,
        stats: Stats,
        augment: AugmentPipe | None = None,
    ) -> None:
        self.cfg, self.loss, self.stats, self.counters = cfg, cfg.loss, stats, counters
        self.generator, self.discriminator, self.augment = generator, discriminator, augment
        self.initial_neural_resolution = generator.neural_rendering_resolution
        self.style_average = StyleAverage(generator)

    @property
    def adversarial_images(self) -> float:
        """Images shown since adversarial training began: schedules count from there."""
        return max(self.counters.num_images - 1000 * self.cfg.warm_start.reconstruction_kimg, 0)

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
            self.style_average.add(ws)
        if self.loss.style_mixing_prob == 0:
            return ws
        coins = uniform((len(ws), 2), draw.rng).to(ws)
        second = self.generator.mapping(normal(draw.z.shape, draw.rng).to(draw.z), draw.c)
        return mixed_styles(ws, second, coins, self.loss.style_mixing_prob)

    def generator_main(self, draw: Draw) -> Tensor:
        """The adversarial term of L_G (equations in losses.py), a scalar."""
        seen, c = self._seen(losses.fake_images(self.render(draw), self.blur_sigma), draw.c, draw)
        logits = self._judge(seen, c, draw, draw.c_std)
        self._report_logits("fake", logits)
        return self._reported("Loss/G/loss", losses.generator_loss(logits))

    def density(self, draw: Draw) -> Tensor:
        """lambda_TV L_TV, a scalar, times its interval where the config says so."""
        field = self.generator.field(self._styles(draw, draw.coin), noise_mode="random", rng=draw.rng)
        loss = losses.density_regularisation(
            field, num_points=self.loss.density_reg_points, std=self._density_std(), rng=draw.rng
        )
        self.stats.report("Loss/G/density_reg", loss)
        return loss * self.loss.density_reg * self._gain(self.loss.density_reg_interval)

    def monotonic(self, draw: Draw) -> Tensor:
        """The regulariser against densities that fall behind the surface, a scalar, times its interval likewise."""
        field = self.generator.field(self._styles(draw, draw.coin), noise_mode="random", rng=draw.rng)
        is_detached = self.loss.density_reg_type == "monotonic-detach"
        loss = losses.monotonic_regularisation(field, is_detached=is_detached, rng=draw.rng)
        return self._reported("Loss/G/monotonic", loss) * self._gain(self.loss.density_reg_interval)

    def density_terms(self) -> list[Term]:
        """The terms of the density regulariser that the config asks for."""
        terms = [Term("density_reg", self.density)]
        return terms if self.loss.density_reg_type == "l1" else [Term("monotonic", self.monotonic), *terms]

    def discriminator_fake(self, draw: Draw) -> Tensor:
        """L_D of generated images, a scalar; their style codes move the mean style code."""
        with torch.no_grad():
            rendered = self.render(draw, moves_average=True)
            seen, c = self._seen(losses.fake_images(rendered, self.blur_sigma), draw.c, draw)
        return losses.fake_loss(self._judge(seen, c, draw, draw.c_std))

    def discriminator_real(self, draw: Draw) -> Tensor:
        """L_D of real images, a scalar; the signs of their logits are what augmentation adapts by."""
        seen, c = self._real(draw)
        logits = self._judge(seen, c, draw, draw.real.label_std)
        self._report_logits("real", logits)
        if self.augment is not None:
            self.counters.real_signs += float(logits.detach().sign().sum())
            self.counters.real_count += len(logits)
        return self._reported("Loss/D/real", losses.real_loss(logits))

    def r1(self, draw: Draw) -> Tensor:
        """gamma R_1 = gamma / 2 E |grad_x d(x)|^2, a scalar, times its interval where the config says so."""
        seen, c = self._real(draw)
        names = ("image", "image_raw") if self.discriminator.cfg.dual_discrimination else ("image",)
        penalty, _ = losses.r1_penalty(lambda x: self._judge(x, c, draw, draw.real.label_std), seen, names)
        self.stats.report("Loss/r1_penalty", penalty.mean())
        return penalty.mean() * (self.loss.r1_gamma / 2) * self._gain(self.loss.r1_interval)

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
