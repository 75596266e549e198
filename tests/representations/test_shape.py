"""Shapes of samples: where the surface lies on either grid, colours, normals and the density file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from tiny import tiny_generator_config

from eg3d.fields.triplane import TriPlaneField
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.ops.density_grid.grid import GridSpec
from eg3d.representations import shape
from eg3d.representations.mesh import NoSurface
from eg3d.representations.shape import (
    ShapeConfig,
    density_volume,
    export_volume,
    shape_mesh,
    where_sampled,
    write_shape,
)

BORDER = 0.1


@pytest.fixture(scope="module")
def G() -> TriPlaneGenerator:
    """A field in a box of side 1.6 whose density at the level 10 is a blob: rather high inside, low outside."""
    cfg = tiny_generator_config()
    cfg.rendering.box_warp = 1.6
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        made = TriPlaneGenerator(cfg).eval().requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def field(G) -> TriPlaneField:
    return G.field_of_planes(torch.randn(1, 3, 2, 8, 8, generator=torch.Generator().manual_seed(4)))


@pytest.fixture(scope="module")
def level(field) -> float:
    volume = density_volume(field, 16, grid="exact")
    return float(np.quantile(volume[4:-4, 4:-4, 4:-4], 0.8))


def density_at(field, points: np.ndarray) -> np.ndarray:
    return field.density(torch.from_numpy(points.astype(np.float32))[None])[0].numpy()


def inner(vertices: np.ndarray) -> np.ndarray:
    """Vertices away from the hidden border, which has surface of its own."""
    return np.abs(vertices).max(1) < 0.8 * (1 - 2 * BORDER) - 0.06


@pytest.mark.parametrize("grid", ["exact", "skewed"])
def test_vertices_lie_on_the_level_in_world_units(field, level, grid) -> None:
    """On a skewed grid they do at the places that were sampled, up to a voxel beside the vertices, as published."""
    cfg = ShapeConfig(resolution=64, grid=grid, level=level, border=BORDER)
    mesh = shape_mesh(field, density_volume(field, 64, grid=grid), cfg)
    vertices = np.asarray(mesh.vertices)
    is_inner = inner(vertices)
    assert is_inner.sum() > 500
    vertices = vertices[is_inner]
    sampled = where_sampled(vertices, cfg, box_warp=1.6)
    error = np.abs(density_at(field, sampled) - level)
    spread = density_volume(field, 16, grid="exact").std()
    assert error.mean() < 0.01 * spread  # what linear interpolation between grid points leaves
    if grid == "exact":
        assert np.array_equal(sampled, vertices)
    else:
        voxel, shift = 1.6 / 63, sampled - vertices
        assert shift[:, :2].min() >= 0 and shift.max() <= 1.05 * voxel and np.allclose(shift[:, 2], 0)
        assert shift[:, :2].mean() > 0.3 * voxel
        unsheared = np.abs(density_at(field, vertices) - level)
        assert unsheared.mean() > 3 * error.mean()


def test_normals_point_outward_where_the_density_falls(field, level) -> None:
    cfg = ShapeConfig(resolution=64, level=level, border=BORDER)
    mesh = shape_mesh(field, density_volume(field, 64, grid="exact"), cfg)
    vertices, normals = np.asarray(mesh.vertices), np.asarray(mesh.vertex_normals)
    is_inner = inner(vertices)
    step = 0.25 * 1.6 / 63 * normals[is_inner]
    falls = density_at(field, vertices[is_inner] + step) < density_at(field, vertices[is_inner] - step)
    assert falls.mean() > 0.99


@pytest.mark.parametrize("grid", ["exact", "skewed"])
def test_slabs_make_the_whole_volume(field, grid, monkeypatch) -> None:
    whole = field.density_grid(GridSpec(12, grid))[0].numpy()
    monkeypatch.setattr(shape, "SLAB_POINTS", 5 * 12 * 12)  # 12 = 5 + 5 + 2
    np.testing.assert_allclose(density_volume(field, 12, grid=grid), whole, rtol=1e-5, atol=1e-6)


def test_colours_are_the_field_s_at_the_surface(field, level) -> None:
    cfg = ShapeConfig(resolution=24, grid="skewed", level=level, border=BORDER, is_colored=True)
    mesh = shape_mesh(field, density_volume(field, 24, grid="skewed"), cfg)
    at = torch.from_numpy(where_sampled(np.asarray(mesh.vertices), cfg, box_warp=1.6).astype(np.float32))
    expected = field.density_and_color(at[None])[1][0, :, :3].clamp(0, 1).numpy() * 255
    assert np.abs(mesh.visual.vertex_colors[:, :3] - expected).max() <= 0.51
    assert expected.std(0).min() > 1  # they do differ


NORMALS = {".ply": b"property float nx", ".glb": b'"NORMAL"', ".obj": b"\nvn "}


@pytest.mark.parametrize("suffix", NORMALS)
def test_files_carry_normals_and_colours(field, level, suffix, tmp_path: Path) -> None:
    cfg = ShapeConfig(resolution=24, level=level, border=BORDER, is_colored=True, format=suffix)
    path = write_shape(field, tmp_path / "shape", cfg)
    assert [p.name for p in tmp_path.iterdir()] == [f"shape{suffix}"] and path.suffix == suffix
    mesh = shape_mesh(field, density_volume(field, 24, grid="exact"), cfg)
    assert NORMALS[suffix] in path.read_bytes()
    how = {"skip_materials": True} if suffix == ".glb" else {}  # trimesh drops colours beside a material
    loaded = trimesh.load(path, force="mesh", process=False, **how)
    assert np.allclose(loaded.vertices, mesh.vertices, atol=1e-5)
    assert (loaded.vertex_normals * mesh.vertex_normals).sum(1).min() > 0.999
    read = np.asarray(loaded.visual.vertex_colors)[:, :3] / 255
    display = np.asarray(mesh.visual.vertex_colors[:, :3]) / 255
    linear = np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
    assert np.abs(read - (linear if suffix == ".glb" else display)).max() < 0.01  # glTF means linear light


def test_the_same_shape_is_the_same_bytes(field, level, tmp_path: Path) -> None:
    for suffix in shape.FORMATS:
        cfg = ShapeConfig(resolution=16, level=level, border=BORDER, format=suffix)
        first, second = (write_shape(field, tmp_path / name, cfg).read_bytes() for name in ("a", "b"))
        assert first == second, suffix


def test_a_density_file_is_read_back_with_its_place(field, tmp_path: Path) -> None:
    cfg = ShapeConfig(resolution=16, border=0.2, format=".mrc")
    path = write_shape(field, tmp_path / "shape", cfg)
    raw = path.read_bytes()
    assert len(raw) == 1024 + 4 * 16**3 and raw[208:212] == b"MAP "
    assert struct.unpack("<4i", raw[:16]) == (16, 16, 16, 2)
    assert struct.unpack("<3f", raw[196:208]) == pytest.approx((-0.8,) * 3)
    assert struct.unpack("<3f", raw[40:52]) == pytest.approx((1.6 / 15 * 16,) * 3)
    stored = np.frombuffer(raw, "<f4", offset=1024).reshape(16, 16, 16).transpose(2, 1, 0)  # x runs fastest
    volume = density_volume(field, 16, grid="exact")
    kept = slice(3, 13)  # int(0.2 * 16) hidden at each side
    assert np.array_equal(stored[kept, kept, kept], volume[kept, kept, kept])
    assert (stored[:3] == -1000).all() and (stored[:, :, 13:] == -1000).all()


def test_a_density_file_is_a_valid_one(tmp_path: Path) -> None:
    mrcfile = pytest.importorskip("mrcfile", reason="checks against the mrcfile library")
    volume = np.random.RandomState(0).randn(5, 6, 7).astype(np.float32)
    export_volume(volume, tmp_path / "v.mrc", box_warp=2.0)
    assert mrcfile.validate(tmp_path / "v.mrc")
    with mrcfile.open(tmp_path / "v.mrc") as file:
        assert np.array_equal(file.data.transpose(2, 1, 0), volume)
        assert file.voxel_size.x == pytest.approx(0.5)
        assert file.header.rms == pytest.approx(volume.std(), rel=1e-5)


def test_without_a_surface_nothing_is_written(field, tmp_path: Path) -> None:
    with pytest.raises(NoSurface, match="does not cross level 1e"):
        write_shape(field, tmp_path / "shape", ShapeConfig(resolution=8, level=1e6))
    assert list(tmp_path.iterdir()) == []


def test_all_faults_at_once(field, tmp_path: Path) -> None:
    bad = ShapeConfig(resolution=1, grid="round", format=".stl")
    with pytest.raises(ValueError, match="resolution: ") as error:
        write_shape(field, tmp_path / "shape", bad)
    assert "grid: 'round'" in str(error.value) and "format: '.stl'" in str(error.value)
    assert ShapeConfig(format=".mrc", is_colored=True).validate()[0].startswith("is_colored: ")
