"""Losses of EG3D training as functions of networks and tensors. Source: EG3D (2022), StyleGAN2 (2020).

Letters: N batch, P points, H image side, R neural side. Every function returns a scalar, or [N] where it says so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d.cameras import split_label
from eg3d.fields.protocol import Field
from eg3d.generators.protocol import Rendered
from eg3d.networks.discriminator import resize_raw
from eg3d.random_streams import Rng, normal, uniform
from eg3d.rendering.rays import pixel_rays
from eg3d.training.schedules import blur_taps

Images = dict[str, Tensor]
MONOTONIC_POINTS, MONOTONIC_STEPS = 2000, 256  # published: points a sample; steps across the box
SURFACE_LEVEL, DENSITY_SCALE = (
    10.0,
    20.0,
)  # raw density: where surfaces are extracted; of one unit of depth_loss's logit
MATTER_THICKNESS = 0.03  # world units: what is solid behind every visible point of a head


def generator_loss(logits: Tensor) -> Tensor:
    """softplus(-D(G)), the mean over the batch; logits [N, 1]."""
    return F.softplus(-logits).mean()


def fake_loss(logits: Tensor) -> Tensor:
    """softplus(D(G)), the mean over the batch; logits [N, 1]."""
    return F.softplus(logits).mean()


def real_loss(logits: Tensor) -> Tensor:
    """softplus(-D(x)), the mean over the batch; logits [N, 1]."""
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
    """Squared gradient norm of D at real images, per sample [N], and the logits [N, 1]. Source: R1 (2018).

    `judge` takes images to logits; `names` are those that D looks at. Taken at the tensors that D sees, after blur and
    augmentation, as published. Differentiable twice.
    """
    seen = {name: images[name].detach().requires_grad_(True) for name in names}
    logits = judge(seen)
    gradients = torch.autograd.grad(logits.sum(), list(seen.values()), create_graph=True)
    return sum((g.square().sum(dim=(1, 2, 3)) for g in gradients), torch.zeros_like(logits[:, 0])), logits


def density_regularisation(field: Field, *, num_points: int, std: float, rng: Rng) -> Tensor:
    """Mean |sigma(P) - sigma(P + noise)| of raw density at P ~ U[-1, 1]^3, noise ~ N(0, std^2), world units.

    The cube is not scaled by the box, as published. Source: EG3D (2022), density regularisation.
    """
    shape = (len(field), num_points, 3)
    points = uniform(shape, rng).to(field.device) * 2 - 1
    moved = points + std * normal(shape, rng).to(field.device)
    sigma = field.density(torch.cat([points, moved], dim=1))
    return (sigma[:, :num_points] - sigma[:, num_points:]).abs().mean()


def monotonic_regularisation(field: Field, *, is_detached: bool, rng: Rng) -> Tensor:
    """10 * mean relu(sigma(P) - sigma(P')) with P' one 256th of the box further from the frontal camera, along -z.

    P ~ U[-1, 1]^3, 2,000 points a sample. Fills what the surface hides. With `is_detached` only the point behind is
    moved. Source: EG3D (2022), the regularisers `monotonic-detach` and `monotonic-fixed`.
    """
    shape = (len(field), MONOTONIC_POINTS, 3)
    points = uniform(shape, rng).to(field.device) * 2 - 1
    step = field.box_warp / MONOTONIC_STEPS
    behind = points - torch.tensor([0.0, 0.0, step], device=field.device)
    sigma = field.density(torch.cat([points, behind], dim=1))
    front, back = sigma.split(MONOTONIC_POINTS, dim=1)
    return 10 * ((front.detach() if is_detached else front) - back).relu().mean()


def reconstruction_loss(rendered: Rendered, image: Tensor, *, edge_weight: float) -> Tensor:
    """L1 to the real image at both sizes, plus L1 of horizontal and vertical differences.

    image [N, 3, H, H], -1 to 1. The low-resolution term sees the clean rendering, before any super-resolution residual.
    """
    raw = rendered.image_raw_clean
    target = resize_raw(image, raw.shape[-1])
    loss = (rendered.final - image).abs().mean() + (raw - target).abs().mean()
    for made, wanted in ((rendered.final, image), (raw, target)):
        difference = made - wanted
        edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        loss = loss + edge_weight * edges
    return loss


def silhouette_loss(rendered: Rendered, image: Tensor) -> Tensor:
    """Mean |opacity - mask| at the neural resolution; the mask is where the real image [N, 3, H, H] is not black.

    Only for images before an exactly black background, which is what empty rays render to.
    """
    opacity = rendered.opacity
    mask = (image > -1).any(dim=1, keepdim=True).to(image.dtype)
    return (opacity - resize_raw(mask, opacity.shape[-1])).abs().mean()


def depth_loss(
    field: Field,
    c: Tensor,
    depth: Tensor,
    *,
    limits: tuple[float, float],
    num_points: int,
    band: float,
    rng: Rng,
) -> Tensor:
    """Binary cross-entropy of the density against depth maps: air before a ray's surface, matter just behind it.

    c [N, 25]; depth [N, H, H] world units along the rays, 0 = background; limits: where rays start and end, world
    units. Half of the points lie around the surfaces of random pixels, normally distributed with deviation `band`, but
    no further behind than MATTER_THICKNESS; the other half lie evenly in the air before them, or anywhere on rays that
    hit nothing. The logit is (sigma_raw - SURFACE_LEVEL) / DENSITY_SCALE, so that the surface settles at the level
    where meshes are extracted. Source: occupancy as a classification, Occupancy Networks (2019), eq. 4.
    """
    near, far = limits
    num, side = len(depth), depth.shape[-1]
    rays = pixel_rays(*split_label(c), side)

    def draw(kind: str) -> Tensor:
        make = uniform if kind == "uniform" else normal
        return make((num, num_points), rng).to(depth.device)

    pixel = (draw("uniform") * side**2).long()
    at = depth.flatten(1).gather(1, pixel)
    is_hit = at > 0
    is_near = is_hit & (torch.arange(num_points, device=depth.device) % 2 == 0)
    offset = (band * draw("normal")).clamp_max(MATTER_THICKNESS)
    in_air = near + draw("uniform") * (torch.where(is_hit, at, far) - near)
    t = torch.where(is_near, at + offset, in_air)
    directions = rays.rays_d.gather(1, pixel.unsqueeze(-1).expand(-1, -1, 3))
    points = rays.rays_o[:, :1] + t.unsqueeze(-1) * directions
    logits = (field.density(points) - SURFACE_LEVEL) / DENSITY_SCALE
    return F.binary_cross_entropy_with_logits(logits, (is_near & (offset > 0)).to(logits))


def swapped_labels(c: Tensor, other: Tensor, probability: float | None, draws: Tensor) -> Tensor:
    """Conditioning labels [N, 25]: the other sample's where draws [N, 1] are below `probability`, else one's own.

    Zeros when the probability is None. Draws are uniform in [0, 1): one a sample, or the same one for all.
    """
    return torch.zeros_like(c) if probability is None else torch.where(draws < probability, other, c)
