"""A simulated annotator that knows heads: it ranks a surface by its distance to the nearest head there could be.

It stands in for a person who looks carefully and is no person; say "simulated" wherever its answers are used. It never
sees a reward, a generator or the head that a sample was meant to be. Five faults cost points out of 10:

- distance: how far the surface lies from that of the nearest head of the head model, along the head's normals.
- angle: between the two surfaces' normals. Grooves, bumps and creases hardly move a surface, but they turn it.
- implausibility: how far the nearest head is from the average one, in standard deviations. Caricatures are near a head
  as well, but near one that nobody has.
- stray: share of the outer surface in other pieces than the largest.
- holes: share of the face near which there is no surface.

The first two are means over the face, each part by the weight that the paper's attributions give it: nose most, then
mouth, cheeks, jaw, brows and chin; eyes, ears and scalp hardly. Hair and glasses are no faults of the face that they
cover: a difference counts up to a bound, and the nearest head is fitted without what lies far away.

Letters: V vertices of the head model, R of them that are looked at, L steps along a normal, K shape codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from eg3d.head_model import HeadModel, Region, load_head_model
from eg3d.representations.sigma_field import SlabFrame

# Weight of a part: its Shapley value in the paper's density reward (shared reference numbers: nose 3.57, mouth 2.14, then
# cheeks, jaw and ears, brow, chin, forehead, eyes about 0), rounded.
PART_WEIGHTS = {"nose": 3.5, "mouth": 2.0, "brow": 1.0, "jaw": 1.0, "eye": 0.5, "face": 1.0}
REGION_WEIGHTS = {Region.SKIN: 1.0, Region.LIPS: 1.0, Region.BROWS: 1.0}
RIGID_DEVIATIONS = (0.01, 0.01, 0.01, 0.03, 0.03, 0.03, 0.03)  # moves (world units), turns (radians), log scale
