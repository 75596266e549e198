"""The true geometry of a portrait, by its code: surfaces, what a camera sees of them, which points lie inside.

Shape letters: R pixels or points a side, K numbers, V vertices, F faces, P points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from dataset_preprocessing.human_heads.distance import surface_distance
from dataset_preprocessing.human_heads.head import head_template
from dataset_preprocessing.human_heads.portrait import KINDS, Portrait, portrait, portrait_parts
from dataset_preprocessing.human_heads.render import FFHQ_FOCAL
from eg3d.ops.density_grid.grid import GridSpec, grid_points
from eg3d.raster import depth_and_normals, maps_of, occupancy, project, rasterize

if TYPE_CHECKING:
    import trimesh

BOX_HALF = 0.5  # world units: half the side of the box that the generator can fill
DISTANCE_BAND = 0.10  # world units
# Parts that a pixel may show besides those of the head model, whose numbers are Region's.
NOTHING, HAIR, GLASSES = -1, 100, 101


def true_mesh(codes: np.ndarray) -> list[trimesh.Trimesh]:
    """The closed surfaces of the head with code [K], world units: the head with its bust, then hair and glasses.

    They may overlap: the portrait is their union. Raises ValueError on another K.
    """
    import trimesh

    return [trimesh.Trimesh(p.vertices, p.faces, process=False) for p in portrait_parts(codes)]


def true_depth_normals(
    codes: np.ndarray, c2w: np.ndarray, resolution: int, *, focal: float = FFHQ_FOCAL
) -> tuple[np.ndarray, np.ndarray]:
    """What a camera c2w [4, 4] outside the head with code [K] sees through the centres of R x R pixels.

    Returns depth along the rays, float32 [R, R] world units, 0 = background, and unit normals in the world, float32
    [R, R, 3]. Raises ValueError on another K, or where a part of the head is not before the camera.
    """
    subject = portrait(codes)
    return depth_and_normals(subject.vertices, subject.faces, subject.normals, np.asarray(c2w), resolution, focal=focal)


def true_parts(
    subject: Portrait, c2w: np.ndarray, resolution: int, *, focal: float = FFHQ_FOCAL
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `true_depth_normals` of a portrait, and which part each pixel shows: int64 [R, R].

    A part is a Region of the head model, HAIR, GLASSES, or NOTHING.
    """
    screen, nearness = project(subject.vertices, c2w, focal=focal, resolution=resolution)
    seen, along_axis = rasterize(screen, nearness, subject.faces, resolution).perspective(nearness, subject.faces)
    depth, normals = maps_of(seen, along_axis, subject.normals, subject.faces, resolution, focal=focal)
    kind, corner = subject.kind[seen.triangle], seen.weights.argmax(axis=1)
    region = head_template().model.region.numpy()
    vertex = subject.faces[seen.triangle, corner]
    shown = np.where(kind == KINDS.index("hair"), HAIR, GLASSES)
    is_head = kind == KINDS.index("head")
    shown[is_head] = region[vertex[is_head]]
    part = np.full(resolution * resolution, NOTHING)
    part[seen.pixel] = shown
    return depth, normals, part.reshape(resolution, resolution)


def true_occupancy(codes: np.ndarray, resolution: int) -> np.ndarray:
    """Which points of the "exact" grid over the box lie inside the head with code [K]: bool [R, R, R], order x, y, z.

    Raises ValueError on another K or a resolution below 2.
    """
    inside = np.zeros((_checked(resolution),) * 3, dtype=bool)
    for each in portrait_parts(codes):
        inside |= occupancy(each.vertices, each.faces, resolution, half=BOX_HALF)
    return inside


def true_distance(codes: np.ndarray, grid: int | GridSpec) -> np.ndarray:
    """Signed distances of grid points over the box to the head with code [K], negative inside, world units.

    grid: points a side of the "exact" grid, or a part of it. Returns float64 [X, Y, Z]: the least of the distances to
    its parts, exact outside and a bound inside, where parts overlap; beyond DISTANCE_BAND only about right. Raises
    ValueError on another K or another grid.
    """
    spec = GridSpec(_checked(grid)) if isinstance(grid, int) else grid
    if spec.grid != "exact":
        raise ValueError(f"grid: true distances are told on the exact grid, got {spec.grid!r}")
    points = grid_points(spec, dtype=torch.float64).numpy()
    least = np.full(spec.shape, np.inf)
    for each in portrait_parts(codes):
        inside = occupancy(each.vertices, each.faces, spec.resolution, half=BOX_HALF)[spec.ranges]
        distance = surface_distance(points, each.vertices, each.faces, band=DISTANCE_BAND).reshape(spec.shape)
        least = np.minimum(least, np.where(inside, -distance, distance))
    return least


def _checked(resolution: int) -> int:
    if resolution < 2:
        raise ValueError(f"resolution: a grid needs at least 2 points per side, got {resolution}")
    return resolution
