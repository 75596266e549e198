"""Soft light on vertices: a sky of fixed directions and one key light, both with the shadows that the mesh casts.

A shadow map is the mesh's own vertices dropped into cells seen from the light: meshes are dense against the cells, and
the light of a vertex is smoothed over its neighbours afterwards, so that no triangle has to be drawn.
Shape letters: V vertices, F faces, L directions of light.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from dataset_preprocessing.human_heads.codes import Looks

CELLS, HALF = 72, 0.62  # cells a side of a shadow map, and half its side in world units
BIAS, PENUMBRA = 0.010, 0.020  # world units: what lies less behind casts no shadow, what lies more than both, all of it
SKY_LIGHTS, KEY_LIGHTS = 12, 4
SMOOTHINGS = 2


def sky_directions() -> np.ndarray:
    """Unit vectors [L, 3] spread evenly over the sphere."""
    i = np.arange(SKY_LIGHTS) + 0.5
    y, turn = 1.0 - 2.0 * i / SKY_LIGHTS, i * math.pi * (3.0 - math.sqrt(5.0))
    r = np.sqrt(1.0 - y * y)
    return np.stack([r * np.sin(turn), y, r * np.cos(turn)], axis=1)


def key_direction(look: Looks) -> np.ndarray:
    """Unit vector [3] towards a head's main light: in front and above."""
    azimuth, elevation = 0.48 * look.light_azimuth, 0.55 + 0.16 * look.light_elevation
    return np.array(
        [math.sin(azimuth) * math.cos(elevation), math.sin(elevation), math.cos(azimuth) * math.cos(elevation)]
    )


def irradiance(
    vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray, look: Looks, *, is_seen: np.ndarray, casts: np.ndarray
) -> np.ndarray:
    """Light on vertices [V, 3] with unit normals [V, 3]: float64 [V, 2], from the sky and from the key light.

    Each is 1 where it is met openly, head-on. Vertices that are not seen [V] have that of those beside them; only those
    that cast shadows [V] do.
    """
    key = key_direction(look)
    spread = 0.16 * (1.0 + 0.4 * look.light_softness)
    side = np.cross(key, [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    above = np.cross(side, key)
    angle = np.arange(KEY_LIGHTS) * (2.0 * math.pi / KEY_LIGHTS)
    keys = key + spread * (np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * above)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    sky = sky_directions()
    lights = np.concatenate([sky, keys])
    cosine = normals @ lights.T
    open_ = _visibility(vertices, lights, casts)
    brightness = 0.62 + 0.38 * sky[:, 1]
    light_sky = (np.maximum(cosine[:, :SKY_LIGHTS] * 0.75 + 0.25, 0.0) * open_[:, :SKY_LIGHTS]) @ brightness
    light_sky *= 4.0 / SKY_LIGHTS / 1.27
    wrapped = np.maximum(cosine[:, SKY_LIGHTS:] * 0.9 + 0.1, 0.0)  # skin lets a little light around the edge
    light_key = (wrapped * open_[:, SKY_LIGHTS:]).mean(axis=1)
    return _smoothed(np.stack([light_sky, light_key], axis=1), faces, is_seen)


def _visibility(vertices: np.ndarray, lights: np.ndarray, casts: np.ndarray) -> np.ndarray:
    """How much of each light [L, 3] reaches each vertex [V, 3] past those that cast shadows: [V, L] in [0, 1]."""
    up = np.where(np.abs(lights[:, 1:2]) > 0.9, [[0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]])
    right = np.cross(up, lights)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    above = np.cross(lights, right)
    v = vertices.astype(np.float32)
    frames = np.stack([right, above, lights], axis=1).astype(np.float32)
    every = np.flatnonzero(casts)
    return np.stack([_reached(frame, v, every) for frame in frames], axis=1)


def _reached(frame: np.ndarray, vertices: np.ndarray, casts: np.ndarray) -> np.ndarray:
    """How much of one light reaches vertices [V, 3] past some of them: [V] in [0, 1].

    frame [3, 3]: the directions across and along its shadow map, and towards the light.
    """
    across, along, height = frame @ vertices.T
    scale, last = np.float32(CELLS / (2.0 * HALF)), np.float32(CELLS - 1.001)
    column = np.clip((across + np.float32(HALF)) * scale, 0.0, last)
    row = np.clip((along + np.float32(HALF)) * scale, 0.0, last)
    cell = row.astype(np.int64) * CELLS + column.astype(np.int64)
    top = torch.full((CELLS * CELLS,), -10.0)
    top.scatter_reduce_(0, torch.from_numpy(cell[casts]), torch.from_numpy(height[casts]), "amax")
    tops = top.numpy()
    column, row = np.maximum(column - np.float32(0.5), 0.0), np.maximum(row - np.float32(0.5), 0.0)
    left, upper = column.astype(np.int64), row.astype(np.int64)
    right_share, lower_share = column - left.astype(np.float32), row - upper.astype(np.float32)
    start, limit = upper * CELLS + left, height + np.float32(BIAS)
    blocked = np.zeros_like(height)
    for down, down_share in ((0, 1.0 - lower_share), (CELLS, lower_share)):
        for over, over_share in ((0, 1.0 - right_share), (1, right_share)):
            behind = (tops[start + (down + over)] - limit) * np.float32(1.0 / PENUMBRA)
            blocked += np.clip(behind, 0.0, 1.0) * (down_share * over_share)
    return 1.0 - blocked


def _smoothed(values: np.ndarray, faces: np.ndarray, is_seen: np.ndarray) -> np.ndarray:
    """Values [V, C] averaged with those of neighbours that are seen, SMOOTHINGS times."""
    corners = np.ascontiguousarray(faces.T)
    weight = is_seen.astype(np.float64)
    for _ in range(SMOOTHINGS):
        weighted = np.concatenate([values * weight[:, None], weight[:, None]], axis=1)
        total = sum(weighted[corner] for corner in corners)  # [F, C + 1]
        around = np.stack([sum(np.bincount(i, m, len(values)) for i in corners) for m in total.T], axis=1)
        mean = around[:, :-1] / np.maximum(around[:, -1:], 1e-9)
        values = np.where(is_seen[:, None], 0.5 * values + 0.5 * mean, mean)
        weight = np.maximum(weight, (around[:, -1] > 0) * 1e-3)  # light goes on to what lies deeper
    return values
