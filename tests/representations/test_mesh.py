"""Meshes: place, size and orientation from shapes with known ones."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

from eg3d.representations.flat_faces import without_flat_faces
from eg3d.representations.mesh import NoSurface, export_mesh, extract_mesh, mesh_bytes, surface
from tests.representations.glb_checks import glb_faults, read_glb


def _balls(*balls: tuple[tuple[float, float, float], float], resolution: int = 32) -> np.ndarray:
    axis = np.arange(resolution) / (resolution - 1) - 0.5
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    distance = np.min([np.linalg.norm(points - np.array(centre), axis=-1) - radius for centre, radius in balls], axis=0)
    return (10 - 200 * distance).astype(np.float32)


def test_sphere_has_its_volume_place_and_outward_faces() -> None:
    centre, radius = (0.1, -0.05, 0.15), 0.2
    mesh = extract_mesh(_balls((centre, radius)), resolution=32)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)  # positive: outward
    assert np.allclose(mesh.centroid, centre, atol=1e-3)
    outward = ((mesh.triangles_center - centre) * mesh.face_normals).sum(1)
    assert (outward > 0).all()


def test_axes_are_not_mirrored_and_a_slab_lies_where_the_cube_has_it() -> None:
    volume = _balls(((0.2, 0.0, 0.0), 0.1), ((0.0, 0.2, 0.1), 0.06))
    whole = extract_mesh(torch.from_numpy(volume), resolution=32, box_warp=1.5)
    slab = extract_mesh(volume[3:, 5:, 7:], resolution=32, origin_index=(3, 5, 7), box_warp=1.5)
    assert np.allclose(whole.bounds, slab.bounds, atol=1e-5)
    assert np.allclose(whole.bounds[1], 1.5 * np.array([0.3, 0.26, 0.16]), atol=0.01)


def test_border_is_hidden_and_closes_the_surface() -> None:
    volume = _balls(((0.0, 0.0, 0.0), 0.45))
    mesh = extract_mesh(volume, resolution=32, border=0.25)
    assert mesh.is_watertight and np.abs(mesh.bounds).max() < 0.3
    one_side = extract_mesh(volume, resolution=32, border=(0, 0, 0.5, 0, 0, 0))
    assert one_side.bounds[0, 1] > -0.02 and one_side.bounds[0, 0] < -0.4


@pytest.mark.parametrize("volume", [np.zeros((4, 4, 4)), np.full((4, 4, 4), 99.0), np.full((4, 4, 4), np.nan)])
def test_no_surface_is_one_line_with_the_range(volume: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no surface: density of the 4x4x4 volume spans") as error:
        extract_mesh(volume, resolution=4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".obj"])
def test_files_hold_the_same_mesh(tmp_path: Path, suffix: str) -> None:
    mesh = extract_mesh(_balls(((0.1, 0, 0), 0.2)), resolution=32)
    export_mesh(mesh, tmp_path / f"ball{suffix}")
    loaded = trimesh.load(tmp_path / f"ball{suffix}", force="mesh")
    assert loaded.volume == pytest.approx(mesh.volume, rel=1e-4)
    assert np.allclose(loaded.bounds, mesh.bounds, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == [f"ball{suffix}"]


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    mesh = extract_mesh(_balls(((0, 0, 0), 0.2)), resolution=32)
    with pytest.raises(ValueError, match=r"\.glb, \.ply, \.obj"):
        export_mesh(mesh, tmp_path / "ball.stl")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- faces without area


def _steps(seed: int = 0, side: int = 20) -> np.ndarray:
    """A closed, lumpy field of whole numbers, many of which are the level itself."""
    noise = np.random.default_rng(seed).normal(size=(side,) * 3)
    return np.pad(np.round(gaussian_filter(noise, 2) * 60 + 10), 1, constant_values=-50).astype(np.float32)


def test_whole_numbers_hit_the_level_and_leave_no_flat_face() -> None:
    volume = _steps()
    vertices, faces, _, _ = marching_cubes(volume, 10.0, gradient_direction="ascent")
    raw = trimesh.Trimesh(vertices, faces, process=False)
    assert (raw.area_faces < 1e-9).sum() > 100 and not raw.is_watertight  # so the test could fail
    mesh = extract_mesh(volume, resolution=22, box_warp=21.0)
    assert mesh.area_faces.min() > 1e-6
    assert mesh.is_watertight and mesh.volume == pytest.approx(raw.volume, rel=1e-9)
    assert len(np.unique(mesh.faces)) == len(mesh.vertices)
    assert np.allclose(np.linalg.norm(mesh.vertex_normals, axis=1), 1)
    assert mesh.area == pytest.approx(raw.area, rel=1e-9)


def test_a_surface_that_hits_no_grid_point_stays_as_marching_cubes_makes_it() -> None:
    volume = _balls(((0.1, -0.05, 0.15), 0.2))
    vertices, faces, _, _ = marching_cubes(volume, 10.0, gradient_direction="ascent")
    found = surface(volume)
    assert np.array_equal(found[0], vertices) and np.array_equal(found[1], faces)


def test_a_touch_in_one_point_is_no_surface() -> None:
    volume = np.zeros((5, 5, 5), dtype=np.float32)
    volume[2, 2, 2] = 10.0
    volume[0, 0, 0] = np.nextafter(np.float32(10), np.float32(11))
    with pytest.raises(NoSurface, match="points or lines only"):
        surface(volume)


def test_edges_that_are_not_flat_are_kept_to_the_last_bit() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [1 + 5e-7, 0, 0], [0, 1, 0], [9, 9, 9], [0.5, 0, 0]], dtype=np.float64)
    faces = np.array([[0, 1, 3], [1, 2, 3], [0, 5, 1]])
    used, kept = without_flat_faces(points, faces)
    assert used.tolist() == [0, 1, 3] and kept.tolist() == [[0, 1, 2]]  # a short edge, a line, an unused vertex
    used, kept = without_flat_faces(points, faces[:2], shortest=1e-7)
    assert used.tolist() == [0, 1, 2, 3] and kept.tolist() == [[0, 1, 3], [1, 2, 3]]


# ---------------------------------------------------------------------------------------------- files


def _sheet() -> trimesh.Trimesh:
    """A triangle from both sides, a face that float32 makes flat, and a vertex of no face."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1 + 1e-12, 0, 0], [5, 5, 5]], dtype=np.float64)
    return trimesh.Trimesh(vertices, np.array([[0, 1, 2], [0, 2, 1], [1, 3, 2]]), process=False)


def _colored(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    shades = np.linspace(0, 255, len(mesh.vertices)).astype(np.uint8)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=np.stack([shades, shades, 255 - shades], axis=1))
    return mesh


GLB_MESHES = {
    "ball": lambda: extract_mesh(_balls(((0.1, 0, 0), 0.2)), resolution=32),
    "whole numbers": lambda: extract_mesh(_steps(), resolution=22),
    "whole numbers in colour": lambda: _colored(extract_mesh(_steps(1), resolution=22)),
    "sheet": _sheet,
}


@pytest.mark.parametrize("name", GLB_MESHES)
def test_a_strict_validator_finds_nothing_in_a_glb(name: str) -> None:
    mesh = GLB_MESHES[name]()
    assert glb_faults(mesh_bytes(mesh, ".glb")) == []


def test_the_validator_finds_what_it_looks_for() -> None:
    """The sheet as trimesh writes it by itself; and bits of a good file turned over."""
    faults = glb_faults(bytes(_sheet().export(file_type="glb", include_normals=True)))
    assert any("in no triangle" in fault for fault in faults) and any("unit length" in fault for fault in faults)
    assert any("without area" in fault for fault in faults)
    good = mesh_bytes(_sheet(), ".glb")
    assert glb_faults(good.replace(b'"max":[1.0', b'"max":[2.0')) != []
    assert glb_faults(good[:8] + b"\0\0\0\0" + good[12:]) != []


def test_what_is_left_out_of_a_file_takes_its_colour_along() -> None:
    mesh = _colored(_sheet())
    tree, arrays = read_glb(mesh_bytes(mesh, ".glb"))
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]  # the colours have their light in them
    assert "extensionsUsed" not in read_glb(mesh_bytes(_sheet(), ".glb"))[0]
    assert len(arrays["POSITION"]) == 3 and tree["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0
    ply = trimesh.load(io.BytesIO(mesh_bytes(mesh, ".ply")), file_type="ply", process=False)
    assert np.array_equal(ply.visual.vertex_colors[:, :3], mesh.visual.vertex_colors[:3, :3])


def test_nothing_to_write_is_said() -> None:
    flat = trimesh.Trimesh(np.zeros((3, 3)), np.array([[0, 1, 2]]), process=False)
    with pytest.raises(ValueError, match="none of its faces has an area"):
        mesh_bytes(flat, ".ply")
