"""The native renderer against its reference: every option, values, gradients, draws, layouts, threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from eg3d.cameras import intrinsics, lookat_c2w
from eg3d.ops.render_rays import reference
from eg3d.ops.render_rays.op import render_rays
from eg3d.ops.triplane import TriPlane
from eg3d.rendering.rays import RayBundle, pixel_rays
from eg3d.rendering.renderer import RenderedRays, RenderingConfig
from tests.ops.field import field_of, field_tensors, largest_error

pytestmark = pytest.mark.usefixtures("native")

FEW = {"depth_resolution": 6, "depth_resolution_importance": 5}


def inputs_of(dtype: torch.dtype, features: int = 4, scale: float = 1.0, **size: int) -> list[Tensor]:
    """planes, w1, b1, w2 [1 + K, H], b2 [1 + K]; densities large enough for matter, small enough for fog."""
    planes, w1, b1, w2, _ = field_tensors(**size, dtype=dtype, scale=scale)
    rng = torch.Generator().manual_seed(9)
    second = torch.randn(1 + features, len(w2), generator=rng, dtype=torch.float64) * len(w2) ** -0.5 * 4
    b2 = torch.randn(1 + features, generator=rng, dtype=torch.float64)
    return [planes, w1, b1, second.to(dtype).requires_grad_(), b2.to(dtype).requires_grad_()]


def rays_of(batch: int, side: int, dtype: torch.dtype) -> RayBundle:
    c2w = lookat_c2w(torch.linspace(-0.3, 0.3, batch), 0.1).to(dtype)
    return pixel_rays(c2w, intrinsics(4.2647).to(dtype).expand(batch, 3, 3), side)


def outputs(rendered: RenderedRays) -> list[Tensor]:
    return [rendered.rgb, rendered.depth, rendered.opacity, rendered.spread]


def ray_field(inputs: list[Tensor], cfg: RenderingConfig) -> TriPlane:
    return field_of(inputs, box_warp=cfg.box_warp, plane_axes=cfg.plane_axes)


def both(
    inputs: list[Tensor],
    side: int,
    draws: Callable[[], Any] = lambda: None,
    which: tuple[Callable, ...] = (render_rays, reference.render_rays),
    **options: Any,
) -> list[list[Tensor]]:
    """Outputs and all gradients under random upstream gradients, one list per function."""
    cfg = RenderingConfig(**(FEW | options))
    assert cfg.validate() == []
    results = []
    for function in which:
        rays = rays_of(len(inputs[0]), side, inputs[0].dtype)
        rays = RayBundle(rays.rays_o.to(inputs[0].device), rays.rays_d.to(inputs[0].device))
        values = outputs(function(ray_field(inputs, cfg), rays, cfg, draws()))
        rng = torch.Generator().manual_seed(0)
        upstream = [torch.randn(v.shape, generator=rng, dtype=torch.float64).to(v) for v in values]
        results.append([*values, *torch.autograd.grad(values, inputs, upstream)])
    return results


OPTIONS: list[dict[str, Any]] = [
    {},
    {"depth_resolution": 48, "depth_resolution_importance": 48},
    {"depth_resolution": 3, "depth_resolution_importance": 0},
    {"depth_resolution": 4, "depth_resolution_importance": 1},
    {"plane_axes": "xy_xz_zy", "importance_bins": "centred", "depth_clamp": "sample", "white_back": True},
    {"disparity_space_sampling": True},
    {"ray_start": "auto", "ray_end": "auto"},
    {"box_warp": 0.3},  # most samples lie outside the planes
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("seeded", [False, True])
def test_float64_equals_the_reference(options: dict[str, Any], seeded: bool) -> None:
    draws = (lambda: torch.Generator().manual_seed(3)) if seeded else (lambda: None)
    found, expected = both(inputs_of(torch.float64, batch=2), 3, draws, **options)
    assert [largest_error(a, b) for a, b in zip(found, expected)] == pytest.approx([0] * 9, abs=1e-10)


@pytest.mark.parametrize(
    "size", [{"channels": 32, "side": 40, "hidden": 64}, {"channels": 1, "side": 1, "hidden": 1}], ids=str
)
@pytest.mark.parametrize("side", [1, 8])  # 8: squares of pixels are rendered together
def test_sizes(size: dict[str, int], side: int) -> None:
    found, expected = both(inputs_of(torch.float64, features=20, **size), side)
    assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-10


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_float32_is_as_exact_as_the_reference(scale: float) -> None:
    """Against float64, 1e-5 of the range, or a few times what float32 costs the reference on steep fields."""
    inputs = inputs_of(torch.float32, features=32, channels=32, side=40, hidden=64, scale=scale)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    found, plain = both(inputs, 8)
    (truth,) = both(exact, 8, which=(reference.render_rays,))
    for mine, reference_value, expected in zip(found, plain, truth):
        assert largest_error(mine, expected) < max(1e-5, 3 * largest_error(reference_value, expected))


def test_another_seed_gives_other_samples() -> None:
    one, other = (
        both(inputs_of(torch.float64, batch=2), 3, lambda seed=seed: torch.Generator().manual_seed(seed))[0]
        for seed in (3, 5)
    )
    assert largest_error(one[0], other[0]) > 1e-3


def test_a_generator_is_left_as_the_reference_leaves_it() -> None:
    states = []
    for function in (render_rays, reference.render_rays):
        rng = torch.Generator().manual_seed(4)
        function(field_of(inputs_of(torch.float32)), rays_of(1, 3, torch.float32), RenderingConfig(**FEW), rng)
        states.append(rng.get_state())
    assert torch.equal(*states)


def test_first_and_second_derivatives() -> None:
    inputs = inputs_of(torch.float64, features=2, channels=2, side=4, hidden=3)
    cfg = RenderingConfig(depth_resolution=4, depth_resolution_importance=0)

    def small(*tensors: Tensor) -> tuple[Tensor, ...]:
        rendered = render_rays(field_of(tensors), rays_of(1, 2, torch.float64), cfg)
        return rendered.rgb, rendered.depth, rendered.opacity, rendered.spread

    assert torch.autograd.gradcheck(small, inputs)
    assert torch.autograd.gradgradcheck(small, inputs)


def test_layouts_and_repeated_planes() -> None:
    inputs = inputs_of(torch.float64, batch=2, channels=6)
    expected = both(inputs, 3)[1]
    planes = inputs[0].detach()
    last = planes.flatten(1, 2).contiguous(memory_format=torch.channels_last).unflatten(1, (3, 6))
    assert last.stride(2) == 1
    found = both([last.requires_grad_(), *inputs[1:]], 3, which=(render_rays,))[0]
    assert max(largest_error(a, b) for a, b in zip(found, expected)) < 1e-12
    with torch.no_grad():
        rays = rays_of(2, 3, torch.float64)
        same = RayBundle(rays.rays_o[:1].expand(2, -1, -1), rays.rays_d[:1].expand(2, -1, -1))
        rendered = render_rays(
            field_of([planes[:1].expand(2, -1, -1, -1, -1), *inputs[1:]]), same, RenderingConfig(**FEW)
        )
    assert torch.equal(rendered.rgb[0], rendered.rgb[1])


def test_threads_agree_and_a_call_repeats_bit_for_bit() -> None:
    inputs = inputs_of(torch.float32, features=8, channels=16, side=32, hidden=32)
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(both(inputs, 24, which=(render_rays,))[0])
    one, two, again = results
    assert all(torch.equal(a, b) for a, b in zip(two, again))
    assert all(torch.equal(a, b) for a, b in zip(one[:4], two[:4]))
    assert max(largest_error(a, b) for a, b in zip(one, two)) < 1e-5  # gradients are summed in two parts


def test_empty_batch_and_not_a_number() -> None:
    inputs = inputs_of(torch.float32, batch=0)
    values = outputs(render_rays(field_of(inputs), rays_of(0, 3, torch.float32), RenderingConfig(**FEW)))
    assert [list(v.shape) for v in values] == [[0, 4, 9], [0, 9], [0, 9], [0, 9]]
    assert all((g == 0).all() for g in torch.autograd.grad(sum(v.sum() for v in values), inputs))
    inputs = inputs_of(torch.float32)
    with torch.no_grad():
        inputs[1][0, 0] = float("nan")
    assert render_rays(field_of(inputs), rays_of(1, 3, torch.float32), RenderingConfig(**FEW)).rgb.isnan().any()


def test_gradients_to_rays_and_density_noise_come_from_the_reference() -> None:
    inputs, rays = inputs_of(torch.float64), rays_of(1, 2, torch.float64)
    moving = RayBundle(rays.rays_o.clone().requires_grad_(), rays.rays_d)
    (gradient,) = torch.autograd.grad(
        render_rays(field_of(inputs), moving, RenderingConfig(**FEW)).depth.sum(), moving.rays_o
    )
    assert gradient.abs().max() > 0
    with pytest.raises(ValueError, match="pass an rng"):
        render_rays(field_of(inputs), rays, RenderingConfig(**FEW, density_noise=1.0))


def test_bad_arguments_are_named() -> None:
    inputs = inputs_of(torch.float32)
    with pytest.raises(ValueError, match=r"rays must be \[1, R, 3\] for these planes, got origins \[2, 9, 3\]"):
        render_rays(field_of(inputs), rays_of(2, 3, torch.float32), RenderingConfig())
    with pytest.raises(ValueError, match=r"b2 must be \[5\] to go with w1, got \[4\]"):
        render_rays(field_of([*inputs[:4], torch.zeros(4)]), rays_of(1, 3, torch.float32), RenderingConfig())
