"""Meshes: place, size and orientation from shapes with known ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from eg3d.representations.mesh import component_areas, export_mesh, extract_mesh


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


def test_pieces() -> None:
    one = extract_mesh(_balls(((0, 0, 0), 0.2)), resolution=32)
    assert component_areas(one) == pytest.approx([one.area])
    two = extract_mesh(_balls(((-0.2, 0, 0), 0.2), ((0.3, 0, 0), 0.1)), resolution=32)
    assert component_areas(two) / two.area == pytest.approx([0.8, 0.2], abs=0.02)  # the largest first


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
