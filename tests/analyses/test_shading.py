"""The rasteriser against shapes whose pictures are known."""

from __future__ import annotations

import numpy as np
import pytest

from eg3d.cameras import CameraConfig
from eg3d.raster import vertex_normals
from paper_result_analyses.measure.shading import shade_mesh

trimesh = pytest.importorskip("trimesh")


def test_a_sphere_is_a_disc_of_the_right_size():
    camera, radius, side = CameraConfig(pivot=(0.0, 0.0, 0.0)), 0.2, 64
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    picture = shade_mesh(mesh, camera.label(), side)
    is_surface = picture.min(-1) < 250
    expected = camera.focal * radius / np.sqrt(camera.radius**2 - radius**2) * side  # tangent cone
    assert np.sqrt(is_surface.sum() / np.pi) == pytest.approx(expected, rel=0.03)
    rows, columns = np.nonzero(is_surface)
    assert (rows.mean(), columns.mean()) == pytest.approx((side / 2 - 0.5, side / 2 - 0.5), abs=0.3)
    assert picture[10, 32].mean() == 255 and picture[22, 26].mean() > picture[42, 40].mean()  # lit from the upper left


def test_the_nearer_surface_hides_the_farther_one():
    camera = CameraConfig(pivot=(0.0, 0.0, 0.0))
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.15)
    behind = trimesh.creation.box(extents=(0.4, 0.4, 0.02)).apply_translation((0, 0, -0.4))
    both = trimesh.util.concatenate([behind, ball])
    alone, together = (shade_mesh(m, camera.label(), 48) for m in (ball, both))
    centre = slice(20, 28)
    assert np.array_equal(alone[centre, centre], together[centre, centre])
    assert (together.min(-1) < 250).sum() > (alone.min(-1) < 250).sum()


def test_it_is_repeatable_and_an_empty_view_is_white():
    camera = CameraConfig()
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.1)
    first = shade_mesh(mesh, camera.label(0.4), 32)
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, shade_mesh(mesh, camera.label(0.4), 32))
    assert (shade_mesh(mesh.copy().apply_translation((5, 0, 0)), camera.label(), 32) == 255).all()


def test_normals_of_a_sphere_point_outward():
    mesh = trimesh.creation.icosphere(subdivisions=3)
    normals = vertex_normals(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    assert (normals * mesh.vertices).sum(1).min() > 0.99
