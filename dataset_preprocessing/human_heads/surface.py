"""The surface of a head, cut from a whole body: which vertices and triangles, what each belongs to, its mirror image.

Skin is taken by vertex index down to the shoulders and closed below by a straight wall and a flat base; each eyeball is
replaced by a finer one that turns, moves and stretches as the body's does. Both are linear in the body's vertices.
Everything is decided on one body, the default one. Frame: the model's (y up, face towards +z, world units).
Shape letters: N heads, B vertices of the body, S of the skin, E of an eyeball, V of the head, F triangles.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
from scipy.spatial import cKDTree

from eg3d.head_model import Region

CUT_Y, CUT_X = -0.37, 0.42  # the skin of the default body is cut here
BASE_Y = -0.485  # the wall ends and the base lies here
# Coordinates beyond the first are drawn in softly and stay below the second, so that shoulders end inside the box.
LIMIT_START, LIMIT = np.array([0.36, 0.34, 0.36]), np.array([0.47, 0.455, 0.47])
SEGMENTS = 12  # of an eyeball, around its axis
RINGS_DEG = (7.0, 9.5, 16.0, 22.0, 24.5, 34.0, 48.0, 66.0, 90.0, 120.0, 150.0)  # from the axis
PUPIL_DEG, IRIS_DEG = 8.0, 23.0
FACE_Y, FACE_Z, LONGEST_EDGE = (-0.24, 0.13), 0.11, 0.013  # world units: where long edges get a vertex in the middle
LIP_RINGS = 6  # rings of vertices from the edge of the mouth's inside to the border of the red


@dataclass(frozen=True)
class Refined:
    """Triangles with new vertices in the middle of some edges, each a weighted sum of eight old ones."""

    faces: np.ndarray  # [F, 3]
    sources: np.ndarray  # [X, 8] old vertices
    weights: np.ndarray  # [X, 8] of them, with the sum 1

    def points(self, old: np.ndarray) -> np.ndarray:
        """Old vertices [N, S, 3] and after them the new ones, [N, S + X, 3]."""
        return np.concatenate([old, np.einsum("nxei,xe->nxi", old[:, self.sources], self.weights)], axis=1)


@dataclass(frozen=True)
class HeadSurface:
    """How to make heads from bodies, and what their vertices are. The skin comes first, then eyes, wall and base."""

    skin: np.ndarray  # body vertices
    refined: Refined  # the skin's triangles, with the vertices that are added to it
    eye_vertices: tuple[np.ndarray, ...]  # body vertices of the right and the left eyeball
    eye_weights: tuple[np.ndarray, ...]  # [E, number of those]
    border: np.ndarray  # skin vertices around the cut, in order; the wall hangs from them
    faces: np.ndarray  # [F, 3] counter-clockwise from outside
    region: np.ndarray  # [V] uint8
    mirror: np.ndarray  # [V] the vertex at the mirror image of each
    lip_ring: np.ndarray  # [S] steps from the mouth's inside, 0 = inside, 99 = far
    lid_rims: tuple[np.ndarray, ...]  # skin vertices around the right and the left eye, in order

    @property
    def num_skin(self) -> int:
        return len(self.lip_ring)

    @property
    def num_eye(self) -> int:
        return len(self.eye_weights[0])

    def open_heads(self, bodies: np.ndarray) -> np.ndarray:
        """Skin and eyes [N, S + 2 E, 3] of bodies [N, B, 3], in their frame."""
        eyes = [np.matmul(w, bodies[:, i]) for i, w in zip(self.eye_vertices, self.eye_weights, strict=True)]
        return np.concatenate([self.refined.points(bodies[:, self.skin]), *eyes], axis=1)

    def closed(self, heads: np.ndarray) -> np.ndarray:
        """Whole heads [N, V, 3] from aligned skin and eyes: drawn into the box, with wall and base."""
        drawn = _limited(heads)
        wall = drawn[:, self.border].copy()
        wall[..., 1] = BASE_Y
        return np.concatenate([drawn, wall, wall.mean(axis=1, keepdims=True)], axis=1)


def _limited(values: np.ndarray) -> np.ndarray:
    room = LIMIT - LIMIT_START
    far = np.abs(values) - LIMIT_START
    return np.where(far > 0, np.sign(values) * (LIMIT_START + room * np.tanh(far / room)), values)


def make_surface(body: np.ndarray, faces: np.ndarray, parts: dict[str, np.ndarray], ears: np.ndarray) -> HeadSurface:
    """The surface of heads like those of one body [B, 3], which stands symmetric in the model's frame.

    faces [T, 3] and parts (bool [T] each) of the body; ears bool [B] its vertices that belong to them. Raises
    ValueError if what is cut is not one piece with one border, or not symmetric.
    """
    body_faces, cut = faces, _cut(body, faces, parts)
    skin = np.unique(cut)
    place = np.full(len(body), -1)
    place[skin] = np.arange(len(skin))
    mouth = _members(place, faces[parts["mouth"]], len(skin))
    sockets = [_members(place, faces[parts[f"{side}_socket"]], len(skin)) for side in ("right", "left")]
    rims = tuple(max(_loops(place[faces[parts[f"{side}_socket"]]]), key=len) for side in ("right", "left"))
    faces, whole = place[cut], body[skin]
    whole = (whole + whole[_mirror(whole)] * [-1.0, 1.0, 1.0]) / 2  # to the last bit, since lengths are compared below
    fixed = (_rings(faces, mouth) < 99) | np.any(sockets, axis=0)
    refined = _refined(whole, faces, fixed)
    points = refined.points(whole[None])[0]
    lip_ring = np.concatenate([_rings(faces, mouth), np.full(len(refined.sources), 99)])
    is_ear = np.concatenate([ears[skin], ears[skin][refined.sources[:, :2]].all(axis=1)])
    is_ear &= _adjacency(refined.faces, len(points)) @ (~is_ear).astype(np.int64) == 0  # not the skin it grows from
    region = _regions(points, is_ear, lip_ring)
    region[np.flatnonzero(np.any(sockets, axis=0))] = Region.SOCKET
    region[np.concatenate(rims)] = Region.SKIN
    border = _loops(refined.faces)
    if len(border) != 1:
        raise ValueError(f"the cut of the default body has {len(border)} borders, expected 1")
    grid, grid_faces, grid_region = _eyeball()
    eyes = tuple(np.unique(body_faces[parts[name]]) for name in ("right_eye", "left_eye"))
    directions = (grid, grid * [-1.0, 1.0, 1.0])
    weights = tuple(_eye_weights(body[i], d) for i, d in zip(eyes, directions, strict=True))
    all_faces, mirror = _assembled(points, refined.faces, border[0], grid_faces, len(grid))
    base = np.full(len(border[0]) + 1, Region.BASE, dtype=np.uint8)
    region = np.concatenate([region, grid_region, grid_region, base])
    return HeadSurface(skin, refined, eyes, weights, border[0], all_faces, region, mirror, lip_ring, rims)


def _cut(body: np.ndarray, faces: np.ndarray, parts: dict[str, np.ndarray]) -> np.ndarray:
    """Triangles of the skin down to the shoulders: those of the right half and their mirror images.

    The diagonals of the body's quads differ between the sides, and so may what a cut at a height leaves.
    """
    inner = parts["tongue"] | parts["right_eye"] | parts["left_eye"]
    _, partner = cKDTree(body).query(body * [-1.0, 1.0, 1.0])
    kept = (body[:, 1] > CUT_Y) & (np.abs(body[:, 0]) < CUT_X)
    kept &= kept[partner]
    right = faces[~inner & kept[faces].all(axis=1) & (body[faces, 0].mean(axis=1) < 0)]
    return _trimmed(_largest_piece(np.concatenate([right, partner[right][:, ::-1]]), len(body)))


def _assembled(
    points: np.ndarray, skin_faces: np.ndarray, border: np.ndarray, grid_faces: np.ndarray, num_eye: int
) -> tuple[np.ndarray, np.ndarray]:
    """Triangles [F, 3] and mirror images [V] of skin (points [S, 3]), two eyeballs, wall and base."""
    num_wall, skin_mirror = len(border), _mirror(points)
    right = len(skin_mirror)
    left, wall = right + num_eye, right + 2 * num_eye
    top, below = border, wall + np.arange(num_wall)
    top_next, below_next = np.roll(top, -1), np.roll(below, -1)
    centre = np.full(num_wall, wall + num_wall)
    on_right = points[top, 0] + points[top_next, 0] < 0
    corner, opposite = np.where(on_right, below, below_next), np.where(on_right, top_next, top)
    triangles = [(top_next, top, corner), (opposite, below, below_next), (below_next, below, centre)]
    walls = np.concatenate([np.stack(corners, axis=1) for corners in triangles])
    faces = np.concatenate([skin_faces, grid_faces + right, grid_faces[:, ::-1] + left, walls])
    position = np.full(right, -1)
    position[border] = np.arange(num_wall)
    around = position[skin_mirror[border]]
    if (around < 0).any():
        raise ValueError("the border of the cut is not symmetric")
    eye = np.arange(num_eye)
    return faces, np.concatenate([skin_mirror, left + eye, right + eye, wall + around, [wall + num_wall]])


def _refined(points: np.ndarray, faces: np.ndarray, fixed: np.ndarray) -> Refined:
    """New vertices in the long edges of the face, where the eight-point butterfly (Dyn et al. 1990) keeps it smooth.

    fixed: bool [S], vertices whose edges stay whole.
    """
    opposite = {(int(f[i]), int(f[(i + 1) % 3])): int(f[(i + 2) % 3]) for f in faces for i in range(3)}
    sources: list[list[int]] = []
    weights: list[list[float]] = []
    new: dict[tuple[int, int], int] = {}
    for a, b in sorted(edge for edge in opposite if edge[0] < edge[1]):
        middle = (points[a] + points[b]) / 2
        is_inside = FACE_Y[0] < middle[1] < FACE_Y[1] and middle[2] > FACE_Z and not (fixed[a] or fixed[b])
        if not is_inside or np.linalg.norm(points[a] - points[b]) < LONGEST_EDGE or (b, a) not in opposite:
            continue
        c, d = opposite[a, b], opposite[b, a]
        wings = [opposite.get(edge) for edge in ((c, b), (a, c), (b, d), (d, a))]
        new[a, b] = new[b, a] = len(points) + len(sources)
        if None in wings:
            sources.append([a, b] * 4)
            weights.append([0.125] * 8)
        else:
            sources.append([a, b, c, d, *(int(w) for w in wings if w is not None)])
            weights.append([0.5, 0.5, 0.125, 0.125] + [-0.0625] * 4)
    made = Refined(faces, np.array(sources), np.array(weights))
    there = made.points(points[None])[0]
    split = [triangle for face in faces for triangle in _split([int(v) for v in face], new, there)]
    return replace(made, faces=np.array(split))


def _split(face: list[int], new: dict[tuple[int, int], int], points: np.ndarray) -> list[list[int]]:
    """A triangle cut at those of its edges that have a new vertex; between two of them by the shorter diagonal."""
    marked = [(face[i], face[(i + 1) % 3]) in new for i in range(3)]
    if not any(marked):
        return [face]
    turn = marked.index(True) if sum(marked) < 2 else (marked.index(False) + 1) % 3 if sum(marked) == 2 else 0
    a, b, c = (face[(turn + i) % 3] for i in range(3))
    ab, bc, ca = new[a, b], new.get((b, c)), new.get((c, a))
    if bc is None:
        return [[a, ab, c], [ab, b, c]]
    if ca is None:
        is_first = np.linalg.norm(points[ab] - points[c]) < np.linalg.norm(points[a] - points[bc])
        return [[ab, b, bc], *([[a, ab, c], [ab, bc, c]] if is_first else [[a, ab, bc], [a, bc, c]])]
    return [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]


def _adjacency(faces: np.ndarray, count: int) -> scipy.sparse.csr_matrix:
    a, b = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).T
    matrix = scipy.sparse.coo_matrix((np.ones(len(a), dtype=np.int64), (a, b)), shape=(count, count)).tocsr()
    return matrix + matrix.T


def _largest_piece(faces: np.ndarray, count: int) -> np.ndarray:
    _, piece = scipy.sparse.csgraph.connected_components(_adjacency(faces, count), directed=False)
    return faces[piece[faces[:, 0]] == np.bincount(piece[faces[:, 0]]).argmax()]


def _border_edges(faces: np.ndarray) -> list[tuple[int, int]]:
    """Directed edges that one triangle has and no other has the other way."""
    edges = Counter((int(f[i]), int(f[(i + 1) % 3])) for f in faces for i in range(3))
    return [edge for edge in edges if edge[::-1] not in edges]


def _trimmed(faces: np.ndarray) -> np.ndarray:
    """Without triangles that hang by one vertex or stand out by two edges, until every border vertex has two edges."""
    while True:
        edges = _border_edges(faces)
        count = Counter(vertex for edge in edges for vertex in edge)
        corners = Counter(int(v) for v in faces.ravel())
        on_border = set(edges)
        loose = [
            (any(count[int(v)] > 2 for v in f) and any((int(f[i]), int(f[(i + 1) % 3])) in on_border for i in range(3)))
            or any(corners[int(v)] == 1 for v in f)
            for f in faces
        ]
        if not any(loose):
            return faces
        faces = faces[~np.array(loose)]


def _loops(faces: np.ndarray) -> list[np.ndarray]:
    """The borders of a surface, each as vertices in the order of its triangles."""
    after = dict(_border_edges(faces))
    loops = []
    while after:
        start = min(after)
        loop, vertex = [start], after.pop(start)
        while vertex != start:
            loop.append(vertex)
            vertex = after.pop(vertex)
        loops.append(np.array(loop))
    return loops


def _members(place: np.ndarray, faces: np.ndarray, count: int) -> np.ndarray:
    found = np.zeros(count, dtype=bool)
    index = place[np.unique(faces)]
    found[index[index >= 0]] = True
    return found


def _rings(faces: np.ndarray, inside: np.ndarray) -> np.ndarray:
    ring = np.where(inside, 0, 99)
    adjacency, reached = _adjacency(faces, len(inside)), inside.copy()
    for step in range(1, LIP_RINGS + 3):
        following = (adjacency @ reached.astype(np.int64) > 0) & ~reached
        ring[following] = step
        reached |= following
    return ring


def _mirror(points: np.ndarray) -> np.ndarray:
    """The vertex nearest to the mirror image of each; raises ValueError if that is no exchange."""
    _, partner = cKDTree(points).query(points * [-1.0, 1.0, 1.0])
    if not (partner[partner] == np.arange(len(points))).all():
        raise ValueError("the default body is not symmetric")
    return partner


def _eyeball() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions [E, 3], triangles and regions of an eyeball that looks along +z."""
    around = 2 * np.pi * np.arange(SEGMENTS) / SEGMENTS
    points, degrees = [[0.0, 0.0, 1.0]], [0.0]
    for ring_deg in RINGS_DEG:
        s, c = np.sin(np.radians(ring_deg)), np.cos(np.radians(ring_deg))
        points += [[s * np.cos(a), s * np.sin(a), c] for a in around]
        degrees += [ring_deg] * SEGMENTS
    points, degrees = points + [[0.0, 0.0, -1.0]], degrees + [180.0]
    last, faces = len(points) - 1, []
    for i in range(SEGMENTS):
        j = (i + 1) % SEGMENTS
        faces.append([0, 1 + i, 1 + j])
        for ring in range(len(RINGS_DEG) - 1):
            a, b = 1 + ring * SEGMENTS, 1 + (ring + 1) * SEGMENTS
            faces += [[a + i, b + i, b + j], [a + i, b + j, a + j]]
        a = 1 + (len(RINGS_DEG) - 1) * SEGMENTS
        faces.append([a + i, last, a + j])
    deg = np.array(degrees)
    region = np.where(deg < PUPIL_DEG, Region.PUPIL, np.where(deg < IRIS_DEG, Region.IRIS, Region.EYE_WHITE))
    return np.array(points), np.array(faces), region.astype(np.uint8)


def _eye_weights(eye: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Weights [E, n] that put an eyeball of these directions where the n vertices of a body's eyeball are."""
    centre = (eye.max(axis=0) + eye.min(axis=0)) / 2
    radius = np.linalg.norm(eye - centre, axis=1).mean()
    known = np.concatenate([eye - centre, np.full((len(eye), 1), radius)], axis=1) / radius
    wanted = np.concatenate([directions, np.ones((len(directions), 1))], axis=1)
    return wanted @ np.linalg.pinv(known)


# Lines of the profile of the default head in (z, y): a vertex belongs to what lies on its side.
HAIRLINE = ((-0.12, -0.09), (0.03, -0.06), (0.075, 0.00), (0.10, 0.055), (0.135, 0.065), (0.17, 0.125), (0.25, 0.185))
JAWLINE = ((0.03, -0.105), (0.08, -0.105), (0.13, -0.145), (0.24, -0.205), (0.30, -0.225))
NECK_BOTTOM = ((-0.15, -0.20), (0.20, -0.31))
BROW_LINE = ((0.020, 0.062), (0.040, 0.071), (0.062, 0.077), (0.085, 0.074), (0.104, 0.062))  # (|x|, y) from the front
BROW_HALF_WIDTH = 0.0085


def _regions(points: np.ndarray, ears: np.ndarray, lip_ring: np.ndarray) -> np.ndarray:
    """Region of every skin vertex but the insides of the eyelids; later rules overwrite earlier ones."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    region = np.full(len(points), Region.SKIN, dtype=np.uint8)
    region[y < _line(JAWLINE, z)] = Region.NECK
    region[y < _line(NECK_BOTTOM, z)] = Region.BUST
    region[(y > _line(HAIRLINE, z)) & (y > -0.1)] = Region.SCALP
    is_brow = (np.abs(y - _line(BROW_LINE, x)) < BROW_HALF_WIDTH) & (x > BROW_LINE[0][0]) & (x < BROW_LINE[-1][0])
    region[is_brow & (z > 0.1)] = Region.BROW
    region[ears] = Region.EAR
    region[lip_ring < LIP_RINGS] = Region.LIPS
    region[lip_ring == 0] = Region.MOUTH
    return region


def _line(points: tuple[tuple[float, float], ...], at: np.ndarray) -> np.ndarray:
    return np.interp(at, *np.array(points).T)
