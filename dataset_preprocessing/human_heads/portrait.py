"""A portrait as geometry: the closed parts of one head, put together from its code. V vertices, F faces, K numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataset_preprocessing.human_heads.codes import Looks, checked_codes, looks, shape_codes
from dataset_preprocessing.human_heads.glasses import glasses_parts
from dataset_preprocessing.human_heads.hair import hair_parts
from dataset_preprocessing.human_heads.head import head_template
from dataset_preprocessing.human_heads.light import irradiance
from dataset_preprocessing.human_heads.parts import Part, part

KINDS = ("head", "hair", "glasses")  # in the order of a Portrait's `kind`


@dataclass(frozen=True)
class Portrait:
    """The parts of one head in one list of faces."""

    look: Looks
    vertices: np.ndarray  # float64 [V, 3] world units
    faces: np.ndarray  # int64 [F, 3], outwards
    kind: np.ndarray  # int64 [F] index into KINDS
    surface: np.ndarray  # float32 [V, SURFACE]
    normals: np.ndarray  # float32 [V, 3] unit length
    light: np.ndarray  # float32 [V, 2] from the sky, from the key light


def portrait_parts(codes: np.ndarray) -> list[Part]:
    """The closed surfaces of the head with code [K]: head with bust, hair, glasses. Raises ValueError on another K."""
    codes = checked_codes(codes)
    template, look = head_template(), looks(codes)[0]
    vertices = template.vertices(shape_codes(codes))[0]
    eyes, ears = (vertices[ids].mean(axis=1) for ids in (template.eyes, template.ears))
    return [
        part("head", vertices, template.faces, template.surface),
        *hair_parts(template.anchors(vertices), template.rest_anchors, template.centre, look),
        *glasses_parts(vertices, eyes, ears, look),
    ]


def portrait(codes: np.ndarray) -> Portrait:
    """The head with code [K], lit. Raises ValueError on another K."""
    parts = portrait_parts(codes)
    first = np.cumsum([0] + [len(p.vertices) for p in parts])
    vertices = np.concatenate([p.vertices for p in parts])
    faces = np.concatenate([p.faces + start for p, start in zip(parts, first[:-1], strict=True)])
    names = {"head": 0, "hair": 1, "bun": 1, "glasses": 2}
    kind = np.concatenate([np.full(len(p.faces), names[p.name]) for p in parts])
    normals = np.concatenate([p.normals for p in parts])
    look = looks(codes)[0]
    is_seen = ~np.concatenate([p.is_hidden for p in parts])
    casts = np.concatenate([np.full(len(p.vertices), p.name != "glasses") for p in parts])  # too thin for our maps
    light = irradiance(vertices, normals, faces, look, is_seen=is_seen, casts=casts)
    surface = np.concatenate([p.surface for p in parts])
    return Portrait(
        look, vertices, faces, kind, surface.astype(np.float32), normals.astype(np.float32), light.astype(np.float32)
    )
