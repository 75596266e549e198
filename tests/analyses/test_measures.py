"""Measures against closed forms, references and made-up cases."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from eg3d.representations.sigma_field import SigmaField
from eg3d.samples import SampleConfig
from paper_result_analyses.measure import (
    before_after,
    image_change,
    intervals,
    judged,
    reward_accuracy,
    trajectories,
    twin_geometry,
)
from paper_result_analyses.measure.image_statistics import (
    covered,
    identity_ranks,
    kernel_distance_difference,
    psnr_db,
    sharpness,
)
from paper_result_analyses.measure.twin_geometry import GeometryConfig
from reward_model_training.intervals import mean_interval
from tests.analyses.tiny_run import save_tiny_reward, tiny_generator


def test_mean_interval_equals_scipy():
    from scipy import stats

    values = np.random.RandomState(0).randn(30) + 1
    low, high = stats.t.interval(0.95, 29, loc=values.mean(), scale=stats.sem(values))
    found = mean_interval(values)
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
    from dataset_preprocessing.human_heads.codes import head_codes
    from dataset_preprocessing.human_heads.truth import true_depth_normals
    from eg3d.cameras import lookat_c2w

    c2w = lookat_c2w(0.0, 0.0)[0].numpy()
    for seed in range(24):
        depth = torch.from_numpy(true_depth_normals(head_codes(seed), c2w, 64)[0])
        found = twin_geometry.face_relief(depth, (depth > 0).float(), GeometryConfig())
        assert found["is_nose_nearest"] and 0.03 < found["nose_prominence"] < 0.15


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
    assert (identity_ranks(before + 0.01, before) == 1).all()
    shifted = identity_ranks(before.roll(1, 0), before)
    assert (shifted > 1).all()
    half = before.clone()
    half[:10] = before[10:]
    assert (identity_ranks(half, before)[10:] == 1).all()
    assert (identity_ranks(torch.zeros(3, 2), torch.zeros(3, 2)) == 1).all()


def test_pair_rows_of_known_changes():
    before = torch.randint(0, 200, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    is_head = torch.zeros(4, 16, 16, dtype=torch.bool)
    is_head[:, 4:12, 4:12] = True
    after = before + 10
    after[:, :, 4:12, 4:12] += 10
    cfg = image_change.ImageChangeConfig(first_seed=7, num_seeds=4)
    rows = image_change.pair_rows("tuned", before, after, is_head, cfg)
    assert list(rows.columns) == list(image_change.PAIR_COLUMNS) and list(rows["seed"]) == [7, 8, 9, 10]
    assert rows["mean_abs_difference"].to_numpy() == pytest.approx(12.5)
    assert rows["psnr_db"].to_numpy() == pytest.approx(10 * math.log10(255**2 / 175))
    assert rows["head_psnr_db"].to_numpy() == pytest.approx(20 * math.log10(255 / 20))
    assert rows["head_share"].to_numpy() == pytest.approx(0.25)
    assert (rows["pixel_identity_rank"] == 1).all()


def test_psnr_over_the_whole_picture_equals_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio

    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 256, (3, 3, 8, 8), dtype=np.uint8) for _ in range(2))
    expected = [peak_signal_noise_ratio(a, b) for a, b in zip(before, after, strict=True)]
    found = psnr_db(torch.from_numpy(before), torch.from_numpy(after))
    assert found == pytest.approx(expected)
    nothing = psnr_db(torch.from_numpy(before), torch.from_numpy(after), torch.zeros(3, 8, 8, dtype=torch.bool))
    assert np.isnan(nothing).all()
    assert np.isfinite(psnr_db(torch.from_numpy(before), torch.from_numpy(before))).all()  # equal pictures


def test_sharpness_of_a_ramp_a_chequer_and_a_blur():
    """A ramp has its slope and no Laplacian, a chequer of +-a a Laplacian of 8a and no central differences."""
    x = torch.arange(16).expand(1, 3, 16, 16)
    ramp, chequer = (5 * x).to(torch.uint8), (100 + 20 * ((x + x.mT) % 2)).to(torch.uint8)
    assert [float(v) for v in sharpness(ramp)] == pytest.approx([5, 0], abs=1e-9)
    assert [float(v) for v in sharpness(chequer)] == pytest.approx([0, 80], abs=1e-9)
    noise = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(noise.float(), 3, 1, 1).to(torch.uint8)
    for sharp, soft, half in zip(sharpness(noise), sharpness(blurred), sharpness(noise // 2), strict=True):
        assert sharp.shape == (2,) and (soft < 0.7 * sharp).all()
        assert half.numpy() == pytest.approx(sharp.numpy() / 2, rel=0.02)
    luma = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    luma[:, 1] = 10 * torch.arange(8, dtype=torch.uint8)
    assert float(sharpness(luma).gradient) == pytest.approx(5.87)
    with pytest.raises(ValueError, match="3 pixels a side"):
        sharpness(luma[..., :2])


def test_the_head_is_where_the_render_is_opaque():
    opacity = torch.zeros(1, 1, 8, 8)
    opacity[..., 2:6, 2:6] = 1.0
    is_head = covered(opacity, 16, 0.5)
    assert is_head.shape == (1, 16, 16) and is_head.sum() == 64 and is_head[0, 4:12, 4:12].all()
    assert covered(0.49 * torch.ones(1, 1, 8, 8), 16, 0.5).sum() == 0


def _features(rng: np.random.Generator, *, seeds: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of the same seeds by two arms: the first is `shift` away from standard normal ones."""
    second = rng.normal(size=(seeds, 8))
    first = 0.8 * second + 0.6 * rng.normal(size=(seeds, 8)) + shift
    return torch.from_numpy(first), torch.from_numpy(second)


def test_the_difference_of_kernel_distances_is_that_of_the_metric():
    from eg3d.metrics.kid import squared_mmd

    rng = np.random.default_rng(0)
    first, second = _features(rng, seeds=60, shift=0.5)
    data = torch.from_numpy(rng.normal(size=(60, 8)))
    found = kernel_distance_difference(first, second, data)
    assert found.value == pytest.approx(squared_mmd(first, data) - squared_mmd(second, data))
    assert 0 < found.low < found.value < found.high
    other = kernel_distance_difference(second, first, data)
    assert (other.value, other.low, other.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert kernel_distance_difference(first, first, data) == intervals.Estimate(0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="three seeds"):
        kernel_distance_difference(first[:2], second[:2], data)


def _coverage(draws: int, *, shift: float, truth: float) -> float:
    """Share of intervals of 50 seeds against 120 images that hold the truth."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(draws):
        sets = _features(rng, seeds=50, shift=shift)
        found = kernel_distance_difference(*sets, torch.from_numpy(rng.normal(size=(120, 8))))
        hits += found.low <= truth <= found.high
    return hits / draws


def _true_difference(shift: float) -> float:
    """The difference over so many seeds and images that its error is a twentieth of an interval."""
    rng = np.random.default_rng(2)
    sets = _features(rng, seeds=4000, shift=shift)
    return kernel_distance_difference(*sets, torch.from_numpy(rng.normal(size=(4000, 8)))).value


def test_intervals_of_kernel_distances_hold_the_truth():
    """200 draws: 0.95 is within 0.03 of itself. Without a difference the interval is too wide, as it says."""
    assert 0.91 <= _coverage(200, shift=0.5, truth=_true_difference(0.5)) <= 0.98
    assert _coverage(50, shift=0.0, truth=0.0) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.3, 0.5, 1.0])
def test_intervals_of_kernel_distances_over_1000_draws(shift):
    assert 0.93 <= _coverage(1000, shift=shift, truth=_true_difference(shift)) <= 0.97


def _judged(changes: dict[str, list[float]]) -> pd.DataFrame:
    rows = []
    for arm, scores in changes.items():
        for seed, score in enumerate(scores):
            rows.append(
                {"arm": arm, "seed": seed, "simulated_score": score, "rules_score": -score, "reward": 2 * score}
            )
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


def test_arms_are_compared_seed_by_seed():
    table = _judged({"start": [1, 1, 1, 1], "tuned": [2, 2, 2, 1], "control": [0, 2, 1, 0], "continuation": [1] * 4})
    rows = before_after.arms_compared(table).set_index(["arm", "other"])
    assert list(rows.index) == [("tuned", "control"), ("tuned", "continuation"), ("control", "continuation")]
    row = rows.loc[("tuned", "control")]
    assert (row["preferred"], row["ties"], row["preferred_share"]) == (3, 1, 0.75)
    assert row["won_difference"] == pytest.approx(0.5) and row["won_difference_low"] >= 0
    expected = mean_interval(np.array([2, 0, 1, 1.0]))
    names = ("simulated_score_difference", "simulated_score_difference_low", "simulated_score_difference_high")
    assert [row[name] for name in names] == pytest.approx([expected.value, expected.low, expected.high])
    assert row["reward_difference"] == pytest.approx(2 * expected.value)
    assert list(before_after.arms_compared(table[table["arm"].isin(["start", "tuned"])]).columns) == list(
        before_after.ARMS_COLUMNS
    )
    with pytest.raises(ValueError, match="every seed"):
        before_after.arms_compared(table.iloc[:-1])


def test_images_of_arms_are_compared_seed_by_seed():
    pairs = pd.DataFrame(
        {
            "arm": ["tuned"] * 3 + ["control"] * 3,
            "seed": [1, 2, 3] * 2,
            "psnr_db": [30.0, 31, 32, 33, 35, 34],
            "head_psnr_db": [20.0, np.nan, 22, 25, np.nan, 26],
        }
    )
    generator = torch.Generator().manual_seed(0)
    features = {arm: torch.randn(3, 4, generator=generator) for arm in ("start", "tuned", "control")}
    rows = image_change.arms_compared(pairs, features, torch.randn(9, 4, generator=generator))
    rows = rows.set_index(["arm", "other"])
    assert list(rows.index) == [("tuned", "control"), ("tuned", "start"), ("control", "start")]
    row = rows.loc[("tuned", "control")]
    assert row["psnr_db_difference"] == pytest.approx(-3) and row["head_psnr_db_difference"] == pytest.approx(-4.5)
    assert row["psnr_db_difference_low"] < -3 < row["psnr_db_difference_high"]
    assert rows["psnr_db_difference"].isna().tolist() == [False, True, True]
    assert rows["kid_difference"].notna().all()
    shown = intervals.for_people(rows.reset_index(), ["psnr_db_difference", "kid_difference"])
    assert list(shown.columns) == ["arm", "other", "n", "psnr db difference", "kid difference"]
    assert shown["psnr db difference"][0].startswith("-3.000 (-5") and shown["psnr db difference"][1] == ""


class _Judge:
    def judge(self, slab, frame):
        from reward_model_training.preferences.annotators.protocol import Judgement

        return Judgement(5.0, {"stray": 0.0})


class _Nan:
    """A reward that says nothing."""

    representation = SigmaField(resolution=8, grid="exact")
    sample = SampleConfig()

    def __call__(self, slabs):
        return torch.full((len(slabs),), float("nan"))


def test_a_reward_that_is_not_finite_is_named_at_once():
    cfg = before_after.BeforeAfterConfig(first_seed=7, num_seeds=2)
    with pytest.raises(ValueError, match="reward of seed 7 by start is nan"):
        before_after.before_after({"start": tiny_generator()}, _Nan(), {"annotator": _Judge(), "rules": _Judge()}, cfg)


def test_trajectories_start_at_their_own_first_tick(tmp_path):
    rows = [(tick, 1000 * tick, seed, seed + tick * (1 if seed else -1)) for tick in range(3) for seed in range(4)]
    pd.DataFrame(rows, columns=list(trajectories.RUN_COLUMNS)).to_csv(tmp_path / "trajectories.csv", index=False)
    table = trajectories.trajectories({"tuned": tmp_path / "trajectories.csv"})
    assert list(table.columns) == list(trajectories.COLUMNS) and list(table["num_images"]) == [0, 1000, 2000]
    assert list(table["share_above_start"]) == [0.0, 0.75, 0.75]
    with pytest.raises(FileNotFoundError, match=r"tracking\.num_seeds"):
        trajectories.trajectories({})
    (tmp_path / "trajectories.csv").write_text("tick,num_images,seed,score\n0,0,1,x\n")
    with pytest.raises(ValueError, match=r"trajectories\.csv: columns score hold something else.*do the run again"):
        trajectories.trajectories({"tuned": tmp_path / "trajectories.csv"})


def test_judged_runs_say_what_the_judge_liked_best(tmp_path):
    """Means and standard errors by hand; the earlier of two equal ticks is the best, as in the run."""
    scores = {0: (1.0, 3.0), 1: (2.0, 6.0), 2: (4.0, 4.0)}
    rows = [(tick, 16 * tick, seed, scores[tick][seed], 10.0 * tick) for tick in scores for seed in range(2)]
    names = [*judged.RUN_COLUMNS, "reward"]
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / "judge.csv", index=False)
    table = judged.judged({"tuned": tmp_path / "judge.csv"})
    assert list(table.columns) == list(judged.COLUMNS) and list(table["is_best"]) == [False, True, False]
    assert list(table["judge_mean"]) == [2.0, 4.0, 4.0] and list(table["judge_error"]) == [1.0, 2.0, 0.0]
    assert list(table["reward_mean"]) == [0.0, 10.0, 20.0] and list(table["seeds"]) == [2, 2, 2]
    (finding,) = judged.findings({judged.TABLE: table})
    assert finding.measured == "after 16 of 32 images: 4 +- 2, 4 at the end"
    nothing = judged.judged({})
    assert list(nothing.columns) == list(judged.COLUMNS) and len(nothing) == 0
    pd.DataFrame(rows, columns=names).drop(columns="reward").to_csv(tmp_path / "judge.csv", index=False)
    assert judged.judged({"tuned": tmp_path / "judge.csv"})["reward_mean"].isna().all()
    (tmp_path / "judge.csv").write_text("tick,num_images,seed,score\n0,0,1,x\n")
    with pytest.raises(ValueError, match=r"judge\.csv: columns score hold something else.*do the run again"):
        judged.judged({"tuned": tmp_path / "judge.csv"})


def test_an_interval_that_does_not_know_batches_says_so(tmp_path):
    """Bundles of earlier versions have Wilson's intervals alone."""
    table = reward_accuracy.reward_accuracy(save_tiny_reward(tmp_path) / "reward.yaml")
    (finding,) = reward_accuracy.findings({reward_accuracy.TABLE: table})
    assert (finding.measured, finding.n) == ("90.0% (60.0% to 98.0%)", "10 pairs, as if independent")
    clustered = table.assign(n_clusters=5, design_effect=1.5, clustered_low=0.5, clustered_high=0.99)
    (finding,) = reward_accuracy.findings({reward_accuracy.TABLE: clustered})
    assert (finding.measured, finding.n) == ("90.0% (50.0% to 99.0%)", "10 pairs of 5 batches")
