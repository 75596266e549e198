"""Losses against closed forms, dense references and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import rendered_with
from torch import Tensor, nn

from eg3d.networks.discriminator import DiscriminatorConfig, DualDiscriminator
from eg3d.training import losses
from eg3d.training.schedules import blur_taps


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_adversarial_losses_at_zero_and_far_out() -> None:
    zero, far = torch.zeros(3, 1), torch.full((3, 1), 50.0)
    for loss in (losses.generator_loss, losses.fake_loss, losses.real_loss):
        assert float(loss(zero)) == pytest.approx(math.log(2))
    assert float(losses.generator_loss(-far)) == pytest.approx(50)
    assert float(losses.real_loss(far)) == pytest.approx(0, abs=1e-6)
    assert float(losses.fake_loss(far)) == pytest.approx(50)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.7])
def test_separable_blur_equals_the_dense_one(sigma: float) -> None:
    image = torch.randn(2, 3, 11, 9, generator=_rng())
    taps = blur_taps(sigma)
    dense = torch.outer(taps, taps).expand(3, 1, -1, -1)
    wanted = nn.functional.conv2d(image, dense, padding=len(taps) // 2, groups=3)
    assert torch.allclose(losses.blur(image, sigma), wanted, atol=1e-6)


def test_a_narrow_blur_is_the_identity() -> None:
    image = torch.randn(1, 3, 4, 4, generator=_rng())
    assert torch.equal(losses.blur(image, 0.0), image)
    assert torch.equal(losses.blur(image, 0.3), image)


def test_only_the_final_image_of_a_fake_is_blurred() -> None:
    image = torch.randn(1, 3, 8, 8, generator=_rng())
    fake = losses.fake_images(rendered_with(image=image, image_raw=image), sigma=1.0)
    assert torch.equal(fake["image_raw"], image)
    assert torch.equal(fake["image"], losses.blur(image, 1.0))
    real = losses.real_images(image, 4, sigma=1.0)
    assert torch.equal(real["image"], fake["image"])
    assert real["image_raw"].shape == (1, 3, 4, 4)


class _Quadratic(nn.Module):
    """a/2 |image|^2 + b/2 |raw|^2 with a = 2, b = 3: its R1 penalty is a^2 |image|^2 + b^2 |raw|^2."""

    def forward(self, images: losses.Images) -> Tensor:
        parts = [a / 2 * images[name].square().sum((1, 2, 3)) for name, a in (("image", 2.0), ("image_raw", 3.0))]
        return (parts[0] + parts[1])[:, None]


def test_r1_of_a_quadratic_has_a_closed_form() -> None:
    rng = _rng()
    images = {name: torch.randn(3, 3, side, side, generator=rng) for name, side in (("image", 4), ("image_raw", 2))}
    penalty, logits = losses.r1_penalty(_Quadratic(), images)
    squares = [images[name].square().sum((1, 2, 3)) for name in ("image", "image_raw")]
    assert torch.allclose(penalty, 4 * squares[0] + 9 * squares[1], rtol=1e-6)
    assert logits.shape == (3, 1)


def test_r1_gradient_equals_finite_differences(discriminator_config: DiscriminatorConfig) -> None:
    torch.manual_seed(0)
    network = DualDiscriminator(discriminator_config).double()
    rng, wide = _rng(), {"dtype": torch.float64}
    images = {n: torch.randn(2, 3, side, side, generator=rng, **wide) for n, side in (("image", 16), ("image_raw", 8))}
    c = torch.randn(2, 25, generator=rng, **wide)

    def penalty() -> Tensor:
        return losses.r1_penalty(lambda seen: network(seen, c), images)[0].mean()

    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(penalty(), list(parameters.values()), allow_unused=True)
    step, checked = 1e-6, 0
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        if gradient is None or gradient.abs().max() == 0:
            continue
        index, values = int(gradient.abs().argmax()), parameter.detach().view(-1)  # a view: writes reach the parameter
        values[index] += step
        above = penalty().item()
        values[index] -= 2 * step
        below = penalty().item()
        values[index] += step
        slope = (above - below) / (2 * step)
        assert slope == pytest.approx(float(gradient.reshape(-1)[index]), rel=1e-4, abs=1e-9)
        checked += 1
    assert checked >= 6


class _LinearField:
    """A density that rises along x: sigma = slope * x."""

    def __init__(self, slope: float) -> None:
        self.slope, self.points = slope, torch.empty(0)

    device = torch.device("cpu")

    def __len__(self) -> int:
        return 4

    def density(self, points: Tensor) -> Tensor:
        self.points = points
        return self.slope * points[..., 0]


def test_density_regulariser_of_a_linear_field() -> None:
    field = _LinearField(5.0)
    loss = losses.density_regularisation(field, num_points=20_000, std=0.004, rng=_rng())  # type: ignore[arg-type]
    # E |5 * N(0, 0.004^2)|; 80,000 draws leave a relative error of 0.3 %
    assert float(loss) == pytest.approx(5 * 0.004 * math.sqrt(2 / math.pi), rel=0.015)
    points, moved = field.points.split(20_000, dim=1)
    assert points.abs().max() <= 1
    assert points.std() == pytest.approx(1 / math.sqrt(3), rel=0.01)
    assert (moved - points).std() == pytest.approx(0.004, rel=0.01)


def test_density_regulariser_of_a_constant_field_is_zero() -> None:
    loss = losses.density_regularisation(_LinearField(0.0), num_points=9, std=0.1, rng=_rng())  # type: ignore[arg-type]
    assert float(loss) == 0


class _Ramp(nn.Module):
    """A density that rises along z by a learned slope, in a box of one world unit."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.box_warp, self.device = 1.0, torch.device("cpu")

    def __len__(self) -> int:
        return 1

    def density(self, points: Tensor) -> Tensor:
        return self.slope * points[..., 2]


@pytest.mark.parametrize(("slope", "wanted"), [(2.0, 10 * 2 / 256), (-2.0, 0.0)])
def test_monotonic_regulariser_of_a_ramp(slope: float, wanted: float) -> None:
    loss = losses.monotonic_regularisation(_Ramp(slope), is_detached=False, rng=_rng())  # type: ignore[arg-type]
    assert float(loss.detach()) == pytest.approx(wanted, abs=1e-6)  # differences of float32 points near 1


@pytest.mark.parametrize(("is_detached", "slope"), [(False, 10 / 256), (True, None)])
def test_a_detached_monotonic_regulariser_moves_only_the_point_behind(is_detached: bool, slope: float | None) -> None:
    field = _Ramp(1.0)
    losses.monotonic_regularisation(field, is_detached=is_detached, rng=_rng()).backward()  # type: ignore[arg-type]
    points = torch.rand(1, losses.MONOTONIC_POINTS, 3, generator=_rng()) * 2 - 1
    behind = -10 * (points[..., 2] - 1 / 256).mean()
    assert float(field.slope.grad) == pytest.approx(float(behind) if slope is None else slope, abs=1e-5)  # type: ignore[arg-type]


def test_swapped_labels() -> None:
    c = torch.arange(4.0)[:, None].expand(4, 25)
    other, draws = c.roll(1, 0), torch.tensor([[0.0], [0.29], [0.31], [0.99]])
    assert torch.equal(losses.swapped_labels(c, other, 1.0, draws), other)
    assert torch.equal(losses.swapped_labels(c, other, 0.0, draws), c)
    assert torch.equal(losses.swapped_labels(c, other, None, draws), torch.zeros(4, 25))
    assert torch.equal(losses.swapped_labels(c, other, 0.3, draws), torch.cat([other[:2], c[2:]]))
