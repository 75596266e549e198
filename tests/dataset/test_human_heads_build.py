"""Making the head model: recipe, alignment and analysis without anny; the whole where anny is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset_preprocessing.human_heads import build as command
from dataset_preprocessing.human_heads.align import CENTRE_Y, DEPTH_Z, SIDE, Anchors, aligned
from dataset_preprocessing.human_heads.body import Body
from dataset_preprocessing.human_heads.build import BuildConfig, build
from dataset_preprocessing.human_heads.components import Components, analyse, codes_of, figures, quantised
from dataset_preprocessing.human_heads.recipe import AGES, MOST_CHANGE, ONE_SIDED, BodyLabels, Effects, sample
from dataset_preprocessing.human_heads.surface import _eye_weights, _eyeball, _refined
from eg3d.config_checks import faults_of
from eg3d.head_model import Region, load_head_model
from eg3d.installation import install_hint

ROOT = Path(__file__).resolve().parents[2]
HAS_ANNY = importlib.util.find_spec("anny") is not None
needs_anny = pytest.mark.skipif(not HAS_ANNY, reason="anny is not installed (the extra 'heads')")

PHENOTYPES = ["gender", "age", "muscle", "weight", "height", "proportions", "african", "asian", "caucasian"]
LOCAL = ["l-ear-scale-incr", "r-ear-scale-incr", "nose-hump-incr", "nose-trans-out", "hip-trans-up"]
ACTIONS = [
    *("browInnerUp", "jawOpen", "jawForward", "jawLeft", "jawRight", "mouthFunnel", "mouthPucker", "mouthLeft"),
    *("mouthRight", "mouthRollLower", "mouthShrugLower", "cheekPuff"),
    *(
        f"{name}{side}"
        for name in (
            *("mouthSmile", "cheekSquint", "eyeSquint", "mouthUpperUp", "browOuterUp", "eyeWide", "browDown"),
            *("noseSneer", "eyeBlink", "mouthFrown", "mouthPress", "mouthStretch"),
            *("eyeLookUp", "eyeLookDown", "eyeLookOut", "eyeLookIn"),
        )
        for side in ("Left", "Right")
    ),
]
LABELS = BodyLabels(PHENOTYPES, LOCAL, ACTIONS)
EFFECTS = Effects(np.array([10.0, 10.0, 4.0, 4.0, 0.01]), np.array([5.0, 5.0, 20.0, 4.0, 0.0]))


def test_the_recipe_reaches_both_ends() -> None:
    inputs = sample(LABELS, EFFECTS, 4000, seed=0)
    age, gender = inputs.phenotypes[:, 1], inputs.phenotypes[:, 0]
    assert age.min() < -0.3 and age.max() > 0.97 and 0.1 < (age < 1 / 3).mean() < 0.25
    assert (gender < 0.2).mean() > 0.3 and (gender > 0.8).mean() > 0.3
    assert min(high for _, _, high in AGES) == 0.0
    shares = inputs.phenotypes[:, 6:]
    assert np.isfinite(shares).all() and (shares > 0).all() and (shares.max(axis=1) > 0.9).mean() > 0.1
    left, right, hump, sideways, hip = inputs.local_changes.T
    assert np.abs(inputs.local_changes).max() <= MOST_CHANGE and not hip.any()
    assert np.corrcoef(left, right)[0, 1] > 0.95 and not np.array_equal(left, right)
    assert hump[hump > 0].std() > 1.5 * hump[hump < 0].std()  # each side by its own effect
    assert sideways.std() < 2 * ONE_SIDED * hump.std()
    actions = dict(zip(ACTIONS, inputs.facial_actions.T, strict=True))
    assert all(action.max() > 0.1 and action.min() == 0.0 for action in actions.values())
    assert 0.3 < (actions["mouthSmileLeft"] > 0.1).mean() < 0.65 and (actions["eyeBlinkLeft"] > 0.1).mean() < 0.12
    together = actions["eyeLookOutLeft"] * actions["eyeLookInLeft"]
    assert not together.any()


def test_the_seed_gives_the_same_heads_and_another_seed_others() -> None:
    a, b, c = (sample(LABELS, EFFECTS, 5, seed) for seed in (3, 3, 4))
    assert np.array_equal(a.local_changes, b.local_changes) and np.array_equal(a.facial_actions, b.facial_actions)
    assert not np.array_equal(a.phenotypes, c.phenotypes)
    assert len(a.part(slice(1, 3))) == 2


def test_a_body_without_an_input_is_named() -> None:
    with pytest.raises(ValueError, match="the body has no input 'age'"):
        sample(BodyLabels(["gender"], LOCAL, ACTIONS), EFFECTS, 2, 0)


def test_alignment_takes_turn_place_and_size_away() -> None:
    rng = np.random.RandomState(0)
    head = rng.randn(40, 3) * 0.1
    head[:4] = [[-0.06, 0.0, 0.2], [0.06, 0.0, 0.2], [-0.05, -0.15, 0.22], [0.05, -0.15, 0.22]]
    anchors = Anchors(np.array([0]), np.array([1]), np.array([2, 3]), np.arange(40))
    turn, _ = np.linalg.qr(rng.randn(3, 3))
    turn *= np.sign(np.linalg.det(turn))
    moved = np.stack([head, 3.0 * head @ turn.T + [1.0, 2.0, 3.0]])
    found = aligned(moved, anchors, head)
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)
    eyes, mouth = found[0, :2].mean(axis=0), found[0, 2:4].mean(axis=0)
    assert max(2 * (found[0, 1] - found[0, 0])[0], 1.8 * (eyes - mouth)[1]) == pytest.approx(SIDE)
    assert (eyes + 0.1 * (mouth - eyes))[1] == pytest.approx(CENTRE_Y)
    assert (eyes[2] + mouth[2]) / 2 == pytest.approx(DEPTH_Z)
    mirrored = aligned((head * [-1, 1, 1])[None], anchors, head)[0]
    assert np.linalg.det(np.linalg.lstsq(head, mirrored, rcond=None)[0]) < 0  # a mirror image stays one


def test_components_reach_what_they_are_learnt_from() -> None:
    rng = np.random.RandomState(0)
    mirror = np.array([1, 0, 2, 4, 3])
    heads = rng.randn(30, 5, 3)
    weights = np.array([1.0, 1.0, 0.5, 0.2, 0.2])
    found = analyse(heads, mirror, weights, 15)
    np.testing.assert_allclose(found.mean[mirror] * [-1, 1, 1], found.mean, atol=1e-12)
    both = np.concatenate([heads, heads[:, mirror] * [-1, 1, 1]])
    codes = codes_of(both, found, weights)
    np.testing.assert_allclose(found.mean + np.tensordot(codes, found.shifts, axes=1), both, atol=1e-9)
    np.testing.assert_allclose(codes.T @ codes / len(both), np.eye(15), atol=1e-9)  # standard deviations, uncorrelated
    fine, coarse, scales = quantised(found, 4)
    assert fine.shape == (4, 5, 3) and coarse.shape == (11, 5, 3) and fine.dtype == np.int16 and coarse.dtype == np.int8
    whole = np.concatenate([fine, coarse.astype(np.int16)]) * scales[:, None, None]
    assert (np.abs(whole - found.shifts) <= 0.51 * scales[:, None, None]).all()
    region = np.full(5, Region.SKIN, dtype=np.uint8)
    rms = [f.rms_mm for f in figures(heads, Components(found.mean, found.shifts), region, 100.0, (2, 8, 15))]
    assert rms == sorted(rms, reverse=True) and rms[-1] < 1e-6


def test_an_eyeball_turns_with_the_old_one() -> None:
    directions, faces, region = _eyeball()
    assert set(region.tolist()) == {Region.PUPIL, Region.IRIS, Region.EYE_WHITE} and region[0] == Region.PUPIL
    assert np.unique(faces).size == len(directions) and len(faces) == 2 * len(directions) - 4  # a closed sphere
    rng = np.random.RandomState(0)
    unit = rng.randn(72, 3)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    unit = np.concatenate([unit, -unit])
    weights = _eye_weights(0.03 * unit + [0.1, 0.2, 0.3], directions)
    turn, _ = np.linalg.qr(rng.randn(3, 3))
    np.testing.assert_allclose(weights @ (0.05 * unit @ turn.T + 1.0), 0.05 * directions @ turn.T + 1.0, atol=2e-3)


def test_long_edges_get_a_vertex_and_the_surface_stays_whole() -> None:
    side = np.linspace(-0.03, 0.03, 4)
    x, y = (grid.ravel() for grid in np.meshgrid(side, side))
    points = np.stack([x, y, np.full(16, 0.2)], axis=1)
    faces = np.array(
        [f for j in range(3) for i in range(3) for a in [4 * j + i] for f in ([a, a + 1, a + 5], [a, a + 5, a + 4])]
    )
    fixed = np.zeros(16, dtype=bool)
    fixed[0] = True
    found = _refined(points, faces, fixed)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0)
    made = found.points(points[None])[0]
    a, b, c = (made[found.faces[:, i]] for i in range(3))
    area = np.cross(b - a, c - a)[:, 2] / 2
    assert (area > 0).all() and area.sum() == pytest.approx(0.06**2)
    assert not (found.sources[:, :2] == 0).any() and len(made) > 16


def test_faults_of_the_config_are_named() -> None:
    faults = faults_of(BuildConfig(out="x.pkl", num_heads=10, num_components=10, seed=-1))
    assert [fault.split(":")[0] for fault in faults] == ["seed", "out", "num_components"]


def test_without_anny_the_command_says_what_to_install(run, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "anny", None)
    result = run(command, "out=model.npz")
    assert result.code == 1 and install_hint("heads") in result.the_error()
    assert not Path("model.npz").exists()


@needs_anny
@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(tmp_path) -> None:
    body = Body()
    cfg = BuildConfig(num_heads=40, num_held_out=10, num_components=16, num_fine=4, seed=1)
    contents = []
    for name in ("a", "b"):
        cfg.out = str(tmp_path / name / "model.npz")
        built = build(cfg, body)
        contents.append(built.path.read_bytes())
        assert built.num_bytes == len(contents[-1]) and built.figures[-1].num_components == 16
    assert contents[0] == contents[1]
    made, shipped = load_head_model(tmp_path / "a" / "model.npz"), load_head_model()
    assert np.array_equal(made.faces, shipped.faces) and np.array_equal(made.region, shipped.region)
    assert all(np.array_equal(made.landmarks(count), shipped.landmarks(count)) for count in (68, 98))
    assert float((made.mean - shipped.mean).abs().max()) < 0.05


@needs_anny
@pytest.mark.slow
def test_the_command_runs_as_a_user_runs_it(tmp_path) -> None:
    words = ["out=model.npz", "num_heads=30", "num_held_out=5", "num_components=8"]
    found = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    run = subprocess.run(
        [sys.executable, "-m", "dataset_preprocessing.human_heads.build", *words],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": found}, timeout=900,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "head model: model.npz" in run.stdout and "8 components" in run.stdout
    assert load_head_model(tmp_path / "model.npz").num_components == 8
