"""Losses of heads that are known: images, silhouettes and depths of the data set's own heads, for the warm start.

Letters: N batch, P points, H image side. Every function returns a scalar.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d.cameras import split_label
from eg3d.fields.protocol import Field
from eg3d.generators.protocol import Rendered
from eg3d.networks.discriminator import resize_raw
from eg3d.random_streams import Rng, normal, uniform
from eg3d.rendering.rays import pixel_rays

SURFACE_LEVEL = 10.0  # raw density at which surfaces are extracted
DENSITY_SCALE = 20.0  # raw density of one unit of depth_loss's logit
MATTER_THICKNESS = 0.03  # world units: what is solid behind every visible point of a head


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
