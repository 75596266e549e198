"""The annotator that knows heads: true heads score best, and what is no head, or a damaged one, clearly worse."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from dataset_preprocessing.human_heads.codes import NUM_CODES, NUM_SHAPE, head_codes
from dataset_preprocessing.human_heads.truth import true_distance
from reward_model_training.damage import damaged
from reward_model_training.preferences.annotators.likeness import FAULTS, LikenessAnnotator, LikenessConfig
from tests.shapes import SLAB, ellipsoid

FRAME = SLAB.frame()
STEEPNESS, HALF_SPAN = 1000.0, 60.0  # raw density per world unit, and how far it goes from the level
SEEDS = (5, 6, 17)  # short hair, glasses, curly hair


def density(distance: np.ndarray) -> np.ndarray:
    """Raw density [X, Y, Z] that falls outwards through level 10 where the distance is 0."""
    return (10 - np.clip(STEEPNESS * distance, -HALF_SPAN, HALF_SPAN)).astype(np.float32)


@cache
def portrait(seed: int) -> np.ndarray:
    return density(true_distance(head_codes(seed), SLAB.spec()))


@cache
def annotator() -> LikenessAnnotator:
    return LikenessAnnotator()


def score(volume: np.ndarray) -> float:
    return annotator().judge(volume, FRAME).score


def in_depth(volume: np.ndarray, factor: float, about: float) -> np.ndarray:
    """The slab with depths stretched by `factor` about z = `about` (world units)."""
    index = np.indices(volume.shape).astype(float)
    fixed = (about - FRAME.origin[2]) / FRAME.voxel
    index[2] = fixed + (index[2] - fixed) / factor
    return map_coordinates(volume, index, order=1, mode="nearest")


@pytest.mark.parametrize("seed", SEEDS)
def test_true_heads_score_nearly_all_points_with_hair_and_glasses(seed: int) -> None:
    assert score(portrait(seed)) > 9.2


def not_heads() -> dict[str, np.ndarray]:
    egg = ellipsoid((0, 0.03, 0.1), (0.17, 0.24, 0.19))
    bump = ellipsoid((0, -0.05, 0.29), (0.03, 0.05, 0.05))
    flat = ellipsoid((0, 0.03, 0.0), (0.17, 0.24, 0.26))
    z = FRAME.origin[2] + FRAME.voxel * np.arange(SLAB.shape()[2])
    mask = np.maximum(true_distance(head_codes(SEEDS[0]), SLAB.spec()), 0.2 - z[None, None])
    caricature = head_codes(SEEDS[0]).copy()
    caricature[:NUM_SHAPE] = 5 * np.sign(np.random.RandomState(1).randn(NUM_SHAPE))
    return {
        "egg": density(egg),
        "egg with a bump": density(np.minimum(egg, bump)),
        "flat face": density(np.maximum(flat, z[None, None] - 0.24)),
        "half as deep": in_depth(portrait(SEEDS[0]), 0.5, 0.2),
        "mask behind which there is nothing": density(np.maximum(mask, -mask - 0.02)),
        "twice as deep": in_depth(portrait(SEEDS[0]), 2.0, 0.15),
        "caricature": density(true_distance(caricature, SLAB.spec())),
    }


def test_what_is_no_head_scores_clearly_less() -> None:
    worst = min(score(portrait(seed)) for seed in SEEDS)
    scores = {name: score(volume) for name, volume in not_heads().items()}
    mask = scores.pop("mask behind which there is nothing")
    assert all(value < worst - 1.5 for value in scores.values()), (worst, scores)
    assert mask < worst, "its front is a true face; what is missing is only partly seen from the front"


@pytest.mark.parametrize("kind", ["grooves", "bumps", "floaters", "holes", "flattening", "stretching", "roughness"])
def test_damage_costs_the_more_the_worse(kind: str) -> None:
    for seed in SEEDS[:2]:
        clean = torch.from_numpy(portrait(seed))
        mild, severe = (score(damaged(clean, kind, s, 3, voxel=FRAME.voxel).numpy()) for s in (0.4, 1.0))
        assert score(portrait(seed)) > severe + 0.2 and mild > severe, (mild, severe)


def test_a_voxel_of_motion_a_mirror_and_the_scale_of_density_cost_nothing() -> None:
    volume = portrait(SEEDS[0])
    clean = score(volume)
    for axis in range(3):
        assert score(np.roll(volume, 1, axis)) == pytest.approx(clean, abs=0.15)
    assert score(volume[::-1].copy()) == pytest.approx(clean, abs=0.15)
    assert score(10 + 3 * (volume - 10)) == pytest.approx(clean, abs=0.15)


def test_a_smoothed_head_loses() -> None:
    volume = portrait(SEEDS[0])
    scores = [score(gaussian_filter(volume, width)) for width in (0.0, 1.5, 3.0)]
    assert scores[0] > scores[1] + 0.3 > scores[2] + 0.6


def test_the_scale_is_the_worlds_not_the_grids() -> None:
    import dataclasses

    coarse = dataclasses.replace(SLAB, resolution=48)
    volume = density(true_distance(head_codes(SEEDS[0]), coarse.spec()))
    assert annotator().judge(volume, coarse.frame()).score == pytest.approx(score(portrait(SEEDS[0])), abs=0.6)


def test_no_surface_is_the_worst() -> None:
    shape = SLAB.shape()
    for volume in (np.zeros(shape), np.full(shape, 50.0), np.full(shape, np.nan)):
        found = annotator().judge(volume, FRAME)
        assert found.score == 0 and tuple(found.faults) == FAULTS and np.isfinite(list(found.faults.values())).all()
    with pytest.raises(ValueError, match=r"volume must be \[X, Y, Z\]"):
        annotator().judge(np.zeros((2, 2)), FRAME)


def test_the_same_slab_gets_the_same_judgement() -> None:
    volume = portrait(SEEDS[1])
    assert annotator().judge(volume, FRAME) == annotator().judge(torch.from_numpy(volume), FRAME)


def test_all_faults_of_a_config_are_told() -> None:
    faults = LikenessConfig(reach=0.0, angle_half=-1.0, holes_weight=7.0, num_codes=1000).validate()
    assert len(faults) == 4 and all(name in " ".join(faults) for name in ("reach", "angle_half", "points", "num_codes"))
    assert len(head_codes(0)) == NUM_CODES
