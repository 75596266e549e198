"""Parametric human heads as signed-distance functions: the geometry of the synthetic data set.

A head is a vector of K = 26 standard-normal numbers, its code. `HeadParameters` turns codes into lengths, the signed
distance is a smooth union of a few ellipsoids and capsules, symmetric in x. World frame as in FFHQ: y up, the face
looks towards +z, everything lies in the box [-0.5, 0.5]^3; the head is 0.5 tall, the nose tip is near z = 0.37.
Shape letters: N heads, P points, K numbers per head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple, get_type_hints

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import trimesh

BOX_HALF = 0.5  # world units: half the side of the box that the generator can fill
HEAD_SCALE, HEAD_PIVOT_Z = 1.08, 0.13  # the sizes below are grown about (0, 0, pivot) to fill an FFHQ crop
TORSO_FLOOR_Y = -0.44  # the bust is cut flat here, below every image and inside the box
SKULL_CENTRE = (0.0, 0.072, 0.07)
EAR_CENTRE = (0.153, 0.005, 0.055)


class Spread(NamedTuple):
    """A field is mean + spread * (its standard-normal number, softly limited to +-2)."""

    mean: float
    spread: float


@dataclass(frozen=True)
class HeadParameters:
    """Derived numbers of N heads, each field [N, 1]; lengths in world units, the colour fields in [-2, 2]."""

    skull_width: Annotated[Tensor, Spread(0.150, 0.0070)]
    skull_height: Annotated[Tensor, Spread(0.172, 0.0080)]
    brow: Annotated[Tensor, Spread(0.0175, 0.0032)]  # radius of the brow ridge
    socket_depth: Annotated[Tensor, Spread(0.0, 0.0040)]  # deeper when larger
    eye_spacing: Annotated[Tensor, Spread(0.0590, 0.0032)]  # half the distance between the eyes
    nose_length: Annotated[Tensor, Spread(0.080, 0.0075)]  # from the eye line down to the tip
    nose_width: Annotated[Tensor, Spread(0.0265, 0.0040)]  # half width at the wings
    nose_projection: Annotated[Tensor, Spread(0.333, 0.0080)]  # z of the tip's centre
    nose_bridge: Annotated[Tensor, Spread(0.252, 0.0050)]  # z of the bridge between the eyes
    lip_fullness: Annotated[Tensor, Spread(0.0155, 0.0028)]
    mouth_width: Annotated[Tensor, Spread(0.0520, 0.0055)]  # half width
    chin_projection: Annotated[Tensor, Spread(0.215, 0.0070)]  # z of the chin's centre
    chin_height: Annotated[Tensor, Spread(-0.170, 0.0065)]  # y of the chin's centre
    jaw_width: Annotated[Tensor, Spread(0.070, 0.0090)]
    cheek: Annotated[Tensor, Spread(0.0430, 0.0045)]  # radius of the cheekbones
    ear_size: Annotated[Tensor, Spread(0.0440, 0.0045)]  # half height
    neck_width: Annotated[Tensor, Spread(0.0760, 0.0060)]
    hairline: Annotated[Tensor, Spread(0.212, 0.0140)]  # larger leaves more forehead
    hair_length: Annotated[Tensor, Spread(0.060, 0.0750)]  # how far the hair falls below the skull; <= 0 is short
    skin_tone: Annotated[Tensor, Spread(0.0, 1.0)]
    skin_warmth: Annotated[Tensor, Spread(0.0, 1.0)]
    hair_tone: Annotated[Tensor, Spread(0.0, 1.0)]
    hair_warmth: Annotated[Tensor, Spread(0.0, 1.0)]
    lip_tint: Annotated[Tensor, Spread(0.0, 1.0)]
    eye_tint: Annotated[Tensor, Spread(0.0, 1.0)]
    light: Annotated[Tensor, Spread(0.0, 1.0)]  # azimuth of the one light, fixed to the world, not to the camera

    @classmethod
    def from_codes(cls, codes: Tensor | np.ndarray) -> HeadParameters:
        """codes [N, K] standard normal -> N heads. Differentiable. Raises ValueError on another K."""
        codes = torch.as_tensor(codes, dtype=torch.float32)
        if codes.ndim != 2 or codes.shape[1] != NUM_CODES:
            raise ValueError(f"head codes must be [N, {NUM_CODES}], got {list(codes.shape)}")
        limited = 2.0 * torch.tanh(codes / 2.0)
        return cls(
            **{
                name: spread.mean + spread.spread * limited[:, i : i + 1]
                for i, (name, spread) in enumerate(SPREADS.items())
            }
        )


SPREADS: dict[str, Spread] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(HeadParameters, include_extras=True).items()
}
CODE_NAMES = tuple(SPREADS)
NUM_CODES = len(CODE_NAMES)


class HeadParts(NamedTuple):
    """Signed distances of the parts, each [N, P]; the albedo blends by them."""

    face: Tensor
    hair: Tensor
    torso: Tensor


def head_codes(seed: int) -> np.ndarray:
    """The code of head `seed` (0 to 2^32 - 1): [K] float32, standard normal, the same on every machine."""
    return np.random.RandomState(seed).randn(NUM_CODES).astype(np.float32)


def head_parameters(seeds: list[int] | int) -> HeadParameters:
    """The parameters of one or more heads by seed."""
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    return HeadParameters.from_codes(np.stack([head_codes(s) for s in seeds]))


def _smooth_min(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Union with a fillet of width k: min(a, b) away from the seam, lower by k/4 on it."""
    h = (a - b).abs().neg().add_(k).clamp_min_(0.0)
    return torch.minimum(a, b).addcmul_(h, h, value=-0.25 / k)


def _smooth_max(a: Tensor, b: Tensor, k: float) -> Tensor:
    h = (a - b).abs().neg().add_(k).clamp_min_(0.0)
    return torch.maximum(a, b).addcmul_(h, h, value=0.25 / k)


def _length(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_()  # in place: this is most of the time of a picture


def _ellipsoid(x: Tensor, y: Tensor, z: Tensor, rx, ry, rz) -> Tensor:
    """First-order distance to an ellipsoid about the origin (exact on the surface, right gradient there)."""
    sx, sy, sz = 1.0 / rx, 1.0 / ry, 1.0 / rz
    ux, uy, uz = x * sx, y * sy, z * sz
    k0 = _length(ux, uy, uz)
    k1 = _length(ux * sx, uy * sy, uz * sz).clamp_min(1e-6)
    return (k0 * k0 - k0) / k1


def _tapered_capsule(x: Tensor, y: Tensor, z: Tensor, a, b, ra, rb) -> Tensor:
    """Distance to a capsule from a to b (3 numbers or [N, 1] each) with radii ra and rb at its ends."""
    dx, dy, dz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    px, py, pz = x - a[0], y - a[1], z - a[2]
    h = ((px * dx + py * dy + pz * dz) / (dx * dx + dy * dy + dz * dz)).clamp(0.0, 1.0)
    return _length(px - h * dx, py - h * dy, pz - h * dz) - (ra + h * (rb - ra))


def _skull_and_jaw(x: Tensor, y: Tensor, z: Tensor, p: HeadParameters) -> Tensor:
    skull = _ellipsoid(x, y - SKULL_CENTRE[1], z - SKULL_CENTRE[2], p.skull_width, p.skull_height, 0.183)
    face = _ellipsoid(x, y + 0.050, z - 0.125, p.skull_width - 0.026, 0.150, 0.142)
    d = _smooth_min(skull, face, 0.05)
    jaw = _length(x - p.jaw_width, y + 0.112, z - 0.110) - 0.047
    d = _smooth_min(d, jaw, 0.06)
    chin = _ellipsoid(x, y - p.chin_height, z - p.chin_projection, 0.046, 0.036, 0.045)
    d = _smooth_min(d, chin, 0.035)
    cheek = _length(x - 0.070, y + 0.030, z - 0.200) - p.cheek
    return _smooth_min(d, cheek, 0.045)


def _eyes_and_brow(d: Tensor, x: Tensor, y: Tensor, z: Tensor, p: HeadParameters) -> Tensor:
    brow = _tapered_capsule(x, y, z, (0.004, 0.060, 0.240), (0.092, 0.070, 0.196), p.brow, p.brow * 0.85)
    d = _smooth_min(d, brow, 0.030)
    socket = _ellipsoid(x - p.eye_spacing, y - EYE_Y, z - 0.290 + p.socket_depth, 0.040, 0.027, 0.048)
    d = _smooth_max(d, -socket, 0.022)
    eyeball = _length(x - p.eye_spacing, y - EYE_Y, z - EYE_Z + p.socket_depth) - EYE_RADIUS
    return _smooth_min(d, eyeball, 0.006)


EYE_Y, EYE_Z, EYE_RADIUS = 0.028, 0.220, 0.0285
MOUTH_Y = -0.116  # the line between the lips


def _nose_and_mouth(d: Tensor, x: Tensor, y: Tensor, z: Tensor, p: HeadParameters) -> Tensor:
    tip_y = EYE_Y - p.nose_length
    root, tip = (0.0, 0.040, p.nose_bridge - 0.006), (0.0, tip_y, p.nose_projection - 0.004)
    bridge = _tapered_capsule(x, y, z, root, tip, 0.013, p.nose_width * 0.70)
    wing = _ellipsoid(
        x - p.nose_width * 0.62,
        y - tip_y + 0.005,
        z - p.nose_projection + 0.034,
        p.nose_width * 0.50,
        p.nose_width * 0.46,
        0.024,
    )
    d = _smooth_min(d, _smooth_min(bridge, wing, 0.018), 0.024)
    muzzle = _ellipsoid(x, y - MOUTH_Y, z - 0.213, p.mouth_width + 0.010, 0.050, 0.052)
    d = _smooth_min(d, muzzle, 0.030)
    upper, lower = lips(x, y, z, p)
    d = _smooth_min(d, upper, 0.008)
    return _smooth_min(d, lower, 0.008)


def lips(x: Tensor, y: Tensor, z: Tensor, p: HeadParameters) -> tuple[Tensor, Tensor]:
    """Distances [N, P] to the upper and the lower lip; x is |x|. Both bend back towards the corners of the mouth."""
    bend = x * x * 5.5
    upper = _ellipsoid(x, y - MOUTH_Y - p.lip_fullness * 0.85, z - 0.255 + bend, p.mouth_width, p.lip_fullness, 0.026)
    lower = _ellipsoid(
        x, y - MOUTH_Y + p.lip_fullness * 1.05, z - 0.252 + bend, p.mouth_width * 0.86, p.lip_fullness * 1.15, 0.026
    )
    return upper, lower


def _ear(x: Tensor, y: Tensor, z: Tensor, p: HeadParameters) -> Tensor:
    cx, cy, cz = EAR_CENTRE
    ex = x - (cx + p.skull_width - 0.150)
    ey, ez = y - cy, z - cz
    tilted_z = ez + 0.25 * ey + 1.0 * ex  # the upper rim leans back, the outer rim stands off the head
    shell = _ellipsoid(ex, ey, tilted_z, 0.020, p.ear_size, p.ear_size * 0.62)
    bowl = _ellipsoid(ex - 0.014, ey - 0.004, tilted_z - 0.016, 0.013, p.ear_size * 0.62, p.ear_size * 0.40)
    return _smooth_max(shell, -bowl, 0.008) * 0.7  # the shear stretches distances


def _hair(x: Tensor, y: Tensor, z: Tensor, p: HeadParameters) -> Tensor:
    """A raised cap over the skull, drawn down to hair_length, cut at the hairline and around the ears when short."""
    length = p.hair_length.clamp_min(0.0)
    wavy = 0.0022 * torch.sin(38.0 * x + 14.0 * y) * torch.cos(30.0 * z - 9.0 * y)
    yy = y - SKULL_CENTRE[1]
    drawn = yy.clamp_min(0.0) - (-yy - length).clamp_min(0.0)
    cap = _ellipsoid(x, drawn, z - 0.058, p.skull_width + 0.022, p.skull_height + 0.022, 0.192) + wavy
    low_y = 0.010
    rise = ((y - low_y) / (p.hairline - low_y)).clamp(0.0, 1.0)
    front_z = 0.055 + 0.20 * length + 0.235 * rise * rise * (3.0 - 2.0 * rise)
    d = _smooth_max(cap, (z - front_z) * 0.55, 0.022)
    ear_gap = 0.060 - 0.9 * length
    ear = _length(x - EAR_CENTRE[0], y - EAR_CENTRE[1] + 0.012, (z - EAR_CENTRE[2] - 0.012)) - ear_gap
    return _smooth_max(d, -ear, 0.018)


def _neck_and_torso(x: Tensor, y: Tensor, z: Tensor, p: HeadParameters) -> tuple[Tensor, Tensor]:
    neck = _tapered_capsule(x, y, z, (0.0, -0.10, 0.045), (0.0, -0.40, 0.0), p.neck_width, p.neck_width + 0.010)
    torso = _ellipsoid(x, y + 0.455, z + 0.010, 0.34, 0.150, 0.130)
    return neck, torso


def to_head_frame(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """World points [N, P, 3] -> |x|, y, z [N, P] in the frame in which the sizes of a head are written down."""
    x, y, z = points.unbind(-1)
    return x.abs() / HEAD_SCALE, y / HEAD_SCALE, (z - HEAD_PIVOT_Z) / HEAD_SCALE + HEAD_PIVOT_Z


def nose_tip(params: HeadParameters) -> Tensor:
    """World position [N, 3] of the foremost point of the nose, to about 0.01."""
    zero = torch.zeros_like(params.nose_length)
    front = params.nose_projection - 0.004 + 0.70 * params.nose_width
    local = torch.cat([zero, EYE_Y - params.nose_length, front - HEAD_PIVOT_Z], dim=1)
    return local * HEAD_SCALE + torch.tensor([0.0, 0.0, HEAD_PIVOT_Z])


def head_parts(points: Tensor, params: HeadParameters) -> HeadParts:
    """Signed distances of face (with neck and ears), hair and torso before their union.

    points [N, P, 3] world units; returns [N, P] each, negative inside, world units (bounds, not exact far away).
    """
    x, y, z = to_head_frame(points)
    d = _skull_and_jaw(x, y, z, params)
    d = _eyes_and_brow(d, x, y, z, params)
    d = _nose_and_mouth(d, x, y, z, params)
    neck, torso = _neck_and_torso(x, y, z, params)
    d = _smooth_min(d, neck, 0.030)
    d = _smooth_min(d, _ear(x, y, z, params), 0.010)
    floor = TORSO_FLOOR_Y - y
    hair = _hair(x, y, z, params)
    return HeadParts(*(HEAD_SCALE * v for v in (torch.maximum(d, floor), hair, torch.maximum(torso, floor))))


def sdf(points: Tensor, params: HeadParameters) -> Tensor:
    """Signed distance of whole heads: points [N, P, 3] world units -> [N, P], negative inside.

    Smooth except on creases, differentiable in both arguments; a lower-quality distance far from the surface, so a
    sphere tracer should take about 0.8 of each step.
    """
    return union(head_parts(points, params))


def union(parts: HeadParts) -> Tensor:
    """Signed distance [N, P] of a whole head from those of its parts."""
    return _smooth_min(_smooth_min(parts.face, parts.torso, 0.030), parts.hair, 0.010)


def true_sdf(seed: int) -> Callable[[Tensor], Tensor]:
    """The true geometry of head `seed`: a function from points [P, 3] to signed distances [P]."""
    params = head_parameters(seed)
    return lambda points: sdf(points[None], params)[0]


def true_mesh(seed: int, resolution: int = 128) -> trimesh.Trimesh:
    """The true surface of head `seed` by marching cubes on resolution^3 points of the unit box, world units.

    Raises ValueError for a resolution below 16. Needs scikit-image and trimesh.
    """
    if resolution < 16:
        raise ValueError(f"resolution of a head mesh must be at least 16, got {resolution}")
    import trimesh
    from skimage.measure import marching_cubes

    axis = torch.linspace(-BOX_HALF, BOX_HALF, resolution)
    distance = true_sdf(seed)
    with torch.no_grad():
        slices = [distance(torch.cartesian_prod(axis[i : i + 1], axis, axis)) for i in range(resolution)]
    volume = torch.stack(slices).reshape(resolution, resolution, resolution).numpy()
    step = 2 * BOX_HALF / (resolution - 1)
    vertices, faces, _, _ = marching_cubes(volume, level=0.0, spacing=(step,) * 3, gradient_direction="descent")
    return trimesh.Trimesh(vertices - BOX_HALF, faces, process=False)
