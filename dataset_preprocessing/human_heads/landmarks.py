"""The 68 points of iBUG and the 98 of WFLW as vertices of the default head.

Rules, all on the subject's right (x < 0, left in a picture), then mirrored; every point is a vertex of its own:
- eyes: corners are the rim vertex farthest out and the vertex beside the rim nearest to the nose; the other points are
  the rim vertices at equal shares of the width, above and below. Pupils are the front poles of the eyeballs.
- lips: outer points on the border of the red (ring LIP_RINGS around the inside of the mouth), the peak of the bow where
  it is highest; inner points on the ring INNER_RING.
- nose: the ridge at equal steps of height from between the eyes to the tip; below it the vertices nearest from the
  front to places given in widths of the nose.
- brows: the vertices nearest from the front to the line of the brow, and to its upper and lower edge.
- contour: the vertices nearest to equal steps along CONTOUR.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataset_preprocessing.human_heads.surface import BROW_HALF_WIDTH, BROW_LINE, LIP_RINGS, HeadSurface
from eg3d.head_model import Region

INNER_RING = 2
MIDDLE = 1e-3  # world units; vertices this near to x = 0 are their own mirror images
# The contour's right half from beside the eye, down in front of the ear and along the edge of the jaw to the chin.
CONTOUR = (
    (-0.152, 0.035, 0.170),
    (-0.146, -0.030, 0.165),
    (-0.135, -0.080, 0.160),
    (-0.118, -0.120, 0.165),
    (-0.095, -0.150, 0.190),
    (-0.066, -0.172, 0.235),
    (-0.040, -0.182, 0.270),
    (-0.020, -0.186, 0.290),
    (0.0, -0.187, 0.297),
)


@dataclass(frozen=True)
class Landmarks:
    """Vertices, in the orders of iBUG and WFLW."""

    points_68: np.ndarray
    points_98: np.ndarray


def find_landmarks(head: np.ndarray, surface: HeadSurface) -> Landmarks:
    """Landmarks on the default head [V, 3]. Raises ValueError if two points fall on one vertex."""
    find = _Finder(head, surface)
    contour = find.contour()
    brow = {share: find.brow(share, count) for share, count in ((0.0, 5), (1.0, 5), (-1.0, 4))}
    ridge, base = find.ridge(), find.nose_base()
    eye_6, eye_8, pupil = find.eye(2), find.eye(3), find.pupil()
    outer, inner = find.outer_lip(), find.inner_lip()
    other = surface.mirror

    def both(half: list[int], middle: list[int]) -> list[int]:
        return half + middle + [int(other[i]) for i in reversed(half)]

    def ring(upper: list[int], lower: list[int], middle: tuple[int, int]) -> list[int]:
        """Right corner and upper points, across to the left corner, and back below."""
        return both(upper, [middle[0]]) + mirrored(lower) + [middle[1]] + lower

    def eyes(top: list[int], bottom: list[int]) -> list[int]:
        """Outer corner, above, inner corner, below; then the left eye from its inner corner."""
        return top + bottom + mirrored(top[1:] + bottom[:1]) + mirrored(bottom[1:] + top[:1])

    def mirrored(points: list[int]) -> list[int]:
        return [int(other[i]) for i in reversed(points)]

    mouth = ring(*outer) + ring(*inner)
    points_68 = both(contour[:-1:2], [contour[-1]]) + brow[0.0] + mirrored(brow[0.0])
    points_68 += ridge + both(base[:2], [base[2]]) + eyes(*eye_6) + mouth
    upper, lower = brow[1.0], brow[-1.0]
    brows = upper + lower[::-1] + mirrored(upper) + [int(other[i]) for i in lower]
    points_98 = both(contour[:-1], [contour[-1]]) + brows + ridge + both(base[:2], [base[2]])
    points_98 += eyes(*eye_8) + mouth + [pupil, int(other[pupil])]
    for points, count in ((points_68, 68), (points_98, 98)):
        if len(points) != count or len(set(points)) != count:
            raise ValueError(f"{len(set(points))} different landmarks were found, expected {count}")
    return Landmarks(np.array(points_68, dtype=np.uint16), np.array(points_98, dtype=np.uint16))


class _Finder:
    def __init__(self, head: np.ndarray, surface: HeadSurface) -> None:
        self.surface, self.head = surface, head
        self.x, self.y, self.z = head.T
        self.skin = np.arange(surface.num_skin)
        self.normals = _normals(head, surface.faces)
        is_outside = np.isin(surface.region, (Region.SKIN, Region.BROW, Region.LIPS, Region.NECK, Region.SCALP))
        self.front = np.flatnonzero(is_outside & (self.normals[:, 2] > 0.1) & (self.z > 0.12))
        self.middle = np.flatnonzero(is_outside & (np.abs(self.x) < MIDDLE) & (self.z > 0.15))
        self.outside = np.flatnonzero(is_outside & (self.x < MIDDLE))
        self.taken: set[int] = set()

    def nearest(self, among: np.ndarray, cost: np.ndarray) -> int:
        """The vertex of least cost that is not another landmark yet."""
        order = among[np.argsort(cost, kind="stable")]
        found = next(int(i) for i in order if int(i) not in self.taken)
        self.taken.add(found)
        return found

    def from_front(self, x: float, y: float) -> int:
        """The vertex that looks nearest to a place, seen from the front."""
        among = self.front[self.x[self.front] < (MIDDLE if x == 0 else -MIDDLE)]
        return self.nearest(among, np.hypot(self.x[among] - x, self.y[among] - y))

    def contour(self) -> list[int]:
        """17 vertices from beside the eye down to the chin."""
        nodes = np.array(CONTOUR)
        length = np.concatenate([[0.0], np.linalg.norm(np.diff(nodes, axis=0), axis=1).cumsum()])
        at = np.linspace(0.0, length[-1], 17)
        self.taken = set()
        found = []
        for place in np.stack([np.interp(at, length, column) for column in nodes.T], axis=1):
            is_in_half = self.x[self.outside] < -MIDDLE
            among = self.outside[is_in_half] if place[0] < 0 else self.middle
            found.append(self.nearest(among, np.linalg.norm(self.head[among] - place, axis=1)))
        return found

    def brow(self, share: float, count: int) -> list[int]:
        """`count` vertices from the outer end inwards, at this share of the half width above the line."""
        self.taken = set()
        line = np.array(BROW_LINE)
        first, last = (line[-1, 0] - 0.002, line[0, 0] + 0.002) if share == 0 else (line[-1, 0], line[0, 0])
        inset = 0.012 if share < 0 else 0.0
        x = np.linspace(first - inset, last, count)
        y = np.interp(x, *line.T) + share * BROW_HALF_WIDTH
        return [self.from_front(-a, b) for a, b in zip(x, y, strict=True)]

    def ridge(self) -> list[int]:
        self.taken = set()
        tip = self.middle[self.z[self.middle].argmax()]
        rims = np.concatenate(self.surface.lid_rims)
        return [
            self.nearest(self.middle, np.abs(self.y[self.middle] - y) - 0.2 * self.z[self.middle])
            for y in np.linspace(self.y[rims].mean(), self.y[tip], 4)
        ]

    def nose_base(self) -> list[int]:
        """Outer edge, half way, middle."""
        tip = self.middle[self.z[self.middle].argmax()]
        lip = self.outer_lip()[2][0]
        self.taken = set()
        between = self.middle[(self.y[self.middle] < self.y[tip]) & (self.y[self.middle] > self.y[lip])]
        share = (self.y[tip] - self.y[between]) / (self.y[tip] - self.y[lip])
        depth = self.z[tip] + share * (self.z[lip] - self.z[tip]) - self.z[between]
        middle = int(between[depth.argmax()])
        y = self.y[middle]
        half = NOSE_HALF_WIDTH
        return [self.from_front(-0.80 * half, y + 0.006), self.from_front(-0.40 * half, y + 0.002), middle]

    def eye(self, count: int) -> tuple[list[int], list[int]]:
        """Outer corner and `count` points above; inner corner and `count` points below, from inside outwards."""
        self.taken = set()
        rim = self.surface.lid_rims[0]
        outer = int(rim[self.x[rim].argmin()])
        end = rim[self.x[rim].argmax()]
        near = self.skin[np.linalg.norm(self.head[self.skin] - self.head[end], axis=1) < CANTHUS]
        near = near[np.isin(self.surface.region[near], (Region.SKIN,))]
        inner = int(near[(self.x[near] - 2 * np.abs(self.y[near] - self.y[end] + CANTHUS_DROP)).argmax()])
        self.taken |= {outer, inner}
        centre = (self.y[outer] + self.y[end]) / 2
        x = np.linspace(self.x[outer], self.x[end], count + 2)[1:-1]
        above, below = rim[self.y[rim] > centre], rim[self.y[rim] <= centre]
        top = [self.nearest(above, np.abs(self.x[above] - at)) for at in x]
        bottom = [self.nearest(below, np.abs(self.x[below] - at)) for at in x[::-1]]
        return [outer, *top], [inner, *bottom]

    def pupil(self) -> int:
        return len(self.skin)

    def outer_lip(self) -> tuple[list[int], list[int], tuple[int, int]]:
        """Corner and two points above; two points below, from the middle outwards; the two of the middle."""
        self.taken = set()
        border = np.flatnonzero(self.surface.lip_ring == LIP_RINGS)
        right = border[self.x[border] < -MIDDLE]
        middle = border[np.abs(self.x[border]) < MIDDLE]
        top, low = int(middle[self.y[middle].argmax()]), int(middle[self.y[middle].argmin()])
        inner = np.flatnonzero(self.surface.lip_ring == LIP_RINGS - 1)
        corner = int(inner[self.x[inner].argmin()])
        level, width = self.y[corner], -self.x[corner]
        above, below = right[self.y[right] > level], right[self.y[right] <= level]
        peak = self.nearest(above, -self.y[above])
        side = self.nearest(above, np.abs(self.x[above] - (self.x[corner] + self.x[peak]) / 2))
        lower = [self.nearest(below, np.abs(self.x[below] + share * width)) for share in (0.35, 0.68)]
        return [corner, side, peak], lower, (top, low)

    def inner_lip(self) -> tuple[list[int], list[int], tuple[int, int]]:
        """Corner and one point above; one below; the two of the middle."""
        self.taken = set()
        ring = np.flatnonzero(self.surface.lip_ring == INNER_RING)
        right, middle = ring[self.x[ring] < -MIDDLE], ring[np.abs(self.x[ring]) < MIDDLE]
        corner = int(right[self.x[right].argmin()])
        level = self.y[middle].mean()
        above, below = right[self.y[right] > level], right[self.y[right] <= level]
        target = 0.45 * self.x[corner]
        self.taken.add(corner)
        upper, lower = (self.nearest(part, np.abs(self.x[part] - target)) for part in (above, below))
        return [corner, upper], [lower], (int(middle[self.y[middle].argmax()]), int(middle[self.y[middle].argmin()]))


NOSE_HALF_WIDTH = 0.036  # world units, of the default head
CANTHUS, CANTHUS_DROP = 0.010, 0.002  # how far the inner corner may lie from the rim, and how far below it lies


def _normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (points[faces[:, i]] for i in range(3))
    normals = np.zeros_like(points)
    for i in range(3):
        np.add.at(normals, faces[:, i], np.cross(b - a, c - a))
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
