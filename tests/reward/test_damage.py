"""Known damage: nothing at severity 0, the same for a seed, graded, at the front, and what its name says."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from reward_model_training.damage import KINDS, LEVEL, damage, damaged, damages, ties
from reward_model_training.front_surface import REACH, Front
from reward_model_training.preferences.annotators.rules import SurfaceScore, surface_quality
from tests.shapes import SLAB, density, head

VOXEL = 1 / 63
MOVING = ("bumps", "grooves", "flattening", "stretching", "roughness", "nose")  # kinds that move the surface alone


def made_head(resolution: int = 64) -> Tensor:
    """A clean head [X, Y, Z]; its density runs on inwards and outwards, as a generator's does."""
    cfg = dataclasses.replace(SLAB, resolution=resolution)
    return torch.from_numpy(LEVEL + 40 * (density(head(cfg=cfg)) - LEVEL))


@pytest.fixture(scope="module")
def clean() -> Tensor:
    return made_head()


@pytest.fixture(scope="module")
def pair(clean: Tensor) -> Tensor:
    """Two different heads [2, X, Y, Z]."""
    return torch.stack([clean, torch.from_numpy(LEVEL + 40 * (density(head(nose=0.03, radius=0.18)) - LEVEL))])


def height(x: Tensor, voxel: float = VOXEL) -> Tensor:
    return Front(x[None], voxel, LEVEL).height[0]


@pytest.mark.parametrize("name", KINDS)
def test_nothing_happens_at_severity_0(name: str, pair: Tensor) -> None:
    assert torch.equal(damaged(pair, name, 0.0, 3, voxel=VOXEL), pair)
    mixed = damaged(pair, name, [0.0, 1.0], 3, voxel=VOXEL)
    assert torch.equal(mixed[0], pair[0]) and not torch.equal(mixed[1], pair[1])


@pytest.mark.parametrize("name", KINDS)
def test_a_seed_gives_the_same_slab_whatever_is_beside_it(name: str, pair: Tensor) -> None:
    both = damaged(pair, name, [0.5, 0.9], [4, 5], voxel=VOXEL)
    alone = [damaged(x, name, s, seed, voxel=VOXEL) for x, s, seed in zip(pair, (0.5, 0.9), (4, 5), strict=True)]
    torch.testing.assert_close(both, torch.stack(alone), rtol=1e-5, atol=1e-2)
    again = damaged(pair.half(), name, [0.5, 0.9], [4, 5], voxel=VOXEL)
    assert again.dtype == torch.float32 and torch.isfinite(again).all()
    assert torch.equal(damaged(pair, name, [0.5, 0.9], [4, 5], voxel=VOXEL), both)


@pytest.mark.parametrize("name", [name for name in damages() if name not in ("flattening", "stretching", "nose")])
def test_other_seeds_are_other_places(name: str, clean: Tensor) -> None:
    one, other = (damaged(clean, name, 1.0, seed, voxel=VOXEL) for seed in (1, 2))
    assert torch.equal(one, other) == (name == "oversmoothing")


@pytest.mark.parametrize("name", damages())
def test_more_is_more_and_at_the_same_places(name: str, clean: Tensor) -> None:
    steps = [(damaged(clean, name, s, 7, voxel=VOXEL) - clean).abs() for s in (0.2, 0.4, 0.6, 0.8, 1.0)]
    sizes = [float(step.mean()) for step in steps]
    assert all(a < b for a, b in pairwise(sizes)), sizes
    reached = steps[-1] > 1e-3
    assert (reached | (steps[0] <= 1)).float().mean() > 0.995


@pytest.mark.parametrize("name", MOVING)
def test_the_back_of_the_head_stays(name: str, clean: Tensor) -> None:
    changed = (damaged(clean, name, 1.0, 7, voxel=VOXEL) - clean).abs() > 1e-3
    z = torch.arange(clean.shape[2]) * VOXEL
    deep = z < (height(clean)[..., None] - REACH - 0.06)
    assert deep.any() and changed.any() and not changed[deep].any()


@pytest.mark.parametrize("name", ["bumps", "grooves", "stretching", "nose"])
def test_a_severity_means_the_same_at_any_resolution(name: str) -> None:
    sizes = []
    for resolution in (64, 128):
        x, voxel = made_head(resolution), 1 / (resolution - 1)
        out = height(damaged(x, name, 1.0, 7, voxel=voxel), voxel) - height(x, voxel)
        sizes.append(float(out.abs().mean()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.15), sizes


def judged(x: Tensor) -> SurfaceScore:
    return surface_quality(x, voxel=VOXEL)


@pytest.mark.parametrize(
    ("name", "fault", "is_more"),
    [
        ("bumps", "roughness", True),
        ("grooves", "roughness", True),
        ("roughness", "roughness", True),
        ("floaters", "stray", True),
        ("hot_voxels", "stray", True),
        ("holes", "holes", True),
        ("flattening", "relief", False),
        ("oversmoothing", "relief", False),
        ("stretching", "relief", True),
    ],
)
def test_the_simulated_annotator_sees_what_the_name_says(name: str, fault: str, is_more: bool, clean: Tensor) -> None:
    before, mild, full = (
        getattr(judged(damaged(clean, name, severity, 7, voxel=VOXEL)), fault) for severity in (0.0, 0.4, 1.0)
    )
    assert before < mild < full if is_more else before > mild > full


def test_a_nose_sinks_below_the_cheeks(clean: Tensor) -> None:
    i, j = clean.shape[0] // 2, 14  # the middle of the nose, at y 0
    nose, cheek = (height(clean)[x, j] for x in (i, i - 6))
    assert nose > cheek + 0.02
    after = height(damaged(clean, "nose", 1.0, 0, voxel=VOXEL))
    assert after[i, j] < nose - 0.03


@pytest.mark.parametrize(("name", "sign"), [("hot_voxels", 1), ("cold_voxels", -1)])
def test_hot_voxels_are_single_and_beyond_the_extremes(name: str, sign: int, clean: Tensor) -> None:
    for severity, most in ((0.1, 1), (0.5, 3), (1.0, 6)):
        x = damaged(clean, name, severity, 7, voxel=VOXEL)
        changed = x != clean
        assert 1 <= changed.sum() <= most
        assert (sign * x[changed] == 3 * clean.abs().max()).all()


@pytest.mark.parametrize(("name", "axis"), [("shift_x", 0), ("shift_y", 1), ("shift_z", 2)])
def test_a_shift_is_by_one_voxel_of_a_64_point_grid(name: str, axis: int, clean: Tensor) -> None:
    found = [damaged(clean, name, 1.0, seed, voxel=VOXEL).movedim(axis, 0) for seed in range(12)]
    rows, steps = clean.movedim(axis, 0), set()
    for x in found:
        is_up = torch.equal(x[1:], rows[:-1])
        assert is_up or torch.equal(x[:-1], rows[1:])
        steps.add(is_up)
    assert steps == {True, False}, "both ways, by the seed"


def test_a_mirror_image_of_a_mirror_image_is_the_shape(pair: Tensor) -> None:
    once = damaged(pair, "mirror", 1.0, 0, voxel=VOXEL)
    assert torch.equal(damaged(once, "mirror", 0.2, 5, voxel=VOXEL), pair)
    assert torch.equal(once, pair.flip(1))


def test_a_scale_leaves_the_surface_and_an_offset_moves_it_hardly(clean: Tensor) -> None:
    scaled = damaged(clean, "scale", 1.0, 3, voxel=VOXEL)
    assert not torch.equal(scaled, clean)
    torch.testing.assert_close(height(scaled), height(clean), rtol=0, atol=1e-5)
    moved = height(damaged(clean, "offset", 1.0, 3, voxel=VOXEL)) - height(clean)
    assert 0 < moved.abs().median() < 0.2 * VOXEL


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("value", [-500.0, 500.0])
def test_a_slab_without_a_surface_is_no_trouble(name: str, value: float) -> None:
    assert torch.isfinite(damaged(torch.full((1, 5, 6, 7), value), name, 1.0, 0, voxel=0.1)).all()


def test_kinds_are_named_and_say_what_a_person_would_see() -> None:
    assert set(damages()) | set(ties()) == set(KINDS) and not set(damages()) & set(ties())
    assert all(len(kind.meaning) > 20 for kind in KINDS.values())


def test_a_new_kind_is_a_function(monkeypatch: pytest.MonkeyPatch, clean: Tensor) -> None:
    monkeypatch.setattr("reward_model_training.damage.KINDS", dict(KINDS))

    @damage
    def fog(front, severity, draws):
        """All of space is filled."""
        return front.x + 3000 * severity[..., None]

    assert "fog" in damages() and damaged(clean, "fog", 1.0, 0, voxel=VOXEL).min() > LEVEL


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(4, 4, 4), "bump", 1.0, 0), "'bump' is not one of .*did you mean 'bumps'"),
        ((torch.zeros(4, 4), "bumps", 1.0, 0), r"x must be \[N, X, Y, Z\]"),
        ((torch.zeros(4, 4, 1), "bumps", 1.0, 0), "2 points or more a side"),
        ((torch.zeros(4, 4, 4), "bumps", 1.5, 0), "severity must lie in 0 to 1"),
        ((torch.zeros(4, 4, 4), "bumps", float("nan"), 0), "severity must lie in 0 to 1"),
        ((torch.zeros(2, 4, 4, 4), "bumps", [1.0], [0, 1]), "a severity and a seed for each of 2 slabs"),
    ],
)
def test_bad_arguments_are_one_line(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        damaged(*arguments, voxel=VOXEL)
    assert "\n" not in str(error.value)


def test_a_voxel_has_a_size() -> None:
    with pytest.raises(ValueError, match="voxel must be above 0"):
        damaged(torch.zeros(4, 4, 4), "bumps", 1.0, 0, voxel=0.0)
