"""Pictures of portraits: triangles on SUBPIXELS^2 points a pixel, soft light from the vertices, colours point by point.

Depth maps are distances along the rays through pixel centres, as in every data set of this project; the middle one of a
pixel's points is its centre, so that they and the normals come from the drawing of the picture.
Shape letters: N heads, V views of each, R pixels a side, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset_preprocessing.human_heads.codes import head_codes
from dataset_preprocessing.human_heads.light import key_direction
from dataset_preprocessing.human_heads.paint import backdrop, frame_colour, hair_colours, head_colours
from dataset_preprocessing.human_heads.portrait import KINDS, Portrait, portrait
from eg3d.cameras import lookat_c2w
from eg3d.raster import Fragments, maps_of, project, rasterize

FFHQ_FOCAL = 2985.29 / 700.0  # normalised by the image side, as in the published labels
SUBPIXELS = 3  # points per pixel side; odd, so that the middle one is the pixel's centre
SKY_RGB, KEY_RGB = (0.76, 0.79, 0.84), (0.78, 0.74, 0.69)
DARKEST = 0.055  # of a surface: darker would not be told from a black background
BACKGROUNDS = ("black", "plain")


@dataclass(frozen=True)
class View:
    """What one camera sees of one portrait."""

    image: np.ndarray  # uint8 [R, R, 3]
    depth: np.ndarray  # float32 [R, R] world units along the ray, 0 = background
    normals: np.ndarray  # float32 [R, R, 3] unit length in the world, 0 = background


def render(
    subject: Portrait, c2w: np.ndarray, resolution: int, *, background: str = "black", focal: float = FFHQ_FOCAL
) -> View:
    """What a camera c2w [4, 4] sees of a portrait on R x R pixels.

    background: "black", exactly 0, which nothing else is, or "plain", the portrait's own colour. Raises ValueError for
    another one, or a camera that does not have the whole portrait before it.
    """
    if background not in BACKGROUNDS:
        raise ValueError(f"background: {background!r} is not one of {', '.join(BACKGROUNDS)}")
    side = resolution * SUBPIXELS
    screen, nearness = project(subject.vertices, c2w, focal=focal, resolution=side)
    seen, along_axis = rasterize(screen, nearness, subject.faces, side).perspective(nearness, subject.faces)
    colour = _shaded(subject, seen)
    behind = backdrop(subject.look) if background == "plain" else np.zeros(3)
    canvas = np.empty((side * side, 3), dtype=np.float32)
    canvas[:] = behind
    canvas[seen.pixel] = colour
    fine = canvas.reshape(side, side, 3)
    rows = np.add.reduce([fine[i::SUBPIXELS] for i in range(SUBPIXELS)])
    image = np.add.reduce([rows[:, i::SUBPIXELS] for i in range(SUBPIXELS)]) / SUBPIXELS**2
    depth, normals = maps_of(
        *_at_centres(seen, along_axis, resolution), subject.normals, subject.faces, resolution, focal=focal
    )
    return View((image * 255.0 + 0.5).astype(np.uint8), depth, normals)


def _shaded(subject: Portrait, seen: Fragments) -> np.ndarray:
    """Colours [P, 3] in [DARKEST, 1] of what is seen."""
    values = np.concatenate([subject.surface, subject.light, subject.normals], axis=1)
    values = seen.interpolate(values, subject.faces)
    surface, light, normals = values[:, :-5], values[:, -5:-3], values[:, -3:]
    kind = subject.kind[seen.triangle]
    colour = np.empty((len(kind), 3), dtype=np.float32)
    for number, name in enumerate(KINDS):
        points = np.flatnonzero(kind == number)
        if name == "head":
            colour[points] = head_colours(surface[points], subject.look)
        elif name == "hair":
            colour[points] = hair_colours(surface[points], subject.look)
        else:
            colour[points] = frame_colour(subject.look)
    light = _lit_hollows(light, surface, kind)
    brightness = light[:, :1] * np.array(SKY_RGB, dtype=np.float32) + light[:, 1:] * np.array(KEY_RGB, dtype=np.float32)
    shine = _shine(normals, kind, light[:, 1], subject)
    return np.clip(colour * brightness + shine[:, None], DARKEST, 1.0)


def _lit_hollows(light: np.ndarray, surface: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Light [P, 2] in which eyes behind their lids and the inside of the mouth are never quite dark."""
    least = (0.35 * surface[:, 4] + 0.22 * surface[:, 5]) * (kind == 0)
    return least[:, None] + (1.0 - least[:, None]) * light


def _shine(normals: np.ndarray, kind: np.ndarray, key: np.ndarray, subject: Portrait) -> np.ndarray:
    """Highlights [P]: those that a viewer in front sees, from wherever they are seen, so that all views agree."""
    half = key_direction(subject.look) + np.array([0.0, 0.0, 1.0])
    half = (half / np.linalg.norm(half)).astype(np.float32)
    cosine = np.clip(normals @ half, 0.0, 1.0)
    strength = np.array([0.07, 0.10, 0.25], dtype=np.float32)[kind]
    return strength * cosine**14 * key


def _at_centres(seen: Fragments, along_axis: np.ndarray, resolution: int) -> tuple[Fragments, np.ndarray]:
    """What the pixels' centres see, from the points [P] of all sub-pixels."""
    side, middle = resolution * SUBPIXELS, SUBPIXELS // 2
    row, column = seen.pixel // side, seen.pixel % side
    keep = np.flatnonzero((row % SUBPIXELS == middle) & (column % SUBPIXELS == middle))
    pixel = row[keep] // SUBPIXELS * resolution + column[keep] // SUBPIXELS
    return Fragments(pixel, seen.triangle[keep], seen.weights[keep]), along_axis[keep]


def contact_sheet(
    seeds: Sequence[int],
    *,
    resolution: int = 128,
    poses: Sequence[tuple[float, float]] | None = None,
    background: str = "black",
) -> np.ndarray:
    """A table of pictures, one row a head, one column a (yaw, pitch) in radians: uint8 [rows*R, columns*R, 3]."""
    poses = poses or [(-0.5, 0.0), (-0.25, -0.12), (0.0, 0.0), (0.25, 0.12), (0.5, 0.0), (0.0, -0.25), (0.0, 0.25)]
    cameras = [lookat_c2w(yaw, pitch)[0].numpy() for yaw, pitch in poses]
    rows = []
    for seed in seeds:
        subject = portrait(head_codes(seed))
        views = [render(subject, c2w, resolution, background=background).image for c2w in cameras]
        rows.append(np.concatenate(views, axis=1))
    return np.concatenate(rows, axis=0)
