"""Schedules against the numbers of EG3D's recipe."""

from __future__ import annotations

import pytest
import torch

from eg3d.training import schedules


def test_a_fade_without_duration_is_over_at_once() -> None:
    assert schedules.fade(0, 0) == 1.0
    assert [schedules.fade(n, 2) for n in (0, 1000, 2000, 9000)] == [0.0, 0.5, 1.0, 1.0]


def test_blur_fades_linearly() -> None:
    sigmas = [schedules.blur_sigma(n, init_sigma=10, fade_kimg=200) for n in (0, 50_000, 200_000, 10**7)]
    assert sigmas == [10.0, 7.5, 0.0, 0.0]
    assert schedules.blur_sigma(0, init_sigma=10, fade_kimg=0) == 0.0


@pytest.mark.parametrize(("sigma", "taps"), [(10.0, 61), (1.0, 7), (0.34, 3), (0.33, 1)])
def test_blur_taps(sigma: float, taps: int) -> None:
    found = schedules.blur_taps(sigma)
    assert len(found) == taps
    assert torch.allclose(found, found.flip(0), rtol=1e-6)
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)


def test_blur_taps_halve_at_one_sigma() -> None:
    taps = schedules.blur_taps(10.0)
    assert float(taps[30 + 10] / taps[30]) == pytest.approx(0.5, rel=1e-6)
    assert float(taps[30 + 20] / taps[30]) == pytest.approx(1 / 16, rel=1e-6)


def test_swap_probability_starts_at_one() -> None:
    found = [schedules.swap_probability(n, final=0.5, fade_kimg=1000) for n in (0, 500_000, 1_000_000, 10**7)]
    assert found == [1.0, 0.75, 0.5, 0.5]
    assert schedules.swap_probability(0, final=0.5, fade_kimg=0) == 0.5
    assert schedules.swap_probability(0, final=None, fade_kimg=1000) is None


def test_neural_resolution_is_96_half_way_from_64_to_128() -> None:
    found = [
        schedules.neural_resolution(n, initial=64, final=128, fade_kimg=1000) for n in (0, 500_000, 1_000_000, 10**7)
    ]
    assert found == [64, 96, 128, 128]
    assert schedules.neural_resolution(0, initial=64, final=None, fade_kimg=1000) == 64
    assert schedules.neural_resolution(0, initial=64, final=128, fade_kimg=0) == 128


def test_neural_resolution_rounds_half_to_even() -> None:
    assert schedules.neural_resolution(500, initial=2, final=3, fade_kimg=1) == 2
    assert schedules.neural_resolution(500, initial=3, final=4, fade_kimg=1) == 4


def test_ema_beta() -> None:
    assert schedules.ema_beta(10**9, batch=32, ema_kimg=10, rampup=0.05) == pytest.approx(0.5 ** (32 / 10_000))
    assert schedules.ema_beta(20_000, batch=32, ema_kimg=10, rampup=0.05) == pytest.approx(0.5 ** (32 / 1000))
    assert schedules.ema_beta(0, batch=16, ema_kimg=5, rampup=None) == pytest.approx(0.5 ** (16 / 5000))
    assert schedules.ema_beta(0, batch=32, ema_kimg=10, rampup=0.05) == 0.0  # the first average is the network itself


def test_lazy_ratio() -> None:
    assert schedules.lazy_ratio(None) == 1.0
    assert 0.0025 * schedules.lazy_ratio(4) == pytest.approx(0.002)
    assert 0.002 * schedules.lazy_ratio(16) == pytest.approx(0.0018824, rel=1e-4)
