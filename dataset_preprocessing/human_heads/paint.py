"""Colours of points on a portrait's surface: skin, lips, brows, eyes, scalp, clothes; hair strand by strand; frames.

Everything is a function of the coordinates on the surface (those of the average head; strand and way of the hair), so
that a feature stays where it belongs on every shape and is as sharp as the picture.
Shape letters: P points, S coordinates on the surface.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dataset_preprocessing.human_heads.codes import Looks
from dataset_preprocessing.human_heads.hair import STYLES, line_height
from dataset_preprocessing.human_heads.head import head_template

Rgb = tuple[float, float, float]
SKIN_DARK, SKIN_MIDDLE, SKIN_LIGHT = (0.31, 0.19, 0.14), (0.80, 0.59, 0.47), (1.0, 0.86, 0.79)
HAIR_DARK, HAIR_MIDDLE, HAIR_LIGHT = (0.10, 0.085, 0.08), (0.33, 0.21, 0.14), (0.86, 0.72, 0.48)
HAIR_GREY = (0.66, 0.65, 0.64)
EYE_BROWN, EYE_MIDDLE, EYE_BLUE = (0.28, 0.16, 0.09), (0.36, 0.36, 0.24), (0.34, 0.52, 0.68)
EYE_WHITE, PUPIL = (0.90, 0.88, 0.86), (0.04, 0.04, 0.045)
CLOTHES_DARK, CLOTHES_MIDDLE, CLOTHES_LIGHT = (0.16, 0.17, 0.22), (0.35, 0.42, 0.55), (0.85, 0.82, 0.76)
FRAMES = ((0.07, 0.065, 0.07), (0.33, 0.19, 0.11), (0.55, 0.55, 0.58), (0.30, 0.08, 0.10))


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
    grey = _smooth((-look.hair_warmth - 0.7) / 0.8) * _smooth((look.hair_tone + 0.6) / 1.2)
    return np.clip(tone + red + grey * (np.array(HAIR_GREY) - tone), 0.06, 1.0)


def _smooth(x):
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _inside(distance: np.ndarray, border: float) -> np.ndarray:
    """1 where a distance is below 0, 0 above it, over a border of this width."""
    return _smooth(0.5 - distance / border)


def _mix(colour: np.ndarray, other: np.ndarray, weight: np.ndarray) -> None:
    """Blend another colour [3] or [P, 3] into colours [P, 3] by weights [P], in place."""
    colour += weight[:, None] * (other - colour)


@dataclass(frozen=True)
class FaceMarks:
    """Where the features of the average head are, in its own coordinates (x as |x|); world units."""

    eye: np.ndarray  # [3] centre of the eyeball
    mouth_y: float
    nose_y: float  # of the tip


def face_marks() -> FaceMarks:
    eye = np.abs(head_template().rest_eyes()).mean(axis=0)
    return FaceMarks(eye, mouth_y=-0.125, nose_y=-0.05)


def head_colours(surface: np.ndarray, look: Looks) -> np.ndarray:
    """Colours [P, 3] in [0, 1] of points of the head with coordinates [P, S]."""
    x, y, z = np.abs(surface[:, 0]), surface[:, 1], surface[:, 2]
    marks = face_marks()
    skin = skin_colour(look).astype(np.float32)
    colour = np.repeat(skin[None], len(surface), axis=0)
    _paint_flush(colour, x, y, z, look, marks)
    _paint_stubble(colour, x, y, z, look, marks)
    _paint_lips(colour, surface[:, 3], skin, look)
    _paint_lids(colour, x, y, z, marks)
    _paint_brows(colour, x, y, z, look, marks)
    _paint_scalp(colour, surface, look)
    _paint_clothes(colour, x, y, z, look)
    _paint_mouth(colour, x, y, z, surface[:, 5])
    eye = np.flatnonzero(surface[:, 4] > 0.5)
    colour[eye] = _eye_colours(x[eye], y[eye], look, marks)
    return colour


def _paint_flush(colour, x, y, z, look: Looks, marks: FaceMarks) -> None:
    front = _smooth((z - 0.12) / 0.06)
    cheeks = np.exp(-((x - 0.085) ** 2 + (y + 0.045) ** 2) / 0.0016)
    nose = np.exp(-(x**2 + (y - marks.nose_y) ** 2) / 0.0007)
    ears = _smooth((x - 0.155) / 0.02) * (np.abs(y) < 0.09)
    strength = np.clip(0.10 + 0.05 * look.flush, 0.0, 0.22) * ((cheeks + 0.8 * nose) * front + 0.7 * ears)
    colour *= 1.0 - strength[:, None] * np.array([0.05, 1.0, 0.85], dtype=np.float32)
    shade = np.exp(-((x - marks.eye[0]) ** 2 / 0.0018 + (y - marks.eye[1] + 0.006) ** 2 / 0.0012)) * front
    colour *= 1.0 - 0.16 * shade[:, None] * np.array([0.8, 1.0, 0.9], dtype=np.float32)


def _paint_stubble(colour, x, y, z, look: Looks, marks: FaceMarks) -> None:
    if look.stubble <= 0.0 or look.style in ("bob", "long", "bun"):
        return
    line = -0.075 - 0.35 * np.maximum(x - 0.06, 0.0) + 0.9 * np.maximum(x - 0.105, 0.0)
    beard = _smooth((line - y) / 0.035) * _smooth((y + 0.235) / 0.05) * _smooth((z - 0.02) / 0.06)
    bare = np.exp(-(x**2 / 0.0022 + (y - marks.mouth_y) ** 2 / 0.0003))
    grain = 0.85 + 0.15 * np.sin(310 * x + 170 * y) * np.sin(290 * y - 130 * z)
    weight = np.clip(0.33 * look.stubble, 0.0, 0.62) * beard * (1.0 - 0.8 * bare) * grain
    _mix(colour, (0.8 * hair_colour(look)).astype(np.float32), weight.astype(np.float32))


def _paint_lips(colour, lip, skin, look: Looks) -> None:
    tint = 0.62 + 0.16 * look.lip_tint
    lips = skin * (1.0 - tint * np.array([0.14, 0.50, 0.42], dtype=np.float32))
    _mix(colour, lips, _smooth((lip - 0.25) / 0.5))


def _paint_mouth(colour, x, y, z, mouth) -> None:
    """The inside of the mouth, and where upper teeth would show."""
    _mix(colour, np.array([0.36, 0.12, 0.11], dtype=np.float32), _smooth((mouth - 0.4) / 0.3))
    teeth = (mouth > 0.9) * _smooth((y + 0.121) / 0.003) * _smooth((z - 0.265) / 0.01) * (x < 0.04)
    _mix(colour, np.array([0.93, 0.91, 0.86], dtype=np.float32), teeth)


def _paint_lids(colour, x, y, z, marks: FaceMarks) -> None:
    dx, dy = x - marks.eye[0], y - marks.eye[1]
    arc = 0.0135 * (1.0 - (dx / 0.031) ** 2)
    lash = _inside(np.abs(dy - arc - 0.001) - 0.0024, 0.003) * (np.abs(dx) < 0.033) * (z > marks.eye[2] - 0.03)
    colour *= 1.0 - 0.62 * lash[:, None]


def _paint_brows(colour, x, y, z, look: Looks, marks: FaceMarks) -> None:
    dx = x - marks.eye[0]
    arc = marks.eye[1] + 0.046 + 0.06 * dx - 4.2 * (dx - 0.012) ** 2
    thick = (0.0062 + 0.0011 * look.brow_strength) * (1.0 - 0.55 * _smooth((dx - 0.005) / 0.035))
    distance = np.maximum(np.abs(y - arc) - thick, np.abs(dx - 0.002) - 0.041)
    hairs = 0.90 + 0.10 * np.sin(690.0 * dx - 400.0 * (y - arc))
    weight = np.clip(0.74 + 0.14 * look.brow_strength, 0.3, 0.97) * _inside(distance, 0.006) * hairs * (z > 0.12)
    brow = np.clip(hair_colour(look) * (0.78 + 0.10 * look.brow_tint), 0.05, 0.62)
    _mix(colour, brow.astype(np.float32), weight.astype(np.float32))


def _paint_scalp(colour, surface, look: Looks) -> None:
    x, y, z = surface[:, 0], surface[:, 1], surface[:, 2]
    style = STYLES.get(look.style)
    azimuth = np.arctan2(x, z - head_template().centre[2])
    above = y - line_height(azimuth, look, fringe=style.fringe if style else 0.0)
    grain = 0.006 * np.sin(85.0 * azimuth) * np.sin(37.0 * azimuth + 1.0)
    strength = 0.10 if style is None else 0.96
    weight = strength * _smooth((above + grain) / 0.020) * (surface[:, 4] < 0.5)
    _mix(colour, (0.85 * hair_colour(look)).astype(np.float32), weight.astype(np.float32))


def _paint_clothes(colour, x, y, z, look: Looks) -> None:
    # A collar around the neck, lower in front; it rises over the shoulders.
    neckline = -0.252 - 0.22 * np.maximum(z, 0.0) - 0.012 * look.clothes_tone + 0.45 * np.maximum(x - 0.125, 0.0)
    clothes = palette(look.clothes_tone, CLOTHES_DARK, CLOTHES_MIDDLE, CLOTHES_LIGHT)
    _mix(colour, clothes.astype(np.float32), _inside(y - neckline, 0.006))


def _eye_colours(x, y, look: Looks, marks: FaceMarks) -> np.ndarray:
    dx, dy = x - marks.eye[0], y - marks.eye[1]
    radius = np.sqrt(dx * dx + dy * dy)
    colour = np.repeat(np.array([EYE_WHITE], dtype=np.float32), len(x), axis=0)
    colour *= 1.0 - 0.25 * _smooth((radius - 0.018) / 0.02)[:, None]
    iris = palette(look.eye_tint, EYE_BROWN, EYE_MIDDLE, EYE_BLUE).astype(np.float32)
    ring = iris * (1.0 - 0.5 * _smooth((radius - 0.0095) / 0.0045))[:, None]
    _mix(colour, ring, _inside(radius - 0.0140, 0.002))
    _mix(colour, np.array(PUPIL, dtype=np.float32), _inside(radius - 0.0054, 0.002))
    glint = _inside(np.sqrt((dx + 0.004) ** 2 + (dy - 0.005) ** 2) - 0.0028, 0.002)
    _mix(colour, np.array([1.0, 1.0, 1.0], dtype=np.float32), 0.9 * glint)
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
    # At the hairline, skin shows between the strands.
    single = 0.5 + 0.25 * (np.sin(131 * flow + 3.0 * np.sin(19 * flow)) + np.sin(83 * flow + 2.0 * np.sin(31 * flow)))
    thin = _smooth((surface[:, 2] + 0.8 * single - 1.1) / 0.7)
    _mix(colour, skin_colour(look).astype(np.float32), (0.7 * thin).astype(np.float32))
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
