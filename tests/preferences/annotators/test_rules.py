"""The simulated annotator: which changes of a shape cost points, and how it orders."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from dataset_preprocessing.human_heads.codes import head_codes
from dataset_preprocessing.human_heads.truth import true_distance
from reward_model_training.preferences.annotators.rules import (
    NO_SURFACE,
    RulesAnnotator,
    RulesConfig,
    surface_quality,
)
from tests.shapes import SLAB, density, ellipsoid, head, noise, slab_axes

CLEAN = surface_quality(density(head()))


@cache
def true_head(seed: int) -> np.ndarray:
    """Raw density [X, Y, Z] of the portrait that `seed` names."""
    return density(true_distance(head_codes(seed), SLAB.spec()))


def test_a_clean_head_is_nearly_perfect() -> None:
    assert CLEAN.score > 9.5 and CLEAN.stray < 1e-6 and CLEAN.holes < 1e-6


@pytest.mark.parametrize("sigma", [0.6, 0.8, 1.2])  # voxels
def test_small_scale_noise_lowers_the_score_the_more_the_louder(sigma: float) -> None:
    scores = [surface_quality(density(head()) + noise(a, sigma=sigma, seed=1)) for a in (0.0, 2.0, 4.0, 8.0)]
    assert all(a.score > b.score + 0.2 for a, b in pairwise(scores))
    assert all(a.roughness < b.roughness for a, b in pairwise(scores))


def test_a_floating_blob_lowers_the_score_the_more_the_larger() -> None:
    blobs = [ellipsoid((0.18, 0.2, 0.3), (radius,) * 3) for radius in (0.015, 0.03, 0.05)]
    scores = [surface_quality(density(np.minimum(head(), blob))) for blob in blobs]
    assert all(a.score > b.score + 0.05 for a, b in pairwise([CLEAN, *scores]))
    assert all(score.stray > 0 for score in scores)


@pytest.mark.parametrize("is_hollow", [False, True])
def test_a_hole_lowers_the_score(is_hollow: bool) -> None:
    x, y, z = slab_axes()
    shape = np.maximum(head(), -(head() + 0.05)) if is_hollow else head()
    whole = surface_quality(density(shape))
    assert whole.score > 9.5, "what the camera's side can not see costs nothing"
    for centre in ((0.05, -0.03), (0.05, 0.2)):  # in the face, and on the forehead's side
        drill = 0.03 - np.hypot(x - centre[0], y - centre[1])
        holed = surface_quality(density(np.maximum(shape, np.where(z > -0.02, drill, -1))))
        if is_hollow or centre[1] < 0.1:
            assert holed.score < whole.score - 0.3 and holed.holes > whole.holes
        else:
            assert holed.score <= whole.score + 0.05


def test_a_tunnel_through_the_head_counts() -> None:
    x, y, _ = slab_axes()
    tunnel = surface_quality(density(np.maximum(head(), 0.025 - np.hypot(x - 0.05, y - 0.12))))
    assert tunnel.holes > 0 and tunnel.score < CLEAN.score - 0.3


def test_a_smooth_nose_costs_next_to_nothing() -> None:
    for nose in (0.05, 0.08):
        assert surface_quality(density(head(nose=nose))).score > CLEAN.score - 0.3


def test_an_inflated_blob_without_features_does_not_win() -> None:
    for radii in ((0.2, 0.2, 0.2), (0.2, 0.25, 0.2)):
        assert surface_quality(density(ellipsoid((0, 0.02, 0.1), radii))).score < CLEAN.score - 0.3


def test_an_exaggerated_nose_costs_the_more_the_longer() -> None:
    scores = [surface_quality(density(head(nose=nose))) for nose in (0.08, 0.14, 0.2)]
    assert all(a.score > b.score + 0.2 for a, b in pairwise(scores))
    assert all(a.relief < b.relief for a, b in pairwise(scores))


def test_a_lopsided_face_costs_the_more_the_more_lopsided() -> None:
    x, y, _ = slab_axes()
    cheek = np.exp(-((x - 0.09) ** 2 + (y + 0.03) ** 2) / (2 * 0.05**2))
    scores = [surface_quality(density(head() - height * cheek)) for height in (0.0, 0.006, 0.012)]
    assert CLEAN.asymmetry == pytest.approx(0, abs=1e-6)
    assert all(a.score > b.score + 0.2 for a, b in pairwise(scores))
    assert all(a.asymmetry < b.asymmetry for a, b in pairwise(scores))
    mirrored = surface_quality(density(head() - 0.012 * cheek)[::-1])
    assert mirrored.asymmetry == pytest.approx(scores[-1].asymmetry, rel=1e-6)


def test_true_heads_lose_little() -> None:
    """People are a little lopsided, have open mouths and flatter faces than the rule's constants were set on."""
    found = [surface_quality(true_head(seed)) for seed in range(8)]
    assert np.median([score.score for score in found]) > 8.3 and min(score.score for score in found) > 7
    assert all(score.roughness < 0.0008 and score.stray < 0.01 and score.holes < 0.2 for score in found)
    assert all(0.007 < score.relief < RulesConfig().relief_most for score in found)
    assert all(score.asymmetry < 0.005 for score in found)


@pytest.mark.parametrize("seed", range(8))
def test_the_true_heads_beat_their_noisy_and_their_over_smoothed_selves(seed: int) -> None:
    true = true_head(seed)
    clean = surface_quality(true)
    assert surface_quality(true + noise(1.0, seed=seed)).score < clean.score - 0.5
    assert surface_quality(true + noise(4.0, sigma=1.5, seed=seed)).score < clean.score - 0.5  # lumps
    assert surface_quality(gaussian_filter(true, 2.0)).score < clean.score


def test_the_scale_is_the_worlds_not_the_grids() -> None:
    fine = type(SLAB)(resolution=96, grid="exact")
    waves = [0.004 * np.sin(90 * slab_axes(cfg)[0]) * np.sin(90 * slab_axes(cfg)[1]) for cfg in (SLAB, fine)]
    coarse, refined = (
        surface_quality(density(head(cfg=cfg) + wave), voxel=1 / (cfg.resolution - 1))
        for cfg, wave in zip((SLAB, fine), waves)
    )
    assert refined.roughness == pytest.approx(coarse.roughness, rel=0.35)


def test_a_field_that_hits_the_level_at_grid_points_is_judged_like_one_beside_it() -> None:
    """Faces without area, of which whole numbers make many, are no neighbours to smooth over, and open no tunnel."""
    stepped = np.round(density(head()) / 2) * 2
    assert (stepped == RulesConfig().level).sum() > 100
    found, beside = (surface_quality((stepped + shift).astype(np.float32)) for shift in (0.0, 1e-3))
    assert (found.holes, found.stray) == (beside.holes, beside.stray) == (0.0, 0.0)
    assert found.score == pytest.approx(beside.score, abs=0.3)


@pytest.mark.parametrize(
    "volume",
    [
        np.zeros((32, 36, 33)),
        np.full((32, 36, 33), 50.0),
        np.full((32, 36, 33), np.nan),
        np.where(np.arange(33) < 5, np.inf, np.zeros((32, 36, 33))),
    ],
)
def test_without_a_surface_the_score_is_the_worst(volume: np.ndarray) -> None:
    assert surface_quality(volume) == NO_SURFACE


@pytest.mark.parametrize("seed", range(5))
def test_odd_volumes_give_finite_scores_in_range(seed: int) -> None:
    rng = np.random.RandomState(seed)
    volume = rng.standard_normal((6 + seed, 7, 5)) * 30
    if seed == 4:
        volume = np.full((9, 9, 9), -5.0)
        volume[4, 4, 4] = 40.0
    score = surface_quality(volume)
    assert np.isfinite([score.roughness, score.stray, score.holes, score.score, score.relief, score.asymmetry]).all()
    assert 0 <= score.score < 6 and 0 <= score.stray <= 1 and 0 <= score.holes <= 1


def test_the_same_volume_gives_the_same_score_as_array_or_tensor() -> None:
    volume = density(head()) + noise(2.0).astype(np.float32)
    before = volume.copy()
    assert surface_quality(volume) == surface_quality(volume) == surface_quality(torch.from_numpy(volume))
    assert np.array_equal(before, volume)


def test_temperature_zero_sorts_and_keeps_the_order_of_ties() -> None:
    annotator = RulesAnnotator()
    assert annotator.rank([1.0, 3.0, 2.0]).tolist() == [1, 2, 0]
    assert annotator.rank([5.0, 7.0, 5.0, 7.0]).tolist() == [1, 3, 0, 2]


def test_noise_is_bradley_terry_and_vanishes_with_the_temperature() -> None:
    def share(temperature: float) -> float:
        annotator = RulesAnnotator(RulesConfig(temperature=temperature))
        rng = annotator.rng()
        return float(np.mean([annotator.rank([1.0, 0.0], rng)[0] == 0 for _ in range(4000)]))

    assert share(1.0) == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.03)  # 4 standard errors
    assert share(1e-3) == 1.0
    assert share(1e4) == pytest.approx(0.5, abs=0.03)


def test_noise_depends_on_the_seed_alone() -> None:
    def order(seed: int) -> list[int]:
        return RulesAnnotator(RulesConfig(temperature=5.0, seed=seed)).rank(np.arange(6.0)).tolist()

    assert order(1) == order(1) and len({tuple(order(seed)) for seed in range(8)}) > 1


def test_faults_are_named() -> None:
    faults = RulesConfig(temperature=-1.0, smoothing=0.0, stray_weight=9.0, window_x=(0.7, 0.2)).validate()
    assert len(faults) == 4 and all(any(w in f for f in faults) for w in ("temperature", "smoothing", "window_x"))
    faults = RulesConfig(wide_x=(0.2, 0.7), relief_most=0.001, asymmetry_half=0.0).validate()
    assert [fault.split(":")[0] for fault in faults] == ["asymmetry_half", "wide_x", "relief_most"]
    with pytest.raises(ValueError, match="finite"):
        RulesAnnotator().rank([1.0, float("nan")])
    with pytest.raises(ValueError, match=r"volume must be \[X, Y, Z\]"):
        surface_quality(np.zeros((2, 2)))
