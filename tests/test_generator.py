"""The generator as a whole, at toy size, and its published configurations."""

import dataclasses

import pytest
import torch

from eg3d.cameras import CameraConfig
from eg3d.generators import eg3d as generator
from eg3d.generators.eg3d import GeneratorConfig, TriPlaneGenerator
from eg3d.seeds import latents


def make(cfg):
    torch.manual_seed(0)
    G = TriPlaneGenerator(cfg).eval()
    for name, parameter in G.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.3)
    return G


def inputs(cfg, n=2):
    return latents(range(n), cfg.z_dim), CameraConfig().published().canonical().repeat(n, 1)


def test_output_shapes(generator_config):
    G = make(generator_config)
    out = G(*inputs(generator_config))
    assert {name: list(x.shape) for name, x in vars(out).items()} == {
        "image": [2, 3, 16, 16],
        "image_raw": [2, 3, 8, 8],
        "image_raw_clean": [2, 3, 8, 8],
        "image_depth": [2, 1, 8, 8],
        "opacity": [2, 1, 8, 8],
        "depth_spread": [2, 1, 8, 8],
    }
    out = G(*inputs(generator_config), neural_rendering_resolution=6)
    assert out.image_raw.shape[-1] == 6
    assert out.image.shape[-1] == 16
    assert G.neural_rendering_resolution == 8  # a call does not change it


def test_deterministic_without_rng_and_repeatable_with(generator_config):
    G, (z, c) = make(generator_config), inputs(generator_config)
    assert torch.equal(G(z, c).image, G(z, c).image)
    first, again, other = (G(z, c, noise_mode="random", rng=torch.Generator().manual_seed(s)).image for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(ValueError, match=r"rng|Generator"):
        G(z, c, noise_mode="random")


def test_forward_is_its_stages(generator_config):
    G, (z, c) = make(generator_config), inputs(generator_config)
    ws = G.mapping(z, c, truncation_psi=0.5)
    whole = G(z, c, truncation_psi=0.5)
    for name, x in vars(G.render(G.field(ws), ws, c)).items():
        assert torch.equal(x, getattr(whole, name))
    assert torch.equal(G.synthesis(ws, c).image, whole.image)
    without = G.render(G.field(ws), ws, c, superresolve=False)
    assert without.image is None
    with pytest.raises(ValueError, match="superresolve"):
        without.final  # noqa: B018
    assert torch.equal(without.image_raw, whole.image_raw_clean)


def test_density_alone_equals_the_field(generator_config):
    G, (z, c) = make(generator_config), inputs(generator_config)
    field = G.field(G.mapping(z, c))
    points = torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    sigma_raw, rgb = field.density_and_color(points)
    assert sigma_raw.shape == (2, 50)
    assert rgb.shape == (2, 50, 4)
    assert rgb.min() > -0.001
    assert rgb.max() < 1.001
    torch.testing.assert_close(field.density(points), sigma_raw, rtol=1e-6, atol=1e-6)


def test_truncation_reaches_the_mean(generator_config):
    G, (z, c) = make(generator_config), inputs(generator_config)
    G.backbone.mapping.w_avg.normal_(generator=torch.Generator().manual_seed(0))
    mean = G.mapping(z, c, truncation_psi=0)
    torch.testing.assert_close(mean, G.backbone.mapping.w_avg.expand_as(mean))
    cut = G.mapping(z, c, truncation_psi=0, truncation_cutoff=2)
    assert torch.equal(cut[:, 2:], G.mapping(z, c)[:, 2:])


def test_camera_conditioning_can_be_off(generator_config):
    z, c = inputs(generator_config)
    assert not torch.equal(make(generator_config).mapping(z, c), make(generator_config).mapping(z, c + 1))
    for change in ({"condition_on_camera": False}, {"c_scale": 0.0}):
        G = make(dataclasses.replace(generator_config, **change))
        assert torch.equal(G.mapping(z, c), G.mapping(z, c + 1))


def test_in_place_residual_is_published_and_can_be_clean(generator_config):
    """2X at its own resolution: the published image_raw carries block0's colours; a resize takes them away."""
    z, c = inputs(generator_config)
    published = make(generator_config)(z, c)
    assert not torch.equal(published.image_raw, published.image_raw_clean)
    clean = make(dataclasses.replace(generator_config, image_raw="clean"))(z, c)
    assert torch.equal(clean.image_raw, published.image_raw_clean)
    assert torch.equal(clean.image, published.image)
    resized = make(generator_config)(z, c, neural_rendering_resolution=6)
    assert torch.equal(resized.image_raw, resized.image_raw_clean)


def test_every_weight_that_should_learn_gets_a_gradient(generator_config):
    G, (z, c) = make(generator_config).train(), inputs(generator_config)
    out = G(z, c, noise_mode="random", rng=torch.Generator().manual_seed(0))
    (out.image.square().mean() + out.image_raw.square().mean()).backward()
    idle = {name for name, p in G.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # super-resolution has no noise in the published setting
    assert all(name.startswith("superresolution") and name.endswith("noise_strength") for name in idle), idle


def test_without_superresolution_the_raw_image_is_the_image(generator_config):
    cfg = dataclasses.replace(generator_config, superresolution="none", img_resolution=8)
    out = make(cfg)(*inputs(cfg))
    assert torch.equal(out.image, out.image_raw)


def test_bf16_policy_is_close_to_fp32(generator_config):
    cfg = dataclasses.replace(generator_config, num_fp16_res=2, sr_num_fp16_res=4)
    full, low = (make(dataclasses.replace(cfg, precision=p))(*inputs(cfg)).image for p in ("fp32", "bf16"))
    assert low.dtype == torch.float32
    assert not torch.equal(full, low)
    assert (full - low).abs().max() < 0.1 * full.abs().max()


@pytest.mark.parametrize("preset", ["ffhq512_128", "afhq512_128", "shapenet128_64"])
def test_presets_validate_and_build(preset):
    cfg = getattr(generator, preset)()
    assert cfg.validate() + cfg.rendering.validate() + cfg.camera.validate() == []
    with torch.device("meta"):
        G = TriPlaneGenerator(cfg)
    count = sum(p.numel() for p in G.parameters())
    published = {"ffhq512_128": 30_662_136, "afhq512_128": 29_587_512, "shapenet128_64": 31_163_448}
    assert count == published.get(preset, count)
    assert G.num_ws == (14 if preset in published else 10)


def test_all_faults_at_once():
    cfg = GeneratorConfig(z_dim=0, superresolution="3X", precision="fp8", plane_resolution=100, sr_channels=[1])
    cfg.rendering.depth_clamp = "ray"
    with pytest.raises(ValueError, match="z_dim") as caught:
        TriPlaneGenerator(cfg)
    text = str(caught.value)
    assert "\n" not in text
    for part in (
        "superresolution: '3X' is not one of 2X, 4X, 8X, 8XDC, none",
        "precision: 'fp8'",
        "plane_resolution: must be a power of two, got 100",
        "sr_channels",
        "rendering.depth_clamp: 'ray'",
    ):
        assert part in text
