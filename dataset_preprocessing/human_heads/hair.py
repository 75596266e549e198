"""Hair as closed shells: rows of points that run from the crown down to the hairline and, where hair is long, further.

A shell is a grid of COLUMNS ways (azimuths about an axis through the crown) by rows: the outer sheet from the crown to
the tips, then the inner sheet back through the head to the crown, so that it is closed by construction. Scalp points
are anchored to the head model's surface and follow every shape.
Shape letters: A columns, T steps of the anchors, B rows, V vertices, F faces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dataset_preprocessing.human_heads.codes import Looks
from dataset_preprocessing.human_heads.parts import Part, revolved

COLUMNS = 96
STEPS = 40  # of an anchor way, from the axis to ANCHOR_END
ANCHOR_END = 2.5  # radians from the axis
AXIS_TILT = 0.30  # radians that the axis leans back: hair runs out from the crown
SCALP_ROWS, FALL_ROWS, INNER_ROWS = 16, 12, 7
INSIDE_SKIN = 0.014  # world units below the skin, where the inner sheet runs


@dataclass(frozen=True)
class Style:
    """Lengths are world units at the average volume and length."""

    top: float  # thickness above the scalp
    side: float  # the same at the sides and the back
    edge: float  # at the hairline; below 0 the shell dips into the skin, which hides its border
    fall_y: float | None = None  # the tips' height, where hair falls over the ears and the nape
    fall_grows: float = 0.0  # of the tips' depth with the length code
    fringe: float = 0.0  # how far the hairline comes down over the forehead
    curl: float = 0.0  # amplitude of curls
    is_parted: bool = False
    bun: bool = False


STYLES = {
    "cropped": Style(top=0.007, side=0.005, edge=-0.003),
    "short": Style(top=0.021, side=0.010, edge=-0.004),
    "side parting": Style(top=0.025, side=0.012, edge=-0.004, is_parted=True),
    "bob": Style(top=0.021, side=0.030, edge=-0.003, fall_y=-0.13, fall_grows=0.03, fringe=0.045),
    "long": Style(top=0.017, side=0.028, edge=-0.004, fall_y=-0.35, fall_grows=0.05, is_parted=True),
    "curly": Style(top=0.042, side=0.039, edge=-0.003, curl=0.014),
    "bun": Style(top=0.012, side=0.009, edge=-0.003, bun=True),
}
# The hairline of the average head: azimuth from the face (radians), height (world units).
HAIRLINE_AZIMUTH = np.array([0.0, 0.45, 0.75, 0.95, 1.15, 1.35, 1.60, 1.90, 2.15, 2.50, math.pi])
HAIRLINE_Y = np.array([0.186, 0.180, 0.148, 0.090, 0.035, 0.020, 0.070, 0.055, -0.055, -0.100, -0.110])
TOP_START, TOP_RANGE = 0.245, 0.040  # world units: higher hair is lowered, and stays below the sum
WIDEST_Y = 0.070  # where hair that falls leaves the head
FACE_OPENING = (0.80, 1.10)  # azimuths between which hair goes over from the forehead to falling


def directions() -> np.ndarray:
    """Unit directions [A, T, 3] of the anchors, seen from the skull's centre."""
    phi = (np.arange(COLUMNS) + 0.5) * (2.0 * math.pi / COLUMNS) - math.pi
    theta = np.linspace(0.0, ANCHOR_END, STEPS)
    x = np.sin(theta) * np.sin(phi)[:, None]
    z = np.sin(theta) * np.cos(phi)[:, None]
    y = np.broadcast_to(np.cos(theta), x.shape)
    cos, sin = math.cos(AXIS_TILT), math.sin(AXIS_TILT)
    return np.stack([x, y * cos + z * sin, z * cos - y * sin], axis=-1)


def hair_parts(anchors: np.ndarray, rest: np.ndarray, centre: np.ndarray, look: Looks) -> list[Part]:
    """The closed shells of one head's hair, none when it is bald.

    anchors [A, T, 3]: where the head's skin is in each direction; rest: the same on the average head; centre [3] of the
    skull. Surface coordinates of a part: strand (radians around the crown), way from the root to the tip (0 to 1), and
    how near the hairline is (0 to 1).
    """
    style = STYLES.get(look.style)
    if style is None:
        return []
    end = _hairline(rest, style, look)
    shell = _shell(anchors, end, centre, style, look)
    return [shell, _bun(anchors, centre, look)] if style.bun else [shell]


def _smooth(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _lowered(y: np.ndarray) -> np.ndarray:
    """Heights of the hair, drawn in softly towards the upper edge of a picture."""
    return np.where(y > TOP_START, TOP_START + TOP_RANGE * np.tanh((y - TOP_START) / TOP_RANGE), y)


def _falls(azimuth: np.ndarray, style: Style) -> np.ndarray:
    """How much hair at an azimuth falls past the hairline, 0 to 1."""
    if style.fall_y is None:
        return np.zeros_like(azimuth)
    low, high = FACE_OPENING
    return _smooth((np.abs(azimuth) - low) / (high - low))


def line_height(azimuth: np.ndarray, look: Looks, *, fringe: float = 0.0) -> np.ndarray:
    """Height of the hairline on the average head at azimuths [...]; fringe lowers it over the forehead."""
    height = np.interp(np.abs(azimuth), HAIRLINE_AZIMUTH, HAIRLINE_Y)
    forehead = _smooth((0.95 - np.abs(azimuth)) / 0.45)
    temples = np.exp(-(((np.abs(azimuth) - 0.62) / 0.22) ** 2))
    recession = 0.007 * look.hairline + max(look.hairline, 0.0) * 0.012 * temples
    locks = np.sin(9.0 * azimuth + look.hair_part) + np.sin(21.0 * azimuth - look.hair_strands) * (0.4 + 35.0 * fringe)
    return height + forehead * (recession - fringe) + 0.0022 * locks


def _azimuth() -> np.ndarray:
    return (np.arange(COLUMNS) + 0.5) * (2.0 * math.pi / COLUMNS) - math.pi


def _hairline(rest: np.ndarray, style: Style, look: Looks) -> np.ndarray:
    """Step (a real number) [A] of each way at which the hair leaves the scalp."""
    azimuth = np.arctan2(rest[..., 0], rest[..., 2] - rest[:, :1, 2].mean())
    wanted = line_height(azimuth, look, fringe=style.fringe * (1.0 + 0.15 * look.hair_length))
    falls = _falls(azimuth, style)
    wanted = wanted + falls * (np.maximum(wanted, WIDEST_Y) - wanted)
    above = rest[..., 1] - wanted  # positive on the scalp
    first = np.argmax(above[:, 4:] < 0, axis=1) + 4
    rows = np.arange(len(rest))
    high, low = above[rows, first - 1], above[rows, first]
    step = first - 1 + np.clip(high / np.maximum(high - low, 1e-9), 0.0, 1.0)
    kernel = np.array([0.25, 0.5, 0.25])
    return np.convolve(np.concatenate([step[-1:], step, step[:1]]), kernel, mode="valid")


def _along(anchors: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Points at real steps [A, B] of the ways [A, T, 3]."""
    low = np.clip(step.astype(np.int64), 0, anchors.shape[1] - 2)
    rows = np.arange(len(anchors))[:, None]
    return anchors[rows, low] + (step - low)[..., None] * (anchors[rows, low + 1] - anchors[rows, low])


def _shell(anchors: np.ndarray, end: np.ndarray, centre: np.ndarray, style: Style, look: Looks) -> Part:
    phi = _azimuth()
    falls = _falls(phi, style)[:, None]
    s = 1.0 - (1.0 - np.linspace(0.0, 1.0, SCALP_ROWS)) ** 1.25  # denser towards the hairline
    skin = _along(anchors, s * end[:, None])  # [A, B, 3]
    normal = skin - centre
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    up = _smooth((normal[..., 1] + 0.1) / 0.9)
    volume = 1.0 + 0.22 * look.hair_volume
    full = (style.side + (style.top - style.side) * up) * volume
    ramp = _smooth((1.0 - s) / 0.30)
    over_ears = 0.011 * np.exp(-(((np.abs(phi) - 1.62) / 0.32) ** 2))[:, None]
    at_end = style.edge + (style.side * volume + over_ears - style.edge) * falls
    thick = at_end + (full - at_end) * ramp
    thick = thick * _parting(skin, s, style, look)
    thick = thick + _grooves(phi[:, None], s, style, look) * np.clip(thick / 0.012, 0.35, 1.0)
    outer = skin + normal * thick[..., None]
    outer = outer + _curls(outer, style) * ramp[..., None]
    outer[..., 1] = np.maximum(_lowered(outer[..., 1]), np.minimum(outer[..., 1], skin[..., 1] + 0.006))
    tips = _fall(outer[:, -1], falls, phi, style, look)
    inner_end = tips[:, -1].copy()
    inner_end[:, 0] *= 0.15
    inner_end[:, 2] = inner_end[:, 2] * 0.15 + 0.85 * (centre[2] - 0.03)
    back = skin - normal * INSIDE_SKIN
    inner_end = back[:, -1] + falls * (inner_end - back[:, -1])
    rows = np.linspace(SCALP_ROWS - 1, 0, INNER_ROWS).round().astype(int)
    points = np.concatenate([outer, tips, inner_end[:, None], back[:, rows]], axis=1)  # [A, B, 3]
    way = np.concatenate([s * (1.0 - 0.5 * style_falls(style)), np.linspace(0.5, 1.0, FALL_ROWS + 1)[1:]])
    way = np.concatenate([way, np.ones(1 + INNER_ROWS)])
    border = np.concatenate([_smooth((s - 0.80) / 0.20), np.ones(FALL_ROWS + 1 + INNER_ROWS)])
    strand = np.broadcast_to(phi[:, None], points.shape[:2])
    surface = np.stack([strand, np.broadcast_to(way, strand.shape), border * (1.0 - falls)], axis=-1)
    return revolved("hair", points, surface, outer=SCALP_ROWS + FALL_ROWS)


def style_falls(style: Style) -> float:
    """1 where the style has hair that falls past the hairline."""
    return 0.0 if style.fall_y is None else 1.0


def _parting(skin: np.ndarray, s: np.ndarray, style: Style, look: Looks) -> np.ndarray:
    """Factor of the thickness [A, B]: a groove where the hair parts, more volume on its wider side."""
    if not style.is_parted:
        return np.ones(skin.shape[:2])
    x = 0.045 * np.sign(look.hair_part) * min(abs(look.hair_part), 1.3)
    on_top = _smooth((skin[..., 2] + 0.02) / 0.10) * _smooth((skin[..., 1] - 0.12) / 0.06)
    groove = np.exp(-(((skin[..., 0] - x) / 0.012) ** 2))
    wide = np.tanh((skin[..., 0] - x) / 0.03) * -np.sign(look.hair_part)
    return 1.0 - on_top * (0.75 * groove - 0.18 * wide)


def _grooves(phi: np.ndarray, s: np.ndarray, style: Style, look: Looks) -> np.ndarray:
    """Locks: offsets [A, B] of the outer sheet."""
    wild = 0.0016 * (1.0 + 0.35 * look.hair_strands) * min(style.top / 0.02, 1.0)
    a, b = look.hair_part, look.hair_strands
    return wild * (np.sin(17 * phi + 2.0 * a + 1.5 * s) + 0.8 * np.sin(29 * phi - 3.0 * b - 2.0 * s)) * _smooth(3.0 * s)


def _curls(points: np.ndarray, style: Style) -> np.ndarray:
    """Displacements [A, B, 3] of curly hair."""
    if style.curl == 0.0:
        return np.zeros_like(points)
    x, y, z = (points * 70.0).transpose(2, 0, 1)
    phases = (y + 1.3 * np.sin(z), 1.1 * z + 1.2 * np.sin(x) + 1.0, 0.9 * x + 1.1 * np.sin(y) + 2.0)
    return style.curl * np.sin(np.stack(phases, axis=-1)) / math.sqrt(1.5)


def _fall(start: np.ndarray, falls: np.ndarray, phi: np.ndarray, style: Style, look: Looks) -> np.ndarray:
    """Points [A, FALL_ROWS, 3] from where the hair leaves the head, start [A, 3], down to its tips."""
    if style.fall_y is None:
        return np.repeat(start[:, None], FALL_ROWS, axis=1)
    q = np.linspace(0.0, 1.0, FALL_ROWS + 1)[1:]
    tip_y = style.fall_y - style.fall_grows * look.hair_length - 0.008 * np.cos(2.0 * phi)
    tip_y = np.maximum(tip_y, -0.43)
    y = start[:, 1:2] + falls * (tip_y[:, None] - start[:, 1:2]) * q
    drop = start[:, 1:2] - y
    is_back = _smooth((np.abs(phi) - 1.7) / 0.8)[:, None]
    narrow = 0.10 * q**2 + 0.16 * is_back * _smooth(drop / 0.2)
    swing = 1.0 + falls * (0.04 * np.sin(math.pi * q) + 0.03 * look.hair_volume * q - narrow)
    wave = 0.004 * (1.0 + 0.5 * look.hair_strands) * np.sin(9.0 * phi[:, None] + 34.0 * drop) * _smooth(drop / 0.06)
    x, z = start[:, :1] * swing, start[:, 2:] * swing
    length = np.maximum(np.hypot(x, z), 1e-6)
    return np.stack([x * (1.0 + wave / length), y, z * (1.0 + wave / length)], axis=-1)


def _bun(anchors: np.ndarray, centre: np.ndarray, look: Looks) -> Part:
    """A ball of hair at the back of the crown."""
    at_back = np.flatnonzero(np.abs(_azimuth()) > math.pi - 0.1)
    step = 7.5 + 2.5 * look.hair_part  # from the crown towards the nape
    at = _along(anchors[at_back], np.full((len(at_back), 1), max(step, 0.0))).mean(axis=(0, 1))
    radius = 0.062 * (1.0 + 0.12 * look.hair_volume)
    outwards = at - centre
    centre = at + outwards * (0.62 * radius / np.linalg.norm(outwards))
    theta = np.linspace(0.0, math.pi, 17)
    phi = _azimuth()[::3]
    x = np.sin(theta) * np.sin(phi)[:, None]
    z = np.sin(theta) * np.cos(phi)[:, None]
    y = np.broadcast_to(np.cos(theta), x.shape)
    twist = 1.0 + 0.05 * np.sin(5.0 * phi[:, None] + 9.0 * theta)
    points = centre + radius * np.stack([x * twist, y * 0.85, z * twist], axis=-1)
    strand = np.broadcast_to(phi[:, None] + 1.8 * theta, x.shape)
    surface = np.stack([strand, np.broadcast_to(theta / math.pi * 0.4 + 0.3, x.shape)], axis=-1)
    return revolved("bun", points, surface)
