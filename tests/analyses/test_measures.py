"""Measures against closed forms, references and made-up cases."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from paper_result_analyses.measure import before_after, image_change, intervals, tables, trajectories, twin_geometry
from paper_result_analyses.measure.twin_geometry import GeometryConfig


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (3, 10), (95, 100), (140, 200), (200, 200)])
def test_wilson_equals_statsmodels(count, total):
    from statsmodels.stats.proportion import proportion_confint

    share = intervals.wilson(count, total)
    low, high = proportion_confint(count, total, alpha=0.05, method="wilson")
    assert (share.low, share.high) == pytest.approx((low, high), abs=1e-12)
    assert share.low <= share.value <= share.high


def test_wilson_without_observations_says_nothing():
    share = intervals.wilson(0, 0)
    assert (share.low, share.high) == (0.0, 1.0) and math.isnan(share.value)
    with pytest.raises(ValueError, match="count must lie in"):
        intervals.wilson(3, 2)


def test_mean_interval_equals_scipy():
    from scipy import stats

    values = np.random.RandomState(0).randn(30) + 1
    low, high = stats.t.interval(0.95, 29, loc=values.mean(), scale=stats.sem(values))
    found = intervals.mean_interval(values)
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))


def test_paired_difference_of_equal_answers_is_zero_and_signed():
    answers = np.array([True, False, True, True])
    assert intervals.paired_share_difference(answers, answers) == intervals.Estimate(0.0, 0.0, 0.0)
    better = intervals.paired_share_difference(np.ones(50, bool), np.arange(50) < 10)
    assert better.value == pytest.approx(0.8) and 0.6 < better.low < better.high < 1


def _depth(peak_x: float, peak_y: float, side: int = 64) -> torch.Tensor:
    """A flat face at distance 2.6 with a bump 0.1 high at an image fraction."""
    y, x = torch.meshgrid(*(2 * [(torch.arange(side) + 0.5) / side]), indexing="ij")
    return 2.6 - 0.1 * torch.exp(-((x - peak_x) ** 2 + (y - peak_y) ** 2) / 0.002)


@pytest.mark.parametrize(
    ("x", "y", "is_nose"),
    [(0.5, 0.6, True), (0.45, 0.57, True), (0.5, 0.8, False), (0.3, 0.6, False), (0.5, 0.4, False)],
)
def test_nose_nearest_is_where_the_bump_is(x, y, is_nose):
    found = twin_geometry.face_relief(_depth(x, y), torch.ones(64, 64), GeometryConfig())
    assert found["is_nose_nearest"] is is_nose
    assert (found["nearest_x"], found["nearest_y"]) == pytest.approx((x, y), abs=1 / 64)
    if (x, y) == (0.5, 0.6):
        assert found["nose_prominence"] == pytest.approx(0.1, abs=0.01)


def test_pixels_that_show_nothing_are_not_nearest():
    depth, opacity = _depth(0.5, 0.6), torch.ones(64, 64)
    depth[:8], opacity[:8] = 1.0, 0.1
    assert twin_geometry.face_relief(depth, opacity, GeometryConfig())["is_nose_nearest"] is True
    empty = twin_geometry.face_relief(depth, torch.zeros(64, 64), GeometryConfig())
    assert empty["is_nose_nearest"] is False and math.isnan(empty["nearest_x"])


def test_true_heads_have_the_nose_nearest():
    from dataset_preprocessing.synthetic_heads.shape import head_parameters, nose_tip
    from eg3d.cameras import CameraConfig, lookat_c2w

    c2w = lookat_c2w(0.0, 0.0)[0]
    tips = (nose_tip(head_parameters(list(range(64)))) - c2w[:3, 3]) @ c2w[:3, :3]
    at = tips[:, :2] / tips[:, 2:] * CameraConfig().focal + 0.5
    cfg = GeometryConfig()
    assert ((at[:, 0] > cfg.nose_x[0]) & (at[:, 0] < cfg.nose_x[1])).all()
    assert ((at[:, 1] > cfg.nose_y[0]) & (at[:, 1] < cfg.nose_y[1])).all()


def _balls(*balls: tuple[float, float], side: int = 48) -> torch.Tensor:
    """Raw density 20 inside balls (centre on x, radius; fractions of the cube), falling off outside."""
    axis = torch.linspace(-0.5, 0.5, side)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = torch.stack([r - ((x - centre) ** 2 + y**2 + z**2).sqrt() for centre, r in balls]).amax(0)
    return 10 + 200 * inside


def test_pieces_of_one_and_two_balls():
    cfg = GeometryConfig(border=0.05)
    one = twin_geometry.mesh_pieces(_balls((0.0, 0.2)), cfg)
    assert one == {"num_components": 1, "main_vertex_share": 1.0, "is_one_main": True}
    two = twin_geometry.mesh_pieces(_balls((-0.22, 0.15), (0.22, 0.15)), cfg)
    assert two["num_components"] == 2 and two["main_vertex_share"] == pytest.approx(0.5, abs=0.02)
    assert not two["is_one_main"]
    speck = twin_geometry.mesh_pieces(_balls((-0.1, 0.22), (0.38, 0.03)), cfg)
    assert speck["num_components"] == 2 and speck["is_one_main"]
    assert twin_geometry.mesh_pieces(torch.zeros(16, 16, 16), cfg)["num_components"] == 0


def test_identity_ranks_follow_a_permutation():
    before = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    assert (image_change.identity_ranks(before + 0.01, before) == 1).all()
    shifted = image_change.identity_ranks(before.roll(1, 0), before)
    assert (shifted > 1).all()
    half = before.clone()
    half[:10] = before[10:]
    assert (image_change.identity_ranks(half, before)[10:] == 1).all()
    assert (image_change.identity_ranks(torch.zeros(3, 2), torch.zeros(3, 2)) == 1).all()


def test_pair_rows_of_known_changes():
    before = torch.randint(0, 200, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = image_change.pair_rows(
        "tuned", before, before + 10, image_change.ImageChangeConfig(first_seed=7, num_seeds=4)
    )
    assert list(rows.columns) == list(image_change.PAIR_COLUMNS) and list(rows["seed"]) == [7, 8, 9, 10]
    assert rows["mean_abs_difference"].to_numpy() == pytest.approx(10)
    assert rows["psnr_db"].to_numpy() == pytest.approx(20 * math.log10(255 / 10))
    assert (rows["pixel_identity_rank"] == 1).all()


def _judged(changes: dict[str, list[float]]) -> pd.DataFrame:
    rows = []
    for arm, scores in changes.items():
        for seed, score in enumerate(scores):
            rest = dict.fromkeys(("roughness", "stray", "holes", "relief", "asymmetry"), 0.0)
            rows.append({"arm": arm, "seed": seed, "simulated_score": score, **rest, "reward": 2 * score})
    return pd.DataFrame(rows)[list(before_after.COLUMNS)]


def test_summary_counts_and_ties():
    table = _judged({"start": [1, 1, 1, 1], "tuned": [2, 2, 2, 1], "control": [0, 2, 1, 0]})
    rows = before_after.summary(table).set_index("arm")
    assert list(rows["preferred"]) == [3, 1] and list(rows["ties"]) == [1, 1]
    assert rows.loc["tuned", "simulated_score_change"] == pytest.approx(0.75)
    assert rows.loc["tuned", "reward_change"] == pytest.approx(1.5)
    assert rows.loc["tuned", "preferred_minus_control"] == pytest.approx(0.5)
    assert np.isnan(rows.loc["control", "preferred_minus_control"])
    with pytest.raises(ValueError, match="every seed"):
        before_after.summary(table.iloc[:-1])


def test_trajectories_start_at_their_own_first_tick(tmp_path):
    rows = [(tick, 1000 * tick, seed, seed + tick * (1 if seed else -1)) for tick in range(3) for seed in range(4)]
    pd.DataFrame(rows, columns=list(trajectories.RUN_COLUMNS)).to_csv(tmp_path / "trajectories.csv", index=False)
    table = trajectories.trajectories({"tuned": tmp_path, "control": tmp_path / "none"})
    assert list(table.columns) == list(trajectories.COLUMNS) and list(table["num_images"]) == [0, 1000, 2000]
    assert list(table["share_above_start"]) == [0.0, 0.75, 0.75]
    with pytest.raises(FileNotFoundError, match="trajectories"):
        trajectories.trajectories({"tuned": tmp_path / "none"})


def test_table_and_sidecar(tmp_path):
    source = tmp_path / "net.bin"
    source.write_bytes(b"weights")
    table = pd.DataFrame({"seed": [1, 2], "value": [0.5, 1.5]})
    columns = {"seed": "seed", "value": "no unit"}
    path = tables.write_table(tmp_path / "t.csv", table, columns=columns, inputs={"net": source})
    assert tables.read_table(path, columns=columns).equals(table)
    sidecar = json.loads((tmp_path / "t.json").read_text())
    assert sidecar["inputs"]["net"]["file"] == "net.bin" and len(sidecar["inputs"]["net"]["sha256"]) == 64
    assert sidecar["columns"] == columns and sidecar["command"] and sidecar["code_version"]
    with pytest.raises(ValueError, match="expected columns"):
        tables.write_table(tmp_path / "u.csv", table, columns={"seed": ""}, inputs={})
    with pytest.raises(FileNotFoundError, match="no table"):
        tables.read_table(tmp_path / "u.csv")
