"""Samples: a seed names one shape, whatever it is asked with; truncation and conditioning do what they say."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import tiny_generator_config

from eg3d.cameras import PUBLISHED_FOCAL
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.samples import SampleConfig, sample_latents, sample_seed_batches, sample_seeds, seed_latents, style_codes


@pytest.fixture(scope="module")
def G() -> TriPlaneGenerator:
    torch.manual_seed(0)
    made = TriPlaneGenerator(tiny_generator_config()).eval().requires_grad_(False)
    made.backbone.mapping.w_avg.normal_(generator=torch.Generator().manual_seed(1))
    return made


def test_psi_moves_codes_along_a_line_to_the_mean(G: TriPlaneGenerator) -> None:
    z = seed_latents(G, [3, 4])
    mean, half, whole = (style_codes(G, z, SampleConfig(psi=psi)) for psi in (0.0, 0.5, 1.0))
    torch.testing.assert_close(mean, G.backbone.mapping.w_avg.expand_as(mean))
    torch.testing.assert_close(half, (mean + whole) / 2)


@pytest.mark.parametrize(("cutoff", "touched"), [(None, 6), (2, 2), (0, 0), (14, 6)])
def test_cutoff_counts_codes_and_none_is_all(G: TriPlaneGenerator, cutoff: int | None, touched: int) -> None:
    z = seed_latents(G, [3])
    plain, cut = (style_codes(G, z, SampleConfig(psi=psi, truncation_cutoff=cutoff)) for psi in (1.0, 0.3))
    assert (plain != cut).any(-1)[0].tolist() == [k < touched for k in range(G.num_ws)]


def test_a_seed_does_not_depend_on_its_neighbours(G: TriPlaneGenerator) -> None:
    seeds, cfg = [5, 6, 7, 8, 9], SampleConfig(psi=0.7)
    alone = [sample_seeds(G, [seed], cfg) for seed in seeds]
    together = list(sample_seed_batches(G, seeds, cfg, batch=2))
    assert [part for part, _ in together] == [[5, 6], [7, 8], [9]]
    for index, (_, sample) in enumerate(together):
        for k in range(len(sample)):
            one = alone[2 * index + k]
            torch.testing.assert_close(sample.rows([k]).ws, one.ws)
            torch.testing.assert_close(sample.rows([k]).field.planes, one.field.planes, atol=1e-5, rtol=1e-5)  # type: ignore[attr-defined]


def test_the_canonical_camera_is_the_generators_own_unless_told_otherwise(G: TriPlaneGenerator) -> None:
    assert SampleConfig().camera(G)[0, 16] == SampleConfig(conditioning="generator").camera(G)[0, 16] == G.camera.focal
    assert SampleConfig(conditioning="published").camera(G)[0, 16].item() == pytest.approx(PUBLISHED_FOCAL)


def test_a_camera_of_ones_own_and_none_at_all(G: TriPlaneGenerator) -> None:
    z, side = seed_latents(G, [3, 4]), G.camera.label(0.4)
    given = style_codes(G, z, SampleConfig(), c=side)
    assert torch.equal(given, G.mapping(z, side.expand(2, -1)))
    assert not torch.equal(given, style_codes(G, z, SampleConfig()))
    without = style_codes(G, z, SampleConfig(camera_factor=0.0), c=side)
    assert torch.equal(without, G.mapping(z, torch.zeros(2, 25)))


def test_random_noise_needs_its_stream(G: TriPlaneGenerator) -> None:
    z = seed_latents(G, [3])
    with pytest.raises(ValueError, match=r"rng|Generator"):
        sample_latents(G, z, SampleConfig(), noise_mode="random")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"psi": float("nan")}, "psi: must be a finite number"),
        ({"truncation_cutoff": -1}, "truncation_cutoff: expected 0 or more, or null for all"),
        ({"conditioning": "publishd"}, "did you mean 'published'"),
    ],
)
def test_faults(change: dict[str, object], word: str) -> None:
    (fault,) = dataclasses.replace(SampleConfig(), **change).validate()  # type: ignore[arg-type]
    assert word in fault
