"""Surface colours of the parametric heads: skin, lips, eyes, brows, hair, clothes, with soft borders.

Colours are linear mixes of a few palettes by the head's colour numbers. Everything stays well above black, so that
a black background always marks the silhouette. Shape letters: N heads, P points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dataset_preprocessing.synthetic_heads.shape import (
    EYE_RADIUS,
    EYE_Y,
    EYE_Z,
    MOUTH_Y,
    HeadParameters,
    HeadParts,
    lips,
    to_head_frame,
)

Rgb = tuple[float, float, float]
SKIN_DARK, SKIN_MIDDLE, SKIN_LIGHT = (0.50, 0.34, 0.26), (0.80, 0.60, 0.47), (0.97, 0.80, 0.70)
HAIR_DARK, HAIR_MIDDLE, HAIR_LIGHT = (0.26, 0.22, 0.21), (0.43, 0.29, 0.20), (0.84, 0.70, 0.45)
EYE_BROWN, EYE_MIDDLE, EYE_BLUE = (0.36, 0.23, 0.15), (0.33, 0.355, 0.385), (0.30, 0.48, 0.62)
EYE_WHITE, PUPIL = (0.93, 0.93, 0.92), (0.14, 0.13, 0.13)
CLOTHES = (0.40, 0.45, 0.55)
BORDER = 0.003  # world units: width of a soft border between regions


def _palette(t: Tensor, low: Rgb, middle: Rgb, high: Rgb) -> Tensor:
    """t [N, 1] in [-2, 2] -> colours [N, 1, 3] from low over middle to high."""
    low_, middle_, high_ = (torch.tensor(v) for v in (low, middle, high))
    s = (t / 2.0)[..., None]
    return middle_ + s.clamp_min(0.0) * (high_ - middle_) + (-s).clamp_min(0.0) * (low_ - middle_)


def _inside(distance: Tensor, border: float = BORDER) -> Tensor:
    """Soft indicator of distance < 0, in [0, 1]."""
    return torch.sigmoid(distance * (-2.0 / border))


def _mix(colour: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    return torch.lerp(colour, other.expand_as(colour), weight[..., None].expand_as(colour))


def _skin_colour(p: HeadParameters) -> Tensor:
    warmth = (p.skin_warmth * 0.02)[..., None] * torch.tensor([1.0, -0.2, -1.0])
    return (_palette(p.skin_tone, SKIN_DARK, SKIN_MIDDLE, SKIN_LIGHT) + warmth).clamp(0.2, 1.0)


def _hair_colour(p: HeadParameters) -> Tensor:
    warmth = (p.hair_warmth * 0.045)[..., None] * torch.tensor([1.0, 0.0, -0.6])
    return (_palette(p.hair_tone, HAIR_DARK, HAIR_MIDDLE, HAIR_LIGHT) + warmth).clamp(0.16, 1.0)


def _paint_eyes(colour: Tensor, x: Tensor, y: Tensor, z: Tensor, p: HeadParameters) -> Tensor:
    dx, dy = x - p.eye_spacing, y - EYE_Y
    on_ball = _inside((dx * dx + dy * dy + (z - EYE_Z + p.socket_depth) ** 2).sqrt() - EYE_RADIUS - 0.004)
    almond = dy.abs() - 0.0125 * (1.0 - (dx / 0.0265) ** 2) + 0.05 * dy
    opening = _inside(almond, 0.0025) * on_ball
    lash = _inside((almond - 0.003).abs() - 0.0022, 0.0025) * on_ball * (dy > -0.002)
    radius = (dx * dx + dy * dy).sqrt()
    eye = torch.tensor(EYE_WHITE).expand(*x.shape, 3)
    iris = _palette(p.eye_tint, EYE_BROWN, EYE_MIDDLE, EYE_BLUE)
    eye = _mix(eye, iris, _inside(radius - 0.0110, 0.002))
    eye = _mix(eye, torch.tensor(PUPIL), _inside(radius - 0.0050, 0.002))
    return _mix(_mix(colour, colour * 0.45, lash * 0.8), eye, opening)


def _paint_brows(colour: Tensor, x: Tensor, y: Tensor, z: Tensor, p: HeadParameters, hair: Tensor) -> Tensor:
    dx = x - p.eye_spacing - 0.004
    arc_y = EYE_Y + 0.045 - 5.0 * (dx - 0.008) ** 2
    thickness = 0.0065 - 0.06 * (dx - 0.01).clamp_min(0.0)
    distance = torch.maximum((y - arc_y).abs() - thickness, dx.abs() - 0.034)
    return _mix(colour, hair * 0.8, 0.85 * _inside(distance, 0.004) * (z > 0.1))


def _paint_mouth_and_nose(colour: Tensor, x: Tensor, y: Tensor, z: Tensor, p: HeadParameters) -> Tensor:
    upper, lower = lips(x, y, z, p)
    tint = 0.55 + 0.12 * p.lip_tint[..., None]
    lip = colour * (1.0 - tint * torch.tensor([0.16, 0.52, 0.46]))
    colour = _mix(colour, lip, _inside(torch.minimum(upper, lower) - 0.0015, 0.004))
    line = torch.maximum((y - MOUTH_Y).abs() - 0.0016, x - p.mouth_width)
    colour = _mix(colour, colour * 0.45, 0.9 * _inside(line, 0.003) * (z > 0.2))
    tip_y = EYE_Y - p.nose_length
    nostril = ((x - p.nose_width * 0.5) ** 2 + (y - tip_y + p.nose_width * 0.72) ** 2).sqrt() - 0.0055
    return _mix(colour, colour * 0.45, 0.9 * _inside(nostril, 0.004) * (z > p.nose_projection - 0.045))


def _paint_flush(colour: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    flush = torch.exp(-((x - 0.075) ** 2 + (y + 0.045) ** 2) / 0.0012) * (z > 0.1)
    return colour * (1.0 - 0.10 * flush[..., None] * torch.tensor([0.0, 1.0, 0.9]))


def albedo(points: Tensor, params: HeadParameters, parts: HeadParts) -> Tensor:
    """Colour of surface points: points [N, P, 3] world units, parts as head_parts gives -> [N, P, 3] in [0, 1]."""
    x, y, z = to_head_frame(points)
    hair = _hair_colour(params)
    colour = _skin_colour(params).expand(*x.shape, 3)
    colour = _paint_flush(colour, x, y, z)
    colour = _paint_mouth_and_nose(colour, x, y, z, params)
    colour = _paint_brows(colour, x, y, z, params, hair)
    colour = _paint_eyes(colour, x, y, z, params)
    colour = _mix(colour, torch.tensor(CLOTHES), _inside(torch.maximum(parts.torso - parts.face, y + 0.27), 0.006))
    strands = 1.0 + 0.12 * torch.sin(95.0 * x + 30.0 * y + 40.0 * z)
    return _mix(colour, hair * strands[..., None], _inside(parts.hair - torch.minimum(parts.face, parts.torso), 0.006))
