"""Losses of known heads: zero where the rendering is right, and pulling where it is not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import rendered_with
from torch import Tensor, nn

from eg3d.cameras import CameraConfig, split_label
from eg3d.networks.discriminator import resize_raw
from eg3d.rendering.rays import pixel_rays
from eg3d.training.reconstruction import SURFACE_LEVEL, depth_loss, reconstruction_loss, silhouette_loss

LIMITS = (2.25, 3.3)  # world units from the camera, of the published faces


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_reconstruction_of_the_image_itself_is_zero() -> None:
    image = torch.rand(2, 3, 16, 16, generator=_rng()) * 2 - 1
    raw = resize_raw(image, 8)
    rendered = rendered_with(image=image, image_raw=torch.full_like(raw, 7.0), image_raw_clean=raw)
    assert float(reconstruction_loss(rendered, image, edge_weight=1.0)) == 0


def test_reconstruction_edges_ignore_a_constant_offset() -> None:
    image = torch.rand(2, 3, 16, 16, generator=_rng())
    rendered = rendered_with(image=image + 0.25, image_raw_clean=resize_raw(image, 8) + 0.5)
    for weight in (0.0, 1.0):
        assert float(reconstruction_loss(rendered, image, edge_weight=weight)) == pytest.approx(0.75, abs=1e-5)
    rendered = dataclasses.replace(rendered, image=image.flip(-1))
    plain, edged = (float(reconstruction_loss(rendered, image, edge_weight=w)) for w in (0.0, 1.0))
    assert edged > plain


def test_silhouette_of_the_right_opacity_is_zero() -> None:
    image = torch.full((1, 3, 16, 16), -1.0)
    image[:, 1, 4:12, 4:12] = 0.5
    mask = (image > -1).any(1, keepdim=True).float()
    opacity = resize_raw(mask, 8)
    assert float(silhouette_loss(rendered_with(opacity=opacity), image)) == 0
    share = float(opacity.mean())
    assert float(silhouette_loss(rendered_with(opacity=torch.zeros(1, 1, 8, 8)), image)) == pytest.approx(share)


class _Wall(nn.Module):
    """Solid below z = `height`, air above it; `sharpness` raw density per world unit."""

    def __init__(self, height: float, sharpness: float) -> None:
        super().__init__()
        self.height, self.sharpness = nn.Parameter(torch.tensor(height)), sharpness

    def density(self, points: Tensor) -> Tensor:
        return SURFACE_LEVEL + self.sharpness * (self.height - points[..., 2])


def _wall_depths(height: float) -> tuple[Tensor, Tensor]:
    """Labels [2, 25], and the depths [2, 16, 16] at which their rays meet z = height."""
    c = CameraConfig().label(torch.tensor([0.0, 0.3]))
    rays = pixel_rays(*split_label(c), 16)
    depth = (height - rays.rays_o[..., 2]) / rays.rays_d[..., 2]
    return c, depth.reshape(2, 16, 16)


def _wall_loss(height: float, sharpness: float, wall: float = 0.2) -> tuple[Tensor, _Wall]:
    c, depth = _wall_depths(wall)
    field = _Wall(height, sharpness)
    loss = depth_loss(field, c, depth, limits=LIMITS, num_points=4000, band=0.03, rng=_rng())  # type: ignore[arg-type]
    return loss, field


def test_depth_loss_is_least_at_the_true_surface() -> None:
    heights = (0.1, 0.15, 0.19, 0.2, 0.21, 0.25, 0.3)
    values = [float(_wall_loss(height, sharpness=4000.0)[0].detach()) for height in heights]
    assert min(values) == values[heights.index(0.2)]
    assert values[:4] == sorted(values[:4], reverse=True)
    assert values[3:] == sorted(values[3:])


@pytest.mark.parametrize(("height", "sign"), [(0.15, -1), (0.25, 1)])
def test_depth_loss_pulls_the_surface_to_the_depths(height: float, sign: int) -> None:
    loss, field = _wall_loss(height, sharpness=1000.0)
    loss.backward()
    assert field.height.grad is not None
    assert sign * float(field.height.grad) > 0


def test_depth_loss_of_emptiness_before_emptiness_vanishes() -> None:
    c, depth = _wall_depths(0.2)
    field = _Wall(-5.0, 1000.0)  # air everywhere in the box
    loss = depth_loss(field, c, torch.zeros_like(depth), limits=LIMITS, num_points=50, band=0.03, rng=_rng())  # type: ignore[arg-type]
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
