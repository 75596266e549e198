"""Colours of points on a portrait's surface: skin, lips, brows, eyes, scalp, clothes; hair strand by strand; frames.

Everything is a function of the coordinates on the surface (those of the average head; strand and way of the hair), so
that a feature stays where it belongs on every shape and is as sharp as the picture.
Shape letters: P points, S coordinates on the surface.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from dataset_preprocessing.human_heads.codes import Looks
from dataset_preprocessing.human_heads.hair import STYLES, line_height
from dataset_preprocessing.human_heads.head import head_template

Rgb = tuple[float, float, float]
SKIN_DARK, SKIN_MIDDLE, SKIN_LIGHT = (0.31, 0.19, 0.14), (0.80, 0.59, 0.47), (1.0, 0.86, 0.79)
HAIR_DARK, HAIR_MIDDLE, HAIR_LIGHT = (0.10, 0.085, 0.08), (0.33, 0.21, 0.14), (0.86, 0.72, 0.48)
HAIR_GREY = (0.66, 0.65, 0.64)
EYE_BROWN, EYE_MIDDLE, EYE_BLUE = (0.28, 0.16, 0.09), (0.36, 0.36, 0.24), (0.34, 0.52, 0.68)
EYE_WHITE, PUPIL = (0.84, 0.82, 0.80), (0.04, 0.04, 0.045)
CLOTHES = (  # along the number of their tone, from -2 to 2
    (0.12, 0.12, 0.14), (0.17, 0.20, 0.33), (0.45, 0.16, 0.17), (0.33, 0.34, 0.36), (0.30, 0.42, 0.58),
    (0.26, 0.42, 0.34), (0.72, 0.62, 0.48), (0.80, 0.80, 0.80), (0.92, 0.90, 0.86),
)  # fmt: skip
MOUTH_INSIDE = (0.50, 0.19, 0.17)
FRAMES = ((0.07, 0.065, 0.07), (0.33, 0.19, 0.11), (0.55, 0.55, 0.58), (0.30, 0.08, 0.10))


ALL = slice(None)


def palette(t: float, low: Rgb, middle: Rgb, high: Rgb) -> np.ndarray:
    """A number in [-2, 2] -> colour [3] from low over middle to high."""
    other, share = (high, t / 2.0) if t > 0 else (low, -t / 2.0)
    return np.array(middle) + share * (np.array(other) - np.array(middle))


def skin_colour(look: Looks) -> np.ndarray:
    """Colour [3] of the bare skin."""
    warmth = 0.018 * look.skin_warmth * np.array([1.0, -0.1, -1.0])
    return np.clip(palette(look.skin_tone, SKIN_DARK, SKIN_MIDDLE, SKIN_LIGHT) + warmth, 0.12, 1.0)


def hair_colour(look: Looks) -> np.ndarray:
    """Colour [3] of the hair; cool light hair is grey."""
    tone = palette(look.hair_tone, HAIR_DARK, HAIR_MIDDLE, HAIR_LIGHT)
    red = 0.06 * max(look.hair_warmth, 0.0) * np.array([1.1, 0.05, -0.45])
    grey = float(_smooth((-look.hair_warmth - 0.7) / 0.8) * _smooth((look.hair_tone + 0.6) / 1.2))
    return np.clip(tone + red + grey * (np.array(HAIR_GREY) - tone), 0.06, 1.0)


def _smooth(x: np.ndarray | float) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _inside(distance: np.ndarray, border: float) -> np.ndarray:
    """1 where a distance is below 0, 0 above it, over a border of this width."""
    return _smooth(0.5 - distance / border)


def _mix(colour: np.ndarray, other: np.ndarray | Rgb, weight: np.ndarray, at: np.ndarray | slice = ALL) -> None:
    """Blend another colour [3] or [P, 3] into colours [P, 3] by weights [P], in place; `at` names the points."""
    weight = weight.astype(np.float32)[:, None]
    there = colour[at]
    colour[at] = there + weight * (np.asarray(other, dtype=np.float32) - there)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


class FaceMarks(NamedTuple):
    """Where the features of the average head are, in its own coordinates (x as |x|); world units."""

    eye_x: float  # centre of the eyeball
    eye_y: float
    eye_z: float
    mouth_y: float = -0.125
    nose_y: float = -0.05  # of the tip


@cache
def face_marks() -> FaceMarks:
    """Those of the template."""
    return FaceMarks(*(float(v) for v in np.abs(head_template().rest_eyes()).mean(axis=0)))


def head_colours(surface: np.ndarray, look: Looks) -> np.ndarray:
    """Colours [P, 3] in [0, 1] of points of the head with coordinates float32 [P, S]."""
    x, y, z = np.abs(surface[:, 0]), np.ascontiguousarray(surface[:, 1]), np.ascontiguousarray(surface[:, 2])
    marks, skin = face_marks(), skin_colour(look).astype(np.float32)
    colour = np.repeat(skin[None], len(surface), axis=0)
    _paint_flush(colour, x, y, z, look, marks)
    if look.stubble > 0.0 and look.style not in ("bob", "long", "bun"):
        _paint_stubble(colour, x, y, z, look, marks)
    lips = np.flatnonzero(surface[:, 3] > 0.25)
    tint = 0.62 + 0.16 * look.lip_tint
    _mix(colour, skin * (1.0 - tint * np.array([0.14, 0.50, 0.42])), _smooth((surface[lips, 3] - 0.25) / 0.5), lips)
    _paint_lids_and_brows(colour, x, y, z, look, marks)
    _paint_scalp(colour, surface, look)
    _paint_clothes(colour, x, y, z, look)
    inside = np.flatnonzero(surface[:, 5] > 0.4)
    _mix(colour, MOUTH_INSIDE, _smooth((surface[inside, 5] - 0.4) / 0.3), inside)
    eye = np.flatnonzero(surface[:, 4] > 0.5)
    colour[eye] = _eye_colours(x[eye], y[eye], look, marks)
    return colour


def _paint_flush(
    colour: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, look: Looks, marks: FaceMarks
) -> None:
    """Red on cheeks, nose and ears; shade about the eyes."""
    strength = _clip(0.10 + 0.05 * look.flush, 0.0, 0.22)
    red, shaded = (np.array(c, dtype=np.float32) for c in ((0.05, 1.0, 0.85), (0.8, 1.0, 0.9)))
    at = np.flatnonzero((z > 0.12) & (y > -0.16) & (y < 0.13))
    u, v, front = x[at], y[at], _smooth((z[at] - 0.12) / 0.06)
    cheeks = np.exp(-((u - 0.085) ** 2 + (v + 0.045) ** 2) / 0.0016)
    nose = np.exp(-(u**2 + (v - marks.nose_y) ** 2) / 0.0007)
    shade = np.exp(-((u - marks.eye_x) ** 2 / 0.0018 + (v - marks.eye_y + 0.006) ** 2 / 0.0012))
    there = 1.0 - (strength * (cheeks + 0.8 * nose) * front)[:, None] * red
    colour[at] *= there * (1.0 - (0.16 * shade * front)[:, None] * shaded)
    ears = np.flatnonzero((x > 0.155) & (np.abs(y) < 0.09))
    colour[ears] *= 1.0 - (0.7 * strength * _smooth((x[ears] - 0.155) / 0.02))[:, None] * red


def _paint_stubble(
    colour: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, look: Looks, marks: FaceMarks
) -> None:
    at = np.flatnonzero((z > 0.02) & (y < -0.06) & (y > -0.235))
    x, y, z = x[at], y[at], z[at]
    line = -0.075 - 0.35 * np.maximum(x - 0.06, 0.0) + 0.9 * np.maximum(x - 0.105, 0.0)
    beard = _smooth((line - y) / 0.035) * _smooth((y + 0.235) / 0.05) * _smooth((z - 0.02) / 0.06)
    bare = np.exp(-(x**2 / 0.0022 + (y - marks.mouth_y) ** 2 / 0.0003))
    grain = 0.85 + 0.15 * np.sin(310 * x + 170 * y) * np.sin(290 * y - 130 * z)
    weight = _clip(0.33 * look.stubble, 0.0, 0.62) * beard * (1.0 - 0.8 * bare) * grain
    _mix(colour, 0.8 * hair_colour(look), weight, at)


def _paint_lids_and_brows(
    colour: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, look: Looks, marks: FaceMarks
) -> None:
    at = np.flatnonzero((np.abs(y - 0.055) < 0.06) & (x < 0.13) & (z > 0.12))
    dx, y, z = x[at] - marks.eye_x, y[at], z[at]
    lid = marks.eye_y + 0.0145 - 14.0 * dx**2
    lash = _inside(np.abs(y - lid) - 0.0024, 0.003) * (np.abs(dx) < 0.033) * (z > marks.eye_z - 0.03)
    colour[at] *= 1.0 - 0.62 * lash[:, None]
    arc = marks.eye_y + 0.046 + 0.06 * dx - 4.2 * (dx - 0.012) ** 2
    thick = (0.0062 + 0.0011 * look.brow_strength) * (1.0 - 0.55 * _smooth((dx - 0.005) / 0.035))
    distance = np.maximum(np.abs(y - arc) - thick, np.abs(dx - 0.002) - 0.041)
    hairs = 0.90 + 0.10 * np.sin(690.0 * dx - 400.0 * (y - arc))
    weight = _clip(0.74 + 0.14 * look.brow_strength, 0.3, 0.97) * _inside(distance, 0.006) * hairs
    _mix(colour, np.clip(hair_colour(look) * (0.78 + 0.10 * look.brow_tint), 0.05, 0.62), weight, at)


def _paint_scalp(colour: np.ndarray, surface: np.ndarray, look: Looks) -> None:
    """Skin under the hair in the hair's colour, down to a hairline of single strands."""
    style = STYLES.get(look.style)
    lowest = np.where(surface[:, 2] > 0.12, 0.09, -0.16)  # no hairline runs below this
    at = np.flatnonzero((surface[:, 1] > lowest) & (surface[:, 4] < 0.5))
    x, y, z = surface[at, 0], surface[at, 1], surface[at, 2]
    azimuth = np.arctan2(x, z - float(head_template().centre[2]))
    above = y - line_height(azimuth, look, fringe=style.fringe if style else 0.0)
    grain = 0.006 * np.sin(85.0 * azimuth) * np.sin(37.0 * azimuth + 1.0)
    strength = 0.10 if style is None else 0.96
    _mix(colour, 0.85 * hair_colour(look), strength * _smooth((above + grain) / 0.020), at)


def _paint_clothes(colour: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, look: Looks) -> None:
    """A collar around the neck, lower in front; it rises over the shoulders."""
    at = np.flatnonzero(y < -0.12)
    x, y, z = x[at], y[at], z[at]
    neckline = -0.252 - 0.22 * np.maximum(z, 0.0) - 0.012 * look.clothes_tone + 0.45 * np.maximum(x - 0.125, 0.0)
    stops = np.linspace(-1.6, 1.6, len(CLOTHES))
    clothes = [np.interp(look.clothes_tone, stops, channel) for channel in zip(*CLOTHES, strict=True)]
    _mix(colour, np.array(clothes), _inside(y - neckline, 0.006), at)


def _eye_colours(x: np.ndarray, y: np.ndarray, look: Looks, marks: FaceMarks) -> np.ndarray:
    dx, dy = x - marks.eye_x, y - marks.eye_y
    radius = np.sqrt(dx * dx + dy * dy)
    colour = np.repeat(np.array([EYE_WHITE], dtype=np.float32), len(x), axis=0)
    colour *= 1.0 - 0.25 * _smooth((radius - 0.018) / 0.02)[:, None]
    iris = palette(look.eye_tint, EYE_BROWN, EYE_MIDDLE, EYE_BLUE)
    _mix(colour, iris * (1.0 - 0.5 * _smooth((radius - 0.0095) / 0.0045))[:, None], _inside(radius - 0.0140, 0.002))
    _mix(colour, PUPIL, _inside(radius - 0.0054, 0.002))
    glint = _inside(np.sqrt((dx + 0.004) ** 2 + (dy - 0.005) ** 2) - 0.0028, 0.002)
    _mix(colour, (1.0, 1.0, 1.0), 0.9 * glint)
    return colour


def hair_colours(surface: np.ndarray, look: Looks) -> np.ndarray:
    """Colours [P, 3] of points of the hair: strand (radians around the crown) and way (root 0 to tip 1) in [P, S]."""
    strand, way = surface[:, 0], surface[:, 1]
    a, b = look.hair_part, look.hair_strands
    flow = strand + 0.03 * (1.0 + 0.4 * b) * np.sin(7.0 * way + 3.0 * strand + a)
    fine = np.sin(157 * flow + 2.0 * np.sin(23 * flow)) * 0.5 + np.sin(71 * flow + a + 1.5 * way) * 0.6
    locks = np.sin(17 * flow + 2.0 * a + 1.5 * way) + 0.8 * np.sin(29 * flow - 3.0 * b - 2.0 * way)
    tone = 1.0 + 0.10 * fine + 0.09 * locks + 0.10 * (way - 0.4)
    colour = np.clip(hair_colour(look).astype(np.float32) * tone[:, None].astype(np.float32), 0.03, 1.0)
    if look.style == "curly":
        rings = np.sin(46 * strand + 3.0 * np.sin(31 * way)) * np.sin(52 * way + 2.0 * np.sin(23 * strand))
        colour *= (1.0 + 0.22 * rings)[:, None]
    # At the hairline, skin shows between the strands.
    single = 0.5 + 0.25 * (np.sin(131 * flow + 3.0 * np.sin(19 * flow)) + np.sin(83 * flow + 2.0 * np.sin(31 * flow)))
    thin = _smooth((surface[:, 2] + 0.8 * single - 1.1) / 0.7)
    _mix(colour, skin_colour(look), 0.7 * thin)
    return colour


def frame_colour(look: Looks) -> np.ndarray:
    """Colour [3] of the frame of the glasses."""
    return np.array(FRAMES[int(look.glasses * 600) % len(FRAMES)])


def backdrop(look: Looks) -> np.ndarray:
    """Colour [3] of a plain background."""
    grey = 0.52 + 0.19 * look.backdrop_tone
    turn = 2.0 * math.pi * 0.5 * look.backdrop_hue
    hue = 0.07 * np.array([math.cos(turn), math.cos(turn - 2.1), math.cos(turn + 2.1)])
    return np.clip(grey + hue, 0.08, 0.97)
