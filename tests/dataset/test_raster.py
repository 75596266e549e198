"""The rasteriser against rays that are tested with every triangle, and against shapes whose pictures are known."""

import numpy as np
import pytest
import torch
import trimesh

from dataset_preprocessing.human_heads.distance import surface_distance
from dataset_preprocessing.human_heads.parts import is_closed
from eg3d.cameras import intrinsics, lookat_c2w
from eg3d.raster import occupancy, project, rasterize, vertex_normals
from eg3d.rendering.rays import pixel_rays

FOCAL = 4.2


def rays_of(c2w: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Origin [3] and unit directions [R * R, 3] of the pixels' rays."""
    bundle = pixel_rays(torch.from_numpy(c2w)[None].double(), intrinsics(FOCAL)[None].double(), resolution)
    return bundle.rays_o[0, 0].numpy(), bundle.rays_d[0].numpy()


def brute_force(origin, directions, vertices, faces, *, two_sided):
    """Nearest triangle [P] (-1: none), distance [P] and weights [P, 3]. Source: Moeller and Trumbore (1997)."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    ab, ac, to = b - a, c - a, origin - a
    p = np.cross(directions[:, None], ac)
    det = (ab * p).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = (to * p).sum(-1) / det
        q = np.cross(to, ab)
        v = (directions[:, None] * q).sum(-1) / det
        t = (ac * q).sum(-1) / det
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & ((det != 0) if two_sided else (det > 0))
    t = np.where(hit, t, np.inf)
    best = t.argmin(axis=1)
    rows = np.arange(len(directions))
    u, v, t = u[rows, best], v[rows, best], t[rows, best]
    return np.where(np.isfinite(t), best, -1), t, np.stack([1 - u - v, u, v], axis=1)


def soup(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Triangles of all sizes that cross each other: vertices [3 * count, 3] and faces [count, 3]."""
    rng = np.random.RandomState(seed)
    sizes = 10.0 ** rng.uniform(-2.5, -0.5, (count, 1, 1))
    corners = rng.uniform(-0.4, 0.4, (count, 1, 3)) + sizes * rng.standard_normal((count, 3, 3))
    return corners.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize(("seed", "count"), [(0, 300), (1, 40), (2, 3)])
def test_triangles_depths_and_weights_are_those_of_rays(seed, count, two_sided):
    vertices, faces = soup(seed, count)
    c2w = lookat_c2w(0.3 * seed, -0.2)[0].double().numpy()
    screen, nearness = project(vertices, c2w, focal=FOCAL, resolution=48)
    seen, along_axis = rasterize(screen, nearness, faces, 48, two_sided=two_sided).perspective(nearness, faces)
    origin, directions = rays_of(c2w, 48)
    triangle, distance, weights = brute_force(origin, directions, vertices, faces, two_sided=two_sided)
    expected = np.flatnonzero(triangle >= 0)
    np.testing.assert_array_equal(seen.pixel, expected)
    np.testing.assert_array_equal(seen.triangle, triangle[expected])
    forward = c2w[:3, 2]
    np.testing.assert_allclose(along_axis, distance[expected] * (directions[expected] @ forward), rtol=1e-6)
    np.testing.assert_allclose(seen.weights, weights[expected], atol=2e-5)


def test_interpolation_is_linear_on_the_surface_not_on_the_screen():
    """What the corners of a steep floor hold of their own places gives back where each ray meets it."""
    vertices = np.array([[-0.6, -0.3, 0.9], [0.6, -0.3, 0.9], [0.0, -0.3, -6.0]])
    faces = np.array([[0, 1, 2]])
    c2w = lookat_c2w(0.0, -0.2)[0].double().numpy()
    screen, nearness = project(vertices, c2w, focal=FOCAL, resolution=64)
    flat = rasterize(screen, nearness, faces, 64)
    seen, _ = flat.perspective(nearness, faces)
    points = seen.interpolate(vertices, faces)
    origin, directions = rays_of(c2w, 64)
    d = directions[seen.pixel]
    np.testing.assert_allclose(points, origin + d * ((-0.3 - origin[1]) / d[:, 1:2]), atol=1e-6)
    assert np.abs(flat.interpolate(vertices, faces) - points).max() > 0.1


def test_a_sphere_has_the_depth_of_its_formula():
    sphere = trimesh.creation.icosphere(subdivisions=5, radius=0.3)
    c2w = lookat_c2w(0.4, 0.1, lookat=(0.0, 0.0, 0.0))[0].double().numpy()
    vertices, faces = np.asarray(sphere.vertices), np.asarray(sphere.faces)
    screen, nearness = project(vertices, c2w, focal=FOCAL, resolution=64)
    seen, along_axis = rasterize(screen, nearness, faces, 64).perspective(nearness, faces)
    origin, directions = rays_of(c2w, 64)
    d = directions[seen.pixel]
    b = d @ origin
    inside = b**2 - origin @ origin + 0.3**2
    well = inside > 0.05**2  # near the rim the depth of a polyhedron is not that of the sphere
    distance = along_axis / (d @ c2w[:3, 2])
    np.testing.assert_allclose(distance[well], (-b - np.sqrt(np.maximum(inside, 0)))[well], atol=5e-4)
    assert well.mean() > 0.9
    normals = seen.interpolate(vertex_normals(vertices, faces), faces)
    assert (normals * (origin + d * distance[:, None])).sum(-1).min() > 0.29


def test_no_pixel_falls_between_faces_that_share_an_edge():
    """Edges and corners that pass exactly through pixel centres, in a grid that covers everything."""
    x, y = np.meshgrid(np.arange(-1.5, 20.0, 0.5), np.arange(-1.5, 20.0, 0.5))
    screen = np.stack([x.ravel(), y.ravel()], axis=1)
    n = x.shape[1]
    corner = (np.arange(x.shape[0] - 1)[:, None] * n + np.arange(n - 1)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + n, corner + 1], 1), np.stack([corner + 1, corner + n, corner + n + 1], 1)]
    )
    seen = rasterize(screen, np.ones(len(screen)), faces, 16)
    assert len(seen.pixel) == 256


def test_nothing_seen_is_no_error():
    vertices, faces = soup(0, 5)
    far = np.array([5.0, 0.0, 9.0])
    screen, nearness = project(vertices + far, np.eye(4), focal=FOCAL, resolution=16)
    assert len(rasterize(screen, nearness, faces, 16).pixel) == 0
    assert len(rasterize(screen, nearness, faces[:0], 16).pixel) == 0
    with pytest.raises(ValueError, match="behind the camera"):
        project(np.zeros((1, 3)), np.eye(4), focal=FOCAL, resolution=16)


@pytest.mark.parametrize("resolution", [31, 64])
def test_occupancy_of_spheres_that_overlap(resolution):
    """Volume and every single point, with an axis of symmetry on the grid's own columns."""
    centres, radii = np.array([[0.0, 0.0, 0.0], [0.1, 0.05, 0.0]]), (0.3, 0.25)
    balls = [trimesh.creation.icosphere(subdivisions=4, radius=r) for r in radii]
    vertices = np.concatenate([np.asarray(b.vertices) + c for b, c in zip(balls, centres, strict=True)])
    faces = np.concatenate([np.asarray(balls[0].faces), np.asarray(balls[1].faces) + len(balls[0].vertices)])
    inside = occupancy(vertices, faces, resolution)
    axis = np.linspace(-0.5, 0.5, resolution)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    distance = np.minimum(*(np.linalg.norm(points - c, axis=-1) - r for c, r in zip(centres, radii, strict=True)))
    sure = np.abs(distance) > 2e-3
    np.testing.assert_array_equal(inside[sure], distance[sure] < 0)
    one = occupancy(np.asarray(balls[0].vertices), np.asarray(balls[0].faces), resolution)
    assert one.sum() / (resolution - 1) ** 3 == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.03)


def test_closed_is_every_edge_twice():
    faces = np.asarray(trimesh.creation.icosphere(subdivisions=1).faces)
    assert is_closed(faces) and not is_closed(faces[1:])
    assert not is_closed(np.concatenate([faces[:1, ::-1], faces[1:]]))


def test_distance_to_a_box_is_its_formula():
    box = trimesh.creation.box((0.5, 0.3, 0.4)).subdivide().subdivide().subdivide()
    vertices, faces = np.asarray(box.vertices), np.asarray(box.faces)
    points = np.random.RandomState(0).uniform(-0.5, 0.5, (3000, 3))
    beyond = np.abs(points) - np.array([0.25, 0.15, 0.2])
    expected = np.abs(np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0))
    np.testing.assert_allclose(surface_distance(points, vertices, faces), expected, atol=1e-9)
    banded = surface_distance(points, vertices, faces, band=0.1)
    near = expected < 0.06  # a face is smaller than 0.04
    np.testing.assert_allclose(banded[near], expected[near], atol=1e-9)
    np.testing.assert_allclose(banded, expected, atol=0.04)
    assert len(surface_distance(points[:0], vertices, faces)) == 0
