"""Triangles on a grid of pixels: which one each pixel's centre sees, and columns that pass through a closed surface.

A triangle's pixels are looked for in its bounding box; the nearest wins by one maximum over packed keys (nearness
above, number of the triangle below), so that the result depends on no order of work. Everything is float64 inside.
Shape letters: V vertices, F faces, R pixels a side, M covered pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

INSIDE = -1e-9  # least barycentric weight of a point inside: an edge belongs to both sides, so that none falls between
CANDIDATES = 30_000  # (triangle, pixel) pairs looked at together; larger temporaries leave the cache
LARGE = 40  # pixels of a box beyond which its rows are looked at one by one
SLACK = 1e-6  # pixels that a row's span is widened by; what lies in it is tested as everywhere
TRIANGLE_BITS = 22
NEARNESS_STEPS = float(2**40)  # of the range of one picture


@dataclass(frozen=True)
class Fragments:
    """The M pixels that see a triangle, in rising order."""

    pixel: np.ndarray  # int64 [M] row * R + column
    triangle: np.ndarray  # int64 [M]
    weights: np.ndarray  # float64 [M, 3] of the triangle's corners, linear on the screen; they sum to 1

    def interpolate(self, values: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Mix what the corners of the faces [F, 3] hold, values [V, C] -> [M, C] in their type."""
        corners = faces[self.triangle]
        w = self.weights.astype(values.dtype)
        mixed = values[corners[:, 0]] * w[:, :1]
        mixed += values[corners[:, 1]] * w[:, 1:2]
        mixed += values[corners[:, 2]] * w[:, 2:]
        return mixed

    def perspective(self, nearness: np.ndarray, faces: np.ndarray) -> tuple[Fragments, np.ndarray]:
        """The same with weights linear on the surface, and the depths [M]; nearness [V] is one over the depth."""
        weighted = self.weights * nearness[faces[self.triangle]]
        total = weighted.sum(axis=1)
        return Fragments(self.pixel, self.triangle, weighted / total[:, None]), 1.0 / total


@dataclass(frozen=True)
class _Planes:
    """Linear functions over the pixels of T triangles' boxes: value + column * across + row * down."""

    face: np.ndarray  # int64 [T]
    left: np.ndarray  # int64 [T] first column of the box
    top: np.ndarray  # int64 [T] first row
    width: np.ndarray  # int64 [T]
    height: np.ndarray  # int64 [T]
    first: tuple[np.ndarray, np.ndarray]  # [T] each: weights of the second and the third corner at the first pixel
    across: tuple[np.ndarray, np.ndarray]  # [T] each
    down: tuple[np.ndarray, np.ndarray]  # [T] each
    sign: np.ndarray  # [T] of the area on the screen, with y downwards

    def weights(self, triangle: np.ndarray, column: np.ndarray, row: np.ndarray) -> list[np.ndarray]:
        """Weights [P] of the second and of the third corner at pixels of triangles' boxes, [P] each."""
        return [
            first[triangle] + across[triangle] * column + down[triangle] * row
            for first, across, down in zip(self.first, self.across, self.down, strict=True)
        ]


def area_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Sums [V, 3] of the normals of the faces [F, 3] around each vertex, each as long as twice its face's area."""
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return np.stack(
        [sum(np.bincount(faces[:, i], normal[:, k], len(vertices)) for i in range(3)) for k in range(3)], axis=1
    )


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals [V, 3] of vertices [V, 3]: those of the faces [F, 3] around them, by area; 0 where none are."""
    total = area_normals(vertices, faces)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def project(vertices: np.ndarray, c2w: np.ndarray, *, focal: float, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [V, 2] and one over the depth along the axis [V] of vertices [V, 3] seen from c2w [4, 4].

    focal in image widths, principal point in the centre. Raises ValueError for a vertex that is not before the camera.
    """
    local = (vertices.astype(np.float64) - c2w[:3, 3]) @ c2w[:3, :3].astype(np.float64)
    if not (local[:, 2] > 1e-6).all():
        raise ValueError("a vertex lies behind the camera; give a camera outside the mesh that looks at it")
    nearness = 1.0 / local[:, 2]
    return (local[:, :2] * nearness[:, None] * focal + 0.5) * resolution, nearness


def depth_and_normals(
    vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, c2w: np.ndarray, resolution: int, *, focal: float
) -> tuple[np.ndarray, np.ndarray]:
    """What a camera c2w [4, 4] sees of a mesh through the centres of R x R pixels; normals [V, 3] are mixed.

    Returns depth along the rays, float32 [R, R] world units, 0 = nothing, and unit normals in the world, float32
    [R, R, 3]. Raises ValueError for a vertex that is not before the camera.
    """
    screen, nearness = project(vertices, c2w, focal=focal, resolution=resolution)
    seen, along_axis = rasterize(screen, nearness, faces, resolution).perspective(nearness, faces)
    return maps_of(seen, along_axis, normals, faces, resolution, focal=focal)


def maps_of(
    seen: Fragments, along_axis: np.ndarray, normals: np.ndarray, faces: np.ndarray, resolution: int, *, focal: float
) -> tuple[np.ndarray, np.ndarray]:
    """The maps of `depth_and_normals` from what pixels' centres see, at depths [M] along the axis."""
    row, column = seen.pixel // resolution, seen.pixel % resolution
    u, v = (((index + 0.5) / resolution - 0.5) / focal for index in (column, row))
    depth = np.zeros((resolution, resolution), dtype=np.float32)
    depth[row, column] = along_axis * np.sqrt(1.0 + u * u + v * v)
    normal = seen.interpolate(normals, faces)
    mixed = np.zeros((resolution, resolution, 3), dtype=np.float32)
    mixed[row, column] = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    return depth, mixed


def rasterize(
    screen: np.ndarray, nearness: np.ndarray, faces: np.ndarray, resolution: int, *, two_sided: bool = False
) -> Fragments:
    """What the pixel centres of R x R pixels see: screen [V, 2] in pixels (right, down), faces [F, 3].

    nearness [V] must be linear on the screen and larger for what is nearer: 1/depth in perspective, -depth without.
    Only faces whose corners run against the clock as seen (in space: outwards) are drawn, unless `two_sided`.
    """
    planes = _planes(screen, faces, resolution, two_sided)
    near = [nearness[corner].astype(np.float64) for corner in faces[planes.face].T]
    lowest, highest = (min(n.min() for n in near), max(n.max() for n in near)) if len(planes.face) else (0.0, 1.0)
    near = [(n - lowest) * (NEARNESS_STEPS / ((highest - lowest) or 1.0)) for n in near]
    best = torch.full((resolution * resolution,), -1, dtype=torch.int64)
    for triangle, column, row in _boxes(planes):
        w1, w2 = planes.weights(triangle, column, row)
        keep = np.flatnonzero(np.minimum(np.minimum(w1, w2), 1.0 - w1 - w2) >= INSIDE)
        triangle, column, row, w1, w2 = triangle[keep], column[keep], row[keep], w1[keep], w2[keep]
        height = near[0][triangle] * (1.0 - w1 - w2) + near[1][triangle] * w1 + near[2][triangle] * w2
        key = (np.maximum(height, 0.0).astype(np.int64) << TRIANGLE_BITS) | triangle
        pixel = (planes.top[triangle] + row) * resolution + planes.left[triangle] + column
        best.scatter_reduce_(0, torch.from_numpy(pixel), torch.from_numpy(key), "amax")
    keys = best.numpy()
    pixel = np.flatnonzero(keys >= 0)
    triangle = keys[pixel] & ((1 << TRIANGLE_BITS) - 1)
    row, column = pixel // resolution - planes.top[triangle], pixel % resolution - planes.left[triangle]
    w1, w2 = planes.weights(triangle, column, row)
    return Fragments(pixel, planes.face[triangle], np.stack([1.0 - w1 - w2, w1, w2], axis=1))


def _planes(screen: np.ndarray, faces: np.ndarray, resolution: int, two_sided: bool) -> _Planes:
    """The faces that may cover a pixel centre."""
    if len(faces) >= 1 << TRIANGLE_BITS:
        raise ValueError(f"a mesh to draw may have up to {(1 << TRIANGLE_BITS) - 1} faces, got {len(faces)}")
    screen = screen.astype(np.float64)
    (ax, ay), (bx, by), (cx, cy) = (screen[corner].T for corner in faces.T)
    abx, aby, acx, acy = bx - ax, by - ay, cx - ax, cy - ay
    area = abx * acy - aby * acx
    left, right = _centres(ax, bx, cx, resolution)
    top, bottom = _centres(ay, by, cy, resolution)
    keep = np.flatnonzero((right >= left) & (bottom >= top) & (area != 0 if two_sided else area < 0))
    left, top, width, height = left[keep], top[keep], (right - left + 1)[keep], (bottom - top + 1)[keep]
    inverse = 1.0 / area[keep]
    across = (acy[keep] * inverse, -aby[keep] * inverse)
    down = (-acx[keep] * inverse, abx[keep] * inverse)
    dx, dy = left + 0.5 - ax[keep], top + 0.5 - ay[keep]
    first = (across[0] * dx + down[0] * dy, across[1] * dx + down[1] * dy)
    return _Planes(keep, left, top, width, height, first, across, down, np.sign(area[keep]))


def _centres(a: np.ndarray, b: np.ndarray, c: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last pixel whose centre lies between three coordinates."""
    low, high = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
    first = np.ceil(np.maximum(low - 0.5, 0.0)).astype(np.int64)
    last = np.floor(np.minimum(high - 0.5, resolution - 1.0)).astype(np.int64)
    return first, last


def _boxes(planes: _Planes) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The pixels that triangles may cover, some at a time: triangle [P], and column and row in its box [P].

    Small boxes come whole; of large ones, which are mostly empty, each row comes as far as the triangle spans it.
    """
    count = planes.width * planes.height
    small, large = np.flatnonzero(count <= LARGE), np.flatnonzero(count > LARGE)
    triangle, row, first, last = _spans(planes, large)
    zero = np.zeros(len(small), dtype=np.int64)
    triangle = np.concatenate([small, triangle])
    left, top = np.concatenate([zero, first]), np.concatenate([zero, row])
    width = np.concatenate([planes.width[small], last - first + 1])
    count = np.concatenate([count[small], last - first + 1])
    ends = np.cumsum(count)
    begin = 0
    while begin < len(count):
        before = ends[begin - 1] if begin else 0
        end = max(int(np.searchsorted(ends, before + CANDIDATES, side="right")), begin + 1)
        box = np.repeat(np.arange(begin, end), count[begin:end])
        place = np.arange(len(box)) - (ends[box] - count[box] - before)
        down = place // width[box]
        yield triangle[box], left[box] + place - down * width[box], top[box] + down
        begin = end


def _spans(planes: _Planes, which: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of triangles' boxes: triangle [P], row [P], first and last column [P] that may lie inside."""
    height = planes.height[which]
    triangle = np.repeat(which, height)
    row = np.arange(len(triangle)) - np.repeat(np.cumsum(height) - height, height)
    low, high = np.zeros(len(row)), planes.width[triangle] - 1.0
    at_left = planes.weights(triangle, np.zeros_like(row), row)
    slopes = [across[triangle] for across in planes.across]
    for weight, slope in zip((*at_left, 1.0 - sum(at_left)), (*slopes, -sum(slopes)), strict=True):
        border = (INSIDE - weight) / np.where(slope == 0, 1.0, slope)
        low = np.where(slope > 0, np.maximum(low, border), low)
        high = np.where(slope < 0, np.minimum(high, border), high)
    first = np.ceil(low - SLACK).astype(np.int64)
    last = np.floor(high + SLACK).astype(np.int64)
    keep = np.flatnonzero(first <= last)
    return triangle[keep], row[keep], np.maximum(first[keep], 0), np.minimum(last, planes.width[triangle] - 1)[keep]


def occupancy(vertices: np.ndarray, faces: np.ndarray, resolution: int, *, half: float = 0.5) -> np.ndarray:
    """Which points of the regular grid over [-half, half]^3 lie inside a closed surface: bool [R, R, R], order x, y, z.

    A point is inside where faces turn around it more often outwards than not, so that closed parts may overlap and be
    given together. vertices [V, 3], faces [F, 3], outwards; the grid's first and last points lie on the cube's sides.
    """
    step = 2.0 * half / (resolution - 1)
    index = (vertices.astype(np.float64) + half) / step  # grid point k lies at k
    nudge = np.array([1.234e-7, 2.718e-7])  # no column through a vertex or an edge, where it would count twice or never
    screen = index[:, :2] + 0.5 + nudge
    planes = _planes(screen, faces, resolution, True)
    z = index[:, 2][faces[planes.face]]
    turns = torch.zeros(resolution * resolution * (resolution + 1), dtype=torch.int32)
    for triangle, column, row in _boxes(planes):
        w1, w2 = planes.weights(triangle, column, row)
        keep = np.flatnonzero((w1 > 0) & (w2 > 0) & (w1 + w2 < 1))
        triangle, w1, w2 = triangle[keep], w1[keep], w2[keep]
        height = z[triangle, 0] * (1.0 - w1 - w2) + z[triangle, 1] * w1 + z[triangle, 2] * w2
        first = np.clip(np.ceil(height), 0, resolution).astype(np.int64)
        x, y = planes.left[triangle] + column[keep], planes.top[triangle] + row[keep]
        # Seen along +z with y downwards: a face that looks towards -z, through which a column enters, has negative area
        # when x is to the right and y is up, as here.
        entering = torch.from_numpy(-planes.sign[triangle].astype(np.int32))
        place = torch.from_numpy((x * resolution + y) * (resolution + 1) + first)
        turns.scatter_add_(0, place, entering)
    return (turns.reshape(resolution, resolution, resolution + 1).cumsum(2)[..., :-1] > 0).numpy()
