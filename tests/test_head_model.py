"""The head model: its file, its geometry and what fits it."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from eg3d.checkpoints.manifest import MANIFEST, read_manifest
from eg3d.head_fit import FitConfig
from eg3d.head_model import HeadModel, Region, load_head_model
from eg3d.head_model_file import HeadArrays, read_head_arrays, write_head_arrays

LIMIT_BYTES = 3_000_000
RIGHT_EYE_68, LEFT_EYE_68 = slice(36, 42), slice(42, 48)


@pytest.fixture(scope="module")
def model() -> HeadModel:
    return load_head_model()


@pytest.fixture(scope="module")
def shipped() -> Path:
    return MANIFEST.parent / read_manifest()["head_model"]["file"]


def codes(count: int, num: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, num, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------ the shipped file


def test_the_file_is_small_and_says_what_made_it(shipped: Path) -> None:
    entry, (arrays, card) = read_manifest()["head_model"], read_head_arrays(shipped)
    assert entry["kind"] == "head_model" and entry["bytes"] == shipped.stat().st_size <= LIMIT_BYTES
    assert entry["licence"] == card["licence"] == "CC0-1.0" and "MakeHuman" in card["sources"]
    assert entry["command"].startswith("python -m dataset_preprocessing.human_heads.build out=head_model.npz ")
    assert card["recipe"]["seed"] == entry["config"]["seed"]
    assert arrays.num_components == entry["num_components"] >= 96
    best = card["held_out"][-1]
    assert best["num_components"] == arrays.num_components and best["rms_mm"] <= 1.2


def test_nothing_in_it_is_pickled(shipped: Path) -> None:
    with np.load(shipped, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)
    with zipfile.ZipFile(shipped) as archive:
        assert {name.rpartition(".")[2] for name in archive.namelist()} == {"npy"}


def test_the_same_arrays_give_the_same_bytes(shipped: Path, tmp_path: Path) -> None:
    arrays, card = read_head_arrays(shipped)
    write_head_arrays(tmp_path / "again.npz", arrays, {key: card[key] for key in card if key != "format"})
    assert (tmp_path / "again.npz").read_bytes() == shipped.read_bytes()


# ------------------------------------------------------------------------------------------------ geometry


def test_vertices_are_linear_in_the_code_and_differentiable(model: HeadModel) -> None:
    a, b = codes(2)[:1], codes(2, seed=1)[:1]
    mean = model.mean[None]
    both = model.vertices(2 * a - b) - mean
    torch.testing.assert_close(both, 2 * (model.vertices(a) - mean) - (model.vertices(b) - mean), atol=1e-5, rtol=0)
    assert torch.equal(model.vertices(torch.zeros(1, 1)), mean)
    short = model.vertices(a[:, :7])
    padded = torch.cat([a[:, :7], torch.zeros(1, model.num_components - 7)], dim=1)
    torch.testing.assert_close(short, model.vertices(padded), atol=1e-6, rtol=0)
    code = a.clone().requires_grad_()
    model.vertices(code)[0, 0].sum().backward()
    torch.testing.assert_close(code.grad[0], model.components[: a.shape[1], 0].sum(dim=1))


def test_codes_of_another_shape_are_refused(model: HeadModel) -> None:
    for wrong in (torch.zeros(3), torch.zeros(1, 0), torch.zeros(1, model.num_components + 1)):
        with pytest.raises(ValueError, match=r"head codes must be \[N, 1 to \d+\], got"):
            model.vertices(wrong)


def test_the_mean_head_is_its_own_mirror_image(model: HeadModel) -> None:
    assert torch.equal(model.mirror[model.mirror], torch.arange(model.num_vertices))
    flip = torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(model.mean[model.mirror] * flip, model.mean, atol=1e-5, rtol=0)
    assert torch.equal(model.region[model.mirror], model.region)
    corners = {tuple(sorted(face)) for face in model.faces.tolist()}
    assert {tuple(sorted(face)) for face in model.mirror[model.faces].tolist()} == corners
    mirrored = model.components[:, model.mirror] * flip  # a component is symmetric or antisymmetric
    size = model.components.flatten(1).norm(dim=1)
    off = torch.minimum(
        (mirrored - model.components).flatten(1).norm(dim=1), (mirrored + model.components).flatten(1).norm(dim=1)
    )
    assert float((off / size).max()) < 0.02  # by the rounding to 8 bits


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_parts_are_closed_and_face_outward(model: HeadModel, seed: int | None) -> None:
    code = torch.zeros(1, 1) if seed is None else codes(1, model.num_components, seed)
    vertices = model.vertices(code)[0].numpy()
    mesh = trimesh.Trimesh(vertices, model.faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert len(np.unique(mesh.faces)) == model.num_vertices
    parts = mesh.split(only_watertight=False)
    assert len(parts) == 3 and all(part.is_watertight and part.volume > 0 for part in parts)


def test_heads_stand_in_the_frame(model: HeadModel) -> None:
    heads = model.vertices(0.8 * codes(50, model.num_components))
    is_person = model.region < Region.BUST
    assert float(heads[:, is_person].abs().max()) < 0.45 and float(heads.abs().max()) < 0.56
    points = model.mean[model.landmarks(68)]
    right, left = points[RIGHT_EYE_68].mean(dim=0), points[LEFT_EYE_68].mean(dim=0)
    assert abs(float(left[0]) - 0.066) < 0.006 and abs(float(left[1]) - 0.030) < 0.01
    assert float(right[0]) < 0 < float(left[0])  # the subject's left is at +x
    assert abs(float(points[[48, 54], 1].mean()) + 0.120) < 0.012
    tip = points[30]
    assert float(tip[2]) == pytest.approx(float(points[:, 2].max()), abs=0.01) and 0.31 < float(tip[2]) < 0.38
    assert float(model.mean[:, 1].min()) < -0.44 and 0.24 < float(model.mean[:, 1].max()) < 0.33


def test_regions_cover_every_vertex_and_lie_where_they_say(model: HeadModel) -> None:
    assert set(model.region.tolist()) == {int(value) for value in Region}
    at = {region: model.mean[model.region == region].mean(dim=0) for region in Region}
    assert at[Region.SCALP][1] > at[Region.BROW][1] > at[Region.IRIS][1] > at[Region.LIPS][1] > at[Region.NECK][1]
    assert at[Region.NECK][1] > at[Region.BUST][1] > at[Region.BASE][1]
    assert at[Region.LIPS][2] > at[Region.MOUTH][2] and at[Region.IRIS][2] > at[Region.SOCKET][2]
    assert float(model.mean[model.region == Region.EAR, 0].abs().min()) > 0.12
    pupils = model.mean[model.landmarks(98)[96:]]
    assert set(model.region[model.landmarks(98)[96:]].tolist()) == {int(Region.PUPIL)} and pupils[0, 0] < 0


# ------------------------------------------------------------------------------------------------ landmarks

MIRROR_68 = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
MIRROR_68 += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55]
MIRROR_68 += [64, 63, 62, 61, 60, 67, 66, 65]
MIRROR_98 = [*range(32, -1, -1), 46, 45, 44, 43, 42, 50, 49, 48, 47, 37, 36, 35, 34, 33, 41, 40, 39, 38]
MIRROR_98 += [*range(51, 55), *range(59, 54, -1), 72, 71, 70, 69, 68, 75, 74, 73, 64, 63, 62, 61, 60, 67, 66, 65]
MIRROR_98 += [82, 81, 80, 79, 78, 77, 76, 87, 86, 85, 84, 83, 92, 91, 90, 89, 88, 95, 94, 93, 97, 96]


@pytest.mark.parametrize(("count", "mirror"), [(68, MIRROR_68), (98, MIRROR_98)])
def test_landmarks_are_symmetric_and_distinct(model: HeadModel, count: int, mirror: list[int]) -> None:
    points = model.landmarks(count)
    assert len(set(points.tolist())) == count
    assert torch.equal(model.mirror[points], points[mirror])


def test_landmarks_go_round_as_the_schemes_say(model: HeadModel) -> None:
    p = model.mean[model.landmarks(98)]
    x, y = p[:, 0], p[:, 1]
    assert bool((x[:16].diff() > -0.004).all()) and int(y[:33].argmin()) in (15, 16, 17)  # contour, chin lowest
    assert x[60] < x[62] < x[64] and y[62] > y[66] and y[61] > y[67]  # right eye: outer corner, above, inner corner
    assert x[68] < x[70] < x[72] and y[70] > y[74]
    assert x[76] < x[79] < x[82] and y[79] > y[90] >= y[94] > y[85]  # lips from outside in
    assert x[82] > x[83] > x[84] > x[85] > x[86] > x[87] > x[76] and x[88] < x[89] < x[90] < x[91] < x[92]
    assert bool((p[51:55, 2].diff() > 0).all()) and y[51] > y[54] > y[57]  # down the nose
    with pytest.raises(ValueError, match="70 is not one of 68, 98"):
        model.landmarks(70)


# ------------------------------------------------------------------------------------------------ distances, fits


def test_distance_is_the_root_mean_square(model: HeadModel) -> None:
    assert model.distance(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == pytest.approx([np.sqrt(12.5), 0.0])


def test_fit_recovers_a_code_and_ridge_shrinks_it(model: HeadModel) -> None:
    code = codes(1, 24)
    index = torch.arange(0, model.num_vertices, 11)
    points = model.vertices(code)[0, index]
    found, left = model.fit(points, index, ridge=0.0, num_components=24)
    torch.testing.assert_close(found, code[0], atol=1e-3, rtol=0)
    assert float(left.max()) < 1e-5
    sizes = [float(model.fit(points, index, ridge=ridge)[0].norm()) for ridge in (1e-3, 1e-1, 10.0, 1e3)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.2 * sizes[0]


def test_landmarks_alone_tell_much_of_a_head(model: HeadModel) -> None:
    vertices = model.vertices(0.7 * codes(1, model.num_components))[0]
    index = model.landmarks(98)
    _, left = model.fit(vertices[index], index, ridge=0.01, num_components=64)
    assert float(left.mean()) * model.mm_per_unit < 1.0


def test_fit_refuses_other_shapes(model: HeadModel) -> None:
    with pytest.raises(ValueError, match=r"points must be \[M, 3\]"):
        model.fit(torch.zeros(3, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must be \[M, 3\], got \[3, 3\], \[2, 3\]"):
        model.fit_surface(torch.zeros(3, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="needs points"):
        model.fit_surface(torch.zeros(0, 3))


def cloud(model: HeadModel, vertices: torch.Tensor, count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the face and their normals, as cameras in front see them."""
    mesh = trimesh.Trimesh(vertices.numpy(), model.faces.numpy(), process=False)
    points, face = trimesh.sample.sample_surface(mesh, count, seed=0)
    normals = mesh.face_normals[face]
    regions = model.region.numpy()[mesh.faces[face]]
    seen = (normals[:, 2] > -0.2) & (points[:, 1] > -0.25) & (regions < Region.BUST).all(axis=1)
    return torch.from_numpy(points[seen]).float(), torch.from_numpy(normals[seen]).float()


@pytest.mark.parametrize("has_normals", [True, False])
def test_fit_surface_finds_a_head_in_a_cloud(model: HeadModel, has_normals: bool) -> None:
    vertices = model.vertices(0.8 * codes(1, 48))[0]
    points, normals = cloud(model, vertices)
    points = points + 0.001 * torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
    found = model.fit_surface(points, normals if has_normals else None)
    face = torch.isin(model.region, torch.tensor([Region.SKIN, Region.BROW, Region.LIPS])) & (vertices[:, 2] > 0.1)
    made = found.motion.points(model.vertices(found.code[None])[0].numpy())
    off = np.linalg.norm(made - vertices.numpy(), axis=1)[face.numpy()] * model.mm_per_unit
    mean_off = (model.mean - vertices).norm(dim=1)[face] * model.mm_per_unit
    assert found.residual * model.mm_per_unit < 1.2
    assert np.sqrt(np.square(off).mean()) < 0.5 * float(mean_off.square().mean().sqrt())
    assert float(found.is_counted.float().mean()) > 0.85 and found.distances.shape == points.shape[:1]
    again = model.fit_surface(points, normals if has_normals else None)
    assert torch.equal(found.code, again.code)


def test_fit_surface_finds_a_motion(model: HeadModel) -> None:
    points, normals = cloud(model, model.mean)
    angle = torch.tensor(0.1)
    turn = torch.tensor([[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]])
    moved = 1.05 * points @ turn.T + torch.tensor([0.01, -0.01, 0.02])
    found = model.fit_surface(moved, normals @ turn.T, FitConfig(num_components=16))
    assert found.motion.scale == pytest.approx(1.05, abs=0.01)
    assert np.abs(found.motion.rotation - turn.numpy()).max() < 0.01
    assert np.abs(found.motion.shift - [0.01, -0.01, 0.02]).max() < 0.006
    assert float(model.distance(found.code[None])) < 0.35
    held = model.fit_surface(moved, normals @ turn.T, FitConfig(num_components=16, is_moving=False))
    assert held.motion.scale == 1.0 and held.residual > found.residual


def test_points_that_are_no_head_are_said_to_be_far_off(model: HeadModel) -> None:
    found = model.fit_surface(torch.full((50, 3), 3.0))
    assert not found.is_counted.any() and found.residual == float("inf") and float(found.distances.min()) > 2


# ------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "flipped", "no card", "another format", "pickle", "folder"])
def test_a_damaged_file_is_one_line(shipped: Path, tmp_path: Path, damage: str) -> None:
    content, path = shipped.read_bytes(), tmp_path / "model.npz"
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_text("no model")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif damage == "pickle":
        np.savez(path, mean=np.array([{"a": 1}], dtype=object), card=np.zeros(1))
    else:
        arrays, card = read_head_arrays(shipped)
        entries = {field.name: getattr(arrays, field.name) for field in dataclasses.fields(arrays)}
        if damage != "no card":
            text = json.dumps(card | {"format": "other"}) if damage == "another format" else "[1]"
            entries["card"] = np.frombuffer(text.encode(), dtype=np.uint8)
        np.savez(path, **entries)
    with pytest.raises(ValueError, match="not a head model") as error:
        load_head_model(path)
    assert str(error.value).startswith(str(path)) and str(error.value).isprintable() and len(str(error.value)) < 400


FAULTS = {
    "mean": (lambda a: a.astype(np.float64), r"mean is float64 \[\d+, 3\], expected float32"),
    "scales": (lambda a: np.where(a == a[0], np.nan, a).astype(a.dtype), "scales has NaN or infinite numbers"),
    "faces": (lambda a: np.full_like(a, 60_000), r"faces names vertex 60000 of \d+"),
    "region": (lambda a: np.full_like(a, 77), "region has the value 77, the last is 12"),
    "components_8": (lambda a: a[:, :-1], r"components_8 is int8 \[\d+, \d+, 3\], expected int8"),
    "landmarks_98": (lambda a: a[:97], r"landmarks_98 is uint16 \[97\], expected uint16 \[98\]"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_arrays_that_do_not_fit_are_neither_written_nor_read(shipped: Path, tmp_path: Path, name: str) -> None:
    change, said = FAULTS[name]
    arrays, card = read_head_arrays(shipped)
    wrong = dataclasses.replace(arrays, **{name: change(getattr(arrays, name))})
    with pytest.raises(ValueError, match=f"not written, .*{said}"):
        write_head_arrays(tmp_path / "wrong.npz", wrong, card)
    assert list(tmp_path.iterdir()) == []
    entries = {field.name: getattr(wrong, field.name) for field in dataclasses.fields(HeadArrays)}
    np.savez(tmp_path / "wrong.npz", card=np.frombuffer(json.dumps(card).encode(), dtype=np.uint8), **entries)
    with pytest.raises(ValueError, match=f"not a head model .*{said}"):
        load_head_model(tmp_path / "wrong.npz")


def test_other_contents_than_the_manifest_lists_are_refused(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    listed = tmp_path / "checkpoints" / "manifest.json"
    entry = read_manifest()["head_model"] | {"sha256": "0" * 64}
    listed.write_text(json.dumps({"checkpoints": {"head_model": entry}}))
    (listed.parent / entry["file"]).write_bytes(shipped.read_bytes())
    with pytest.raises(ValueError, match=r"has SHA-256 .*, the manifest says 0000"):
        load_head_model(manifest=listed)
    (listed.parent / entry["file"]).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"is missing; get it from .*, or make it: python -m dataset_preprocess"
    ):
        load_head_model(manifest=listed)
    with pytest.raises(FileNotFoundError, match="no network file at"):
        load_head_model(tmp_path / "none.npz")
