"""Compositing: closed forms and limits; the two-pass renderer against a plain sort-and-gather version."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from eg3d.cameras import intrinsics, lookat_c2w
from eg3d.rendering.compositing import expected_depth, interval_weights, sample_weights
from eg3d.rendering.rays import pixel_rays
from eg3d.rendering.renderer import RenderingConfig, render_rays
from eg3d.rendering.sampling import importance_depths, stratified_depths

SMALL = RenderingConfig(depth_resolution=6, depth_resolution_importance=5)


def rays(n=2, side=3):
    return pixel_rays(lookat_c2w(torch.linspace(-0.3, 0.3, n), 0.1), intrinsics(4.2647).expand(n, 3, 3), side)


def ball(points):
    """A smooth ball with colours that vary in space: raw density [N, P], colours [N, 2, P]."""
    sigma_raw = 60 * (0.3 - points.norm(dim=-1))
    return sigma_raw, torch.sigmoid(points[..., :2]).transpose(1, 2)


def test_constant_density_has_a_closed_form():
    t = (torch.rand(1, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 2).sort(-1).values
    weights = interval_weights(torch.full_like(t, 3.0), t)
    expected = 1 - torch.exp(-math.log(1 + math.exp(2.0)) * (t[..., -1] - t[..., 0]))
    torch.testing.assert_close(weights.sum(-1), expected, atol=1e-8, rtol=1e-8)


def test_weights_are_shares_and_spreading_keeps_midpoint_sums():
    rng = torch.Generator().manual_seed(0)
    t = (torch.rand(2, 3, 9, generator=rng) + 2).sort(-1).values
    weights = interval_weights(torch.randn(2, 3, 9, generator=rng) * 50, t)
    assert (weights >= 0).all()
    assert (weights.sum(-1) <= 1 + 1e-6).all()
    colours = torch.rand(2, 3, 9, generator=rng)
    midpoints = (weights * 0.5 * (colours[..., 1:] + colours[..., :-1])).sum(-1)
    torch.testing.assert_close((sample_weights(weights) * colours).sum(-1), midpoints)


def test_raw_densities_are_averaged_before_the_activation():
    t = torch.tensor([[[1.0, 1.5]]])
    alpha = interval_weights(torch.tensor([[[-4.0, 8.0]]]), t)
    assert alpha.item() == pytest.approx(1 - math.exp(-0.5 * math.log(1 + math.exp(2 - 1))), rel=1e-6)
    with pytest.raises(ValueError, match="at least 2 samples a ray, got 1"):
        interval_weights(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))


def test_batch_wide_depth_clamp_is_published_and_can_be_per_sample():
    t = torch.tensor([[[1.0, 2.0]], [[5.0, 9.0]]])
    empty = torch.zeros(2, 1, 1)
    assert expected_depth(empty, t).flatten().tolist() == [9, 9]  # item 0 gets a distance of its neighbour
    assert expected_depth(empty, t, "sample").flatten().tolist() == [2, 9]
    assert expected_depth(torch.full((2, 1, 1), 0.5), t).flatten().tolist() == [1.5, 7]
    with pytest.raises(ValueError, match="'ray' is not one of batch, sample"):
        expected_depth(empty, t, "ray")


def test_depth_of_an_empty_ray_has_finite_gradients():
    weights = torch.zeros(1, 2, 3, requires_grad=True)
    expected_depth(weights, torch.arange(4.0).expand(1, 2, 4)).sum().backward()
    assert weights.grad.isfinite().all()


def plain_render(field, bundle, cfg):
    """Both passes joined, sorted, gathered and composited at midpoints, with a loop over samples."""
    near, far = (torch.full_like(bundle.rays_o[..., 0], v) for v in (cfg.ray_start, cfg.ray_end))
    t = stratified_depths(near, far, cfg.depth_resolution, rng=None)

    def evaluate(depths):
        points = bundle.rays_o[:, :, None] + depths[..., None] * bundle.rays_d[:, :, None]
        sigma_raw, rgb = field(points.flatten(1, 2))
        return sigma_raw.view_as(depths), rgb.transpose(1, 2).reshape(*depths.shape, -1)

    def march(sigma_raw, rgb, depths):
        light, total = torch.ones_like(sigma_raw[..., 0]), torch.zeros_like(sigma_raw[..., 0])
        colour, depth, weights = 0, 0, []
        for k in range(depths.shape[-1] - 1):
            sigma = F.softplus((sigma_raw[..., k] + sigma_raw[..., k + 1]) / 2 - 1)
            alpha = 1 - torch.exp(-sigma * (depths[..., k + 1] - depths[..., k]))
            weights.append(light * alpha)
            light = light * (1 - alpha + 1e-10)
            colour = colour + weights[-1][..., None] * (rgb[..., k, :] + rgb[..., k + 1, :]) / 2
            depth = depth + weights[-1] * (depths[..., k] + depths[..., k + 1]) / 2
            total = total + weights[-1]
        return colour, depth, total, torch.stack(weights, -1)

    sigma_raw, rgb = evaluate(t)
    fine = importance_depths(t, march(sigma_raw, rgb, t)[3], cfg.depth_resolution_importance, rng=None)
    sigma_raw_fine, rgb_fine = evaluate(fine)
    t, order = torch.cat([t, fine], -1).sort(-1)
    sigma_raw = torch.cat([sigma_raw, sigma_raw_fine], -1).gather(-1, order)
    rgb = torch.cat([rgb, rgb_fine], -2).gather(-2, order[..., None].expand(*order.shape, rgb.shape[-1]))
    colour, depth, total, _ = march(sigma_raw, rgb, t)
    colour = colour + (1 - total)[..., None] if cfg.white_back else colour
    return 2 * colour - 1, (depth / total).nan_to_num(float("inf")).clamp(t.min(), t.max()), total


@pytest.mark.parametrize("white_back", [False, True])
def test_renderer_equals_the_plain_version(white_back):
    cfg = dataclasses.replace(SMALL, white_back=white_back)
    out = render_rays(ball, rays(), cfg)
    rgb, depth, total = plain_render(ball, rays(), cfg)
    torch.testing.assert_close(out.rgb.transpose(1, 2), rgb)
    torch.testing.assert_close(out.depth, depth)
    torch.testing.assert_close(out.opacity, total)


def test_gradients_equal_those_of_the_plain_version():
    def gradient(render):
        scale = torch.tensor([60.0, 1.0], requires_grad=True)

        def field(points):
            return scale[0] * (0.3 - points.norm(dim=-1)), torch.sigmoid(scale[1] * points[..., :2]).transpose(1, 2)

        out = render(field)
        (out[0].square().sum() + out[1].sum()).backward()
        return scale.grad

    def ours(field):
        out = render_rays(field, rays(), SMALL)
        return out.rgb.transpose(1, 2), out.depth

    torch.testing.assert_close(gradient(ours), gradient(lambda field: plain_render(field, rays(), SMALL)))


@pytest.mark.parametrize(("white_back", "colour"), [(False, -1.0), (True, 1.0)])
def test_empty_space_is_background_in_every_channel(white_back, colour):
    def nothing(points):
        return torch.full(points.shape[:2], -200.0), torch.full((len(points), 5, points.shape[1]), 0.3)

    cfg = dataclasses.replace(SMALL, white_back=white_back)
    out = render_rays(nothing, rays(), cfg)
    torch.testing.assert_close(out.rgb, torch.full_like(out.rgb, colour))
    cell = (cfg.ray_end - cfg.ray_start) / 5
    torch.testing.assert_close(out.depth, torch.full_like(out.depth, cfg.ray_end + cell / 2))


def test_a_seed_repeats_the_draws_and_no_seed_is_deterministic():
    def image(rng):
        return render_rays(ball, rays(), SMALL, rng).rgb

    first, again, other = (image(torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(image(None), image(None))


def test_draw_order_is_jitter_then_importance():
    rng = torch.Generator().manual_seed(5)
    render_rays(ball, rays(2, 3), SMALL, rng)
    twin = torch.Generator().manual_seed(5)
    torch.rand((2, 9, 6, 1), generator=twin)
    torch.rand((18, 5), generator=twin)
    assert torch.equal(rng.get_state(), twin.get_state())


def test_one_pass_one_ray_and_rays_from_the_box():
    single = rays(1, 1)
    assert render_rays(ball, single, SMALL).rgb.shape == (1, 2, 1)
    assert render_rays(ball, single, dataclasses.replace(SMALL, depth_resolution_importance=0)).depth.shape == (1, 1)
    # 30 samples in the box alone see the ball as 60 over the longer way do
    auto = RenderingConfig(ray_start="auto", ray_end="auto", depth_resolution=200, depth_resolution_importance=0)
    fixed = RenderingConfig(depth_resolution=200, depth_resolution_importance=0)
    torch.testing.assert_close(
        render_rays(ball, single, auto).depth, render_rays(ball, single, fixed).depth, atol=5e-3, rtol=0
    )


def test_density_noise_needs_a_generator_and_changes_densities():
    noisy = dataclasses.replace(SMALL, density_noise=5.0)
    with pytest.raises(ValueError, match="pass an rng"):
        render_rays(ball, rays(), noisy)
    quiet = render_rays(ball, rays(), SMALL, torch.Generator().manual_seed(0))
    loud = render_rays(ball, rays(), noisy, torch.Generator().manual_seed(0))
    assert not torch.equal(quiet.rgb, loud.rgb)


def test_config_names_every_fault():
    faults = RenderingConfig(
        ray_start="auto",
        box_warp=0,
        depth_resolution=3,
        density_noise=-1,
        plane_axes="xyz",
        importance_bins="left",
        depth_clamp="no",
    ).validate()
    assert len(faults) == 7
    assert "plane_axes: 'xyz' is not one of xy_xz_zx, xy_xz_zy" in faults
    assert RenderingConfig().validate() == []
    assert RenderingConfig(ray_start="auto", ray_end="auto").validate() == []
    assert "ray_start: must be below ray_end, got 3 and 2" in RenderingConfig(ray_start=3, ray_end=2).validate()
