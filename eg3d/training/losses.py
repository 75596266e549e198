"""Losses of EG3D training as functions of networks and tensors. Source: EG3D (2022), StyleGAN2 (2020).

With d the logit of the discriminator and D = logistic(d), so that -log D = softplus(-d), -log(1 - D) = softplus(d):

    L_D = -E_x log D(x) - E_z log(1 - D(G(z))) + gamma R_1     Dmain (real_loss + fake_loss), Dreg (r1_penalty)
    L_G = -E_z log D(G(z)) + lambda_TV L_TV                    Gmain (generator_loss), Greg (density_regularisation)
    R_1 = 1/2 E_x |grad_x d(x)|^2
    L_TV = E_z E_x |sigma_raw(x) - sigma_raw(x + eps)|         a total variation of the density over small steps

Sculpting NeRF Geometry (2026) writes 1/2 before every adversarial term, and adds lambda_r L_r + lambda_c L_c to L_G
(eg3d/finetuning/objective.py). The released code and this one have no 1/2. Adam does not see a factor of a whole loss;
it matters only against gamma, lambda_TV and, in mode "joint", lambda_r and lambda_c: they count half as much here.
Letters: N batch, P points, H image side, R neural side. Every function returns a scalar, or [N] where it says so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d.fields.protocol import Field
from eg3d.generators.protocol import Rendered
from eg3d.networks.discriminator import resize_raw
from eg3d.random_streams import Rng, normal, uniform
from eg3d.training.schedules import blur_taps

Images = dict[str, Tensor]
MONOTONIC_POINTS, MONOTONIC_STEPS = 2000, 256  # published: points a sample; steps across the box


def generator_loss(logits: Tensor) -> Tensor:
    """The adversarial term of L_G: -log D(G(z)) = softplus(-d(G(z))), the mean over the batch; logits d [N, 1]."""
    return F.softplus(-logits).mean()


def fake_loss(logits: Tensor) -> Tensor:
    """L_D of generated images: -log(1 - D(G(z))) = softplus(d(G(z))), the mean over the batch; logits d [N, 1]."""
    return F.softplus(logits).mean()


def real_loss(logits: Tensor) -> Tensor:
    """L_D of real images: -log D(x) = softplus(-d(x)), the mean over the batch; logits d [N, 1]."""
    return F.softplus(-logits).mean()


def blur(image: Tensor, sigma: float) -> Tensor:
    """Separable blur with zero padding of [N, C, H, H]; the identity when floor(3 sigma) is 0."""
    taps = blur_taps(sigma) if sigma > 0 else torch.ones(1)
    if len(taps) == 1:
        return image
    taps = taps.to(image)
    channels, radius = image.shape[1], len(taps) // 2
    rows = taps.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = taps.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1)
    image = F.conv2d(image, rows, padding=(radius, 0), groups=channels)
    return F.conv2d(image, columns, padding=(0, radius), groups=channels)


def real_images(image: Tensor, neural_resolution: int, sigma: float) -> Images:
    """What the discriminator sees of real images [N, 3, H, H]: both sizes, blurred alike (sigma in pixels of each)."""
    return {"image": blur(image, sigma), "image_raw": blur(resize_raw(image, neural_resolution), sigma)}


def fake_images(rendered: Rendered, sigma: float) -> Images:
    """What the discriminator sees of generated images: only the final image is blurred, as published."""
    return {"image": blur(rendered.final, sigma), "image_raw": rendered.image_raw}


def r1_penalty(
    judge: Callable[[Images], Tensor], images: Images, names: tuple[str, ...] = ("image", "image_raw")
) -> tuple[Tensor, Tensor]:
    """|grad_x d(x)|^2 at real images, per sample [N], and the logits d [N, 1]. Source: R1 (2018), eq. 9.

    R_1 is half its mean; the weight gamma / 2 is applied by the caller.

    `judge` takes images to logits; `names` are those that D looks at. Taken at the tensors that D sees, after blur and
    augmentation, as published. Differentiable twice.
    """
    seen = {name: images[name].detach().requires_grad_(True) for name in names}
    logits = judge(seen)
    gradients = torch.autograd.grad(logits.sum(), list(seen.values()), create_graph=True)
    return sum((g.square().sum(dim=(1, 2, 3)) for g in gradients), torch.zeros_like(logits[:, 0])), logits


def density_regularisation(field: Field, *, num_points: int, std: float, rng: Rng) -> Tensor:
    """L_TV: mean |sigma_raw(x) - sigma_raw(x + eps)| at x ~ U[-1, 1]^3, eps ~ N(0, std^2), world units; a scalar.

    The cube is not scaled by the box, as published. Source: EG3D (2022), density regularisation.
    """
    shape = (len(field), num_points, 3)
    points = uniform(shape, rng).to(field.device) * 2 - 1
    moved = points + std * normal(shape, rng).to(field.device)
    sigma_raw = field.density(torch.cat([points, moved], dim=1))
    return (sigma_raw[:, :num_points] - sigma_raw[:, num_points:]).abs().mean()


def monotonic_regularisation(field: Field, *, is_detached: bool, rng: Rng) -> Tensor:
    """10 * mean relu(sigma_raw(P) - sigma_raw(P')), P' one 256th of the box further from the frontal camera, along -z.

    A scalar. P ~ U[-1, 1]^3, 2,000 points a sample. Fills what the surface hides. With `is_detached` only the point
    behind is moved. Source: EG3D (2022), the regularisers `monotonic-detach` and `monotonic-fixed`.
    """
    shape = (len(field), MONOTONIC_POINTS, 3)
    points = uniform(shape, rng).to(field.device) * 2 - 1
    step = field.box_warp / MONOTONIC_STEPS
    behind = points - torch.tensor([0.0, 0.0, step], device=field.device)
    sigma_raw = field.density(torch.cat([points, behind], dim=1))
    front, back = sigma_raw.split(MONOTONIC_POINTS, dim=1)
    return 10 * ((front.detach() if is_detached else front) - back).relu().mean()


def swapped_labels(c: Tensor, other: Tensor, probability: float | None, draws: Tensor) -> Tensor:
    """Conditioning labels [N, 25]: the other sample's where draws [N, 1] are below `probability`, else one's own.

    Zeros when the probability is None. Draws are uniform in [0, 1): one a sample, or the same one for all.
    """
    return torch.zeros_like(c) if probability is None else torch.where(draws < probability, other, c)
