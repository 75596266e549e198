"""Shapes against the true heads behind seeds: the truth itself has no error, everything else more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from dataset_preprocessing.human_heads.codes import NUM_CODES, head_codes
from dataset_preprocessing.human_heads.truth import true_distance
from eg3d.cameras import lookat_c2w
from eg3d.training.warm_start import codes_to_latents, latents_to_codes
from paper_result_analyses.measure import truth
from paper_result_analyses.measure.intervals import median_change
from tests.analyses.tiny_run import tiny_generator

CFG = truth.TruthConfig(num_seeds=2, resolution=48, grid_resolution=48)
FOCAL = 4.2647
CAMERAS = [lookat_c2w(yaw, 0.0)[0].double().numpy() for yaw in CFG.yaws]


@pytest.fixture(scope="module")
def distance() -> np.ndarray:
    return true_distance(head_codes(5), CFG.grid_resolution)


def found(volume: np.ndarray, known: truth.TrueHead) -> dict[str, float]:
    views, solid = truth.made_head(volume, CAMERAS, CFG, box_warp=1.0, focal=FOCAL)
    return truth.errors(known, views, solid, CFG)


def test_the_true_head_has_no_error_and_others_have_more(distance: np.ndarray) -> None:
    known = truth.true_head(head_codes(5), CAMERAS, CFG, focal=FOCAL)
    own = found(10 - 1000 * distance, known)
    assert own["normal_deg"] < 9 and own["depth"] < 0.004 and own["iou"] > 0.93 and own["seen"] > 0.99
    larger = found(10 - 1000 * (distance - 0.02), known)
    assert 0.015 < larger["depth"] < 0.045 and larger["iou"] < own["iou"] - 0.05
    rough = found(10 - 1000 * distance + np.random.default_rng(0).normal(0, 8, distance.shape), known)
    assert rough["normal_deg"] > own["normal_deg"] + 3
    nothing = found(np.zeros_like(distance), known)
    assert nothing == {"normal_deg": 180.0, "depth": pytest.approx(CFG.depth_bound), "iou": 0.0, "seen": 0.0}


def test_a_latent_says_which_head_it_is() -> None:
    codes = torch.from_numpy(np.stack([head_codes(seed) for seed in range(3)]))
    latents = codes_to_latents(codes, NUM_CODES + 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(latents_to_codes(latents, NUM_CODES), codes, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="hold no 64 head parameters"):
        latents_to_codes(torch.zeros(1, 8), NUM_CODES)


def table(**errors: list[float]) -> pd.DataFrame:
    rows = []
    for arm, values in errors.items():
        for seed, value in enumerate(values):
            rows.append((arm, seed, 1.0, value, value / 1000, 1 - value / 100, 1.0))
    return pd.DataFrame(rows, columns=list(truth.COLUMNS))


def test_what_was_asked_is_told_of_each_arm() -> None:
    seeds = table(start=[20.0, 20, 30, 10], tuned=[14.0, 15, 20, 9], control=[20.0, 19, 31, 10])
    rows = truth.summary(seeds).set_index("arm")
    assert rows.loc["tuned", "normal_change"] == pytest.approx(14.5 / 20 - 1)
    assert rows.loc["tuned", "normal_change_low"] <= rows.loc["tuned", "normal_change"]
    assert rows.loc["tuned", "depth_better"] == 4 and rows.loc["control", "depth_better"] == 1
    assert rows.loc["start", "normal_change"] == 0 and rows.loc["tuned", "iou_better_share"] == 1
    findings = truth.findings({truth.SUMMARY: rows.reset_index()})
    assert [f.is_met for f in findings] == [True, True, True, None]
    worse = table(start=[20.0, 20, 30, 10], tuned=[19.0, 20, 30, 11], control=[10.0, 10, 10, 10])
    summary = truth.summary(worse)
    assert [f.is_met for f in truth.findings({truth.SUMMARY: summary})] == [False, False, False, None]


def test_intervals_of_median_changes_hold_their_value() -> None:
    start = np.random.default_rng(0).uniform(1, 2, 200)
    change = median_change(0.8 * start, start)
    assert [change.value, change.low, change.high] == pytest.approx([-0.2] * 3)


def test_seeds_are_looked_at_once_for_all_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = truth.true_head

    def counted(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(truth, "true_head", counted)
    cfg = truth.TruthConfig(num_seeds=2, resolution=16, grid_resolution=16, yaws=[0.0])
    G = tiny_generator(z_dim=NUM_CODES)
    rows = truth.truth({"start": G, "tuned": G}, NUM_CODES, cfg)
    assert len(calls) == 2 and list(rows["arm"]) == ["start", "tuned"] * 2
    assert np.isfinite(rows[["normal_deg", "depth", "iou", "seen"]].to_numpy()).all()


def test_another_data_set_is_refused(tmp_path: Path) -> None:
    dataset = SimpleNamespace(recipe={"code_names": ["brow"]}, path=tmp_path / "other.zip")
    with pytest.raises(ValueError, match=r"other\.zip holds no portraits of the head model"):
        truth.run(SimpleNamespace(cfg=CFG, dataset=dataset))  # type: ignore[arg-type]
