"""Pictures of seeds: the same at every call, alone and among others."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eg3d.cameras import FFHQ_FOV_DEG
from eg3d.generators.eg3d import GeneratorConfig, TriPlaneGenerator
from eg3d.generators.protocol import Rendered
from eg3d.representations.shape import density_volume
from eg3d.viewing import views
from eg3d.viewing.samples import seed_views
from eg3d.viewing.views import ViewingConfig, for_viewing, render, viewed_seeds, with_fov

# Another batch size may take another order of sums in a matrix product: a few float32 steps of values near 1.
ROUNDING = 2e-5


def make(cfg: GeneratorConfig, **rendering: Any) -> TriPlaneGenerator:
    cfg = dataclasses.replace(cfg, rendering=dataclasses.replace(cfg.rendering, **rendering))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        G = TriPlaneGenerator(cfg).eval()
    for name, parameter in G.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.3)
    G.decoder.net[2].weight.data.mul_(8)  # something to see, and empty space beside it
    return G


@torch.no_grad()
def look(G: TriPlaneGenerator, seeds: list[int], cfg: ViewingConfig, yaw: float = 0.3) -> Rendered:
    G = for_viewing(G, cfg)
    return render(G, viewed_seeds(G, seeds, cfg), G.camera.label(yaw).expand(len(seeds), -1), cfg)


VARIANTS = {
    "default": ViewingConfig(psi=0.7),
    "no noise": ViewingConfig(noise_mode="none"),
    "random noise": ViewingConfig(noise_mode="random", noise_seed=3),
    "jitter": ViewingConfig(jitter=True, noise_mode="random"),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("limits", [{}, {"ray_start": "auto", "ray_end": "auto", "box_warp": 0.3}])
def test_a_picture_does_not_depend_on_its_neighbours(generator_config, name, limits) -> None:
    G = make(generator_config, **limits)
    together = look(G, [5, 0, 9, 2], VARIANTS[name])
    for index, seed in enumerate([5, 0, 9, 2]):
        for key, alone in vars(look(G, [seed], VARIANTS[name])).items():
            among = getattr(together, key)[index : index + 1]
            torch.testing.assert_close(among, alone, atol=ROUNDING, rtol=ROUNDING, msg=key)


def test_the_published_depth_clamp_does_depend_on_neighbours(generator_config) -> None:
    """So the test above could fail. A camera further away stretches the depths of the whole batch."""
    G = make(generator_config, ray_start="auto", ray_end="auto", box_warp=0.3)
    G.decoder.net[2].weight.data.zero_()
    G.decoder.net[2].bias.data.fill_(-1e4)  # nothing anywhere: every ray takes its limit
    for clamp, is_alike in (("sample", True), ("batch", False)):
        cfg = ViewingConfig(depth_clamp=clamp)
        viewed = for_viewing(G, cfg)
        near, far = G.camera.canonical(), dataclasses.replace(G.camera, radius=4.0).canonical()
        with torch.no_grad():
            sample = viewed_seeds(viewed, [0, 1], cfg)
            both = render(viewed, sample, torch.cat([near, far]), cfg).image_depth
            alone = render(viewed, sample.rows(slice(0, 1)), near, cfg).image_depth
        assert torch.allclose(both[:1], alone, atol=ROUNDING) is is_alike


@pytest.mark.parametrize("name", VARIANTS)
def test_every_call_gives_the_same_bits(generator_config, name) -> None:
    G = make(generator_config)
    torch.manual_seed(1)
    first = look(G, [0, 4], VARIANTS[name])
    torch.manual_seed(2)  # nothing comes from the global generator
    look(G, [8], VARIANTS[name])  # nor from what was rendered before
    for key, again in vars(look(G, [0, 4], VARIANTS[name])).items():
        assert torch.equal(getattr(first, key), again), key


def test_randomness_is_off_unless_asked_for(generator_config) -> None:
    cfg = dataclasses.replace(generator_config, superresolution_noise_mode="random")
    G = make(cfg, density_noise=0.5)
    plain = look(G, [0], ViewingConfig()).final
    quiet = look(make(generator_config), [0], ViewingConfig()).final
    assert torch.equal(plain, quiet)
    for change in ({"jitter": True}, {"noise_mode": "random"}):
        assert not torch.equal(plain, look(G, [0], ViewingConfig(**change)).final), change
        other = look(G, [0], ViewingConfig(**change, noise_seed=1)).final
        assert not torch.equal(other, look(G, [0], ViewingConfig(**change)).final), change


def test_views_of_a_seed_share_their_noise_and_planes_are_made_once(generator_config, monkeypatch) -> None:
    G = make(generator_config)
    calls = []
    monkeypatch.setattr(G.backbone.synthesis, "forward", counted(G.backbone.synthesis.forward, calls))
    labels = torch.cat([G.cfg.camera.label(), G.cfg.camera.label()])
    cfg = ViewingConfig(noise_mode="random", jitter=True)
    seen = list(seed_views(G, [1, 2, 3], labels, cfg, conditioning=G.cfg.camera.label(), batch=2))
    assert [view.seed for view in seen] == [1, 2, 3]
    assert sum(calls) == 3  # one set of planes a seed, not one a view
    for view in seen:
        assert torch.equal(view.images[0], view.images[1])


def counted(forward, calls):
    def wrapper(ws, **kwargs):
        calls.append(len(ws))
        return forward(ws, **kwargs)

    return wrapper


@pytest.mark.parametrize(("batch", "at_once"), [(1, 32), (1, 2), (2, 4), (5, 1)])
def test_the_batch_size_changes_nothing(generator_config, batch, at_once, monkeypatch) -> None:
    monkeypatch.setattr(views, "MOST_AT_ONCE", at_once)
    G = make(generator_config)
    labels = torch.cat([G.cfg.camera.label(yaw) for yaw in (0.4, 0.0, -0.4)])
    images = [
        torch.stack(
            [view.images for view in seed_views(G, [3, 1], labels, ViewingConfig(), conditioning=labels[1:2], batch=n)]
        )
        for n in (batch, 6)
    ]
    torch.testing.assert_close(*images, atol=ROUNDING, rtol=0)
    expected = look(G, [3], ViewingConfig(), yaw=-0.4).final
    torch.testing.assert_close(images[0][0, 2:], expected, atol=ROUNDING, rtol=0)


def test_the_generator_itself_stays_as_it_is(generator_config) -> None:
    G = make(generator_config)
    before, side = dataclasses.replace(G.cfg), G.neural_rendering_resolution
    viewed = for_viewing(G, ViewingConfig(sample_multiplier=2, neural_rendering_resolution=5, jitter=True))
    assert (G.cfg, G.neural_rendering_resolution) == (before, side)
    assert viewed.cfg.rendering.depth_resolution == 2 * before.rendering.depth_resolution
    assert viewed.neural_rendering_resolution == 5
    assert viewed.backbone is G.backbone


class _NoFloat64(TorchDispatchMode):
    """Apple GPUs have no float64: any operation that makes or takes it is an error."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            is_double = isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64
            assert not is_double, f"{func} in float64"
        return out


@pytest.mark.parametrize("name", VARIANTS)
def test_no_float64_on_the_way(generator_config, name) -> None:
    G = make(generator_config)
    with pytest.raises(AssertionError, match="float64"), _NoFloat64():
        torch.zeros(1, dtype=torch.float64)
    with _NoFloat64():
        look(G, [0, 1], VARIANTS[name])
        field = G.field_of_planes(torch.zeros(1, 3, 2, 8, 8))
        for grid in ("exact", "skewed"):
            density_volume(field, 4, grid=grid)


def test_field_of_view() -> None:
    camera = GeneratorConfig().camera
    assert with_fov(camera, None) == camera
    assert with_fov(camera, 18).focal == pytest.approx(4.465175, abs=1e-5)  # what EG3D's script rounds its default to
    assert with_fov(camera, FFHQ_FOV_DEG).focal == pytest.approx(4.263391, abs=1e-5)
    for bad in (0, 180, math.nan):
        with pytest.raises(ValueError, match="fov_deg"):
            with_fov(camera, bad)


def test_all_faults_at_once(generator_config) -> None:
    bad = ViewingConfig(noise_mode="loud", depth_clamp="ray", sample_multiplier=0, neural_rendering_resolution=0)
    with pytest.raises(ValueError, match="noise_mode: 'loud'") as error:
        for_viewing(make(generator_config), bad)
    assert [fault.split(":")[0] for fault in str(error.value).split("; ")] == [
        "noise_mode", "depth_clamp", "sample_multiplier", "neural_rendering_resolution"
    ]  # fmt: skip


def test_big_networks_are_rendered_a_few_at_a_time(generator_config, monkeypatch) -> None:
    G = make(generator_config)
    assert views.pictures_at_once(G) == views.MOST_AT_ONCE
    monkeypatch.setattr(G, "neural_rendering_resolution", 128)
    monkeypatch.setattr(G.cfg.rendering, "depth_resolution", 48)
    assert views.pictures_at_once(G) == 1
