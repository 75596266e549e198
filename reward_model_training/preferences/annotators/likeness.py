"""The annotator that knows heads: it ranks a surface by its distance to the nearest head that there could be.

It stands in for a person who looks carefully and is no person; say "simulated" wherever its answers are used. It never
sees a reward, a generator, or the head that a sample was meant to be. Five faults cost points out of 10:

- distance: how far the surface lies from that of the nearest head of the head model, along that head's normals.
- angle: between the two surfaces. Grooves, bumps and creases hardly move a surface, but they turn it.
- implausibility: how far the nearest head is from the average one, in standard deviations. A caricature is near a head
  too, but near one that hardly anybody has.
- stray: share of the outer surface in pieces that float beside the largest.
- holes: share of the face near which there is no surface.

The first two are means over the face, each part by the weight that the paper's attributions give it (nose most, then
mouth, cheeks and the rest; eyes hardly, the scalp not at all). Hair and glasses are no faults of the face that they
cover: a difference counts up to `reach`, and the nearest head is fitted to what is near. Head and surface may differ by
a small move, turn and scale, which costs nothing.

Letters: V vertices of the head model, R of them that are looked at, L steps along a normal, K shape codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eg3d.head_model import HeadModel, Region, load_head_model
from eg3d.raster import area_normals
from eg3d.representations.sigma_field import SlabFrame
from reward_model_training.preferences.annotators.pieces import outer_surface
from reward_model_training.preferences.annotators.protocol import (
    BEST_SCORE,
    WORST_SCORE,
    Annotator,
    AnnotatorConfig,
    Judgement,
    as_slab,
)
from reward_model_training.preferences.annotators.registry import annotator

# Weight of a part of the face by its nearest landmark (iBUG's 68 points): the Shapley values of the paper's density
# reward, rounded (nose 3.6, mouth 2.1, then cheeks, jaw, brows and chin; forehead less, eyes about 0).
LANDMARK_WEIGHTS = (
    (range(0, 17), 1.0), (range(17, 27), 1.0), (range(27, 36), 3.5), (range(36, 48), 0.5), (range(48, 68), 2.0),
)  # fmt: skip
LANDMARK_REACH = 0.06  # world units: what is farther from every landmark is cheek, of weight 1, or forehead
FOREHEAD_WEIGHT = 0.3
LOOKED_AT = (Region.SKIN, Region.LIPS, Region.BROW)
HAIR_RISE = 0.012  # world units: outside the core of the face, what lies so far above the nearest head is hair
VIEWS = np.array(
    [[np.sin(yaw), 0.0, np.cos(yaw)] for yaw in (-0.9, 0.0, 0.9)]
)  # directions towards the eyes of a person
BENT, FLAT = 0.85, 0.95  # length of the mean normal of a patch that cannot be compared, and of one that can
CORE_X = 0.8  # of half the distance between the ears: what lies nearer to the middle, from brows to chin, is the core
MOVE, TURN, SCALE = 0.02, 0.05, 0.04  # standard deviations of the free motion: world units, radians, of the log
FIT_STEPS = 6
NOISE, OBSERVATIONS = (
    0.006,
    400.0,
)  # world units that a fit is wrong by, and how many independent points a face is worth


@dataclass
class LikenessConfig(AnnotatorConfig):
    """What the annotator that knows heads looks at, and how much each fault costs.

    A fault x costs weight * e / (e + half) points for its excess e over the floor: half of its weight at e = half.
    """

    name: str = "likeness"
    level: float = 10.0  # raw density of the surface
    num_codes: int = 64  # shape codes of the nearest head
    reach: float = 0.05  # world units; a larger difference counts as this, and nothing nearer is a hole
    distance_floor: float = 0.0009  # world units; floors are what true heads have, at 64 points a side
    distance_half: float = 0.002  # world units
    distance_weight: float = 2.0  # points
    angle_floor: float = 0.12  # radians
    angle_half: float = 0.1  # radians
    angle_weight: float = 3.0  # points
    implausibility_floor: float = 0.42  # standard deviations
    implausibility_half: float = 0.25  # standard deviations
    implausibility_weight: float = 3.0  # points
    stray_floor: float = 0.0005  # share of the outer surface
    stray_half: float = 0.02  # share of the outer surface
    stray_weight: float = 1.0  # points
    holes_floor: float = 0.05  # share of the face; thin lips of open mouths leave no surface at 64 points a side
    holes_half: float = 0.1  # share of the face
    holes_weight: float = 1.0  # points

    def validate(self) -> list[str]:
        faults = super().validate()
        positive = ("reach", *(f"{name}_half" for name in FAULTS))
        faults += [f"{n}: must be above 0, got {getattr(self, n)}" for n in positive if not getattr(self, n) > 0]
        weights = [f"{name}_weight" for name in FAULTS]
        faults += [f"{n}: must be 0 or more, got {getattr(self, n)}" for n in weights if not getattr(self, n) >= 0]
        total = sum(getattr(self, n) for n in weights)
        if abs(total - BEST_SCORE) > 1e-6:
            faults.append(f"{', '.join(weights)}: must add up to {BEST_SCORE:g} points, got {total:g}")
        if not 1 <= self.num_codes <= load_head_model().num_components:
            faults.append(f"num_codes: must be 1 to {load_head_model().num_components}, got {self.num_codes}")
        return faults


NO_SURFACE = {"distance": 1.0, "angle": float(np.pi), "implausibility": 0.0, "stray": 1.0, "holes": 1.0}
FAULTS = ("distance", "angle", "implausibility", "stray", "holes")


class _Probe(NamedTuple):
    """What lies along the normals of R vertices."""

    offset: np.ndarray  # [R] world units outward to the surface that is nearest; NaN without one within reach
    is_inside: np.ndarray  # [R] whether the vertex lies in the slab at all
    is_buried: np.ndarray  # [R] whether there is matter even at the far end


class _Slab:
    """A slab of raw density to be looked at from anywhere."""

    def __init__(self, values: np.ndarray, frame: SlabFrame, level: float) -> None:
        self.values, self.frame, self.level = values, frame, level
        self._gradient: list[np.ndarray] | None = None

    def indices(self, points: np.ndarray) -> np.ndarray:
        """World points [..., 3] as fractional indices."""
        return (points - np.asarray(self.frame.origin)) / self.frame.voxel

    def contains(self, points: np.ndarray) -> np.ndarray:
        """bool [...]."""
        at = self.indices(points)
        return np.asarray(((at >= 0) & (at <= np.array(self.values.shape) - 1)).all(-1))

    def probe(self, points: np.ndarray, normals: np.ndarray, reach: float) -> _Probe:
        """Where the lines through points [R, 3] along normals [R, 3] leave the matter, nearest to the points.

        Only what faces outward counts: matter behind, air before.
        """
        steps = 2 * int(np.ceil(reach / (0.5 * self.frame.voxel))) + 1
        t = np.linspace(-reach, reach, steps)
        density = self._sample(self.values, points[:, None] + t[:, None] * normals[:, None]) - self.level
        before, after = density[:, :-1], density[:, 1:]
        is_exit = (before >= 0) & (after < 0)
        share = np.divide(before, before - after, out=np.zeros_like(before), where=is_exit)
        at = np.where(is_exit, t[:-1] + share * (t[1] - t[0]), np.inf)
        nearest = np.take_along_axis(at, np.abs(at).argmin(1)[:, None], 1)[:, 0]
        return _Probe(np.where(np.isfinite(nearest), nearest, np.nan), self.contains(points), density[:, -1] >= 0)

    def normals(self, points: np.ndarray) -> np.ndarray:
        """Unit outward normals of the density at points [R, 3]: against its gradient."""
        if self._gradient is None:
            self._gradient = [-part for part in np.gradient(self.values)]
        found = np.stack([self._sample(part, points) for part in self._gradient], axis=-1)
        return found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12)

    def _sample(self, volume: np.ndarray, points: np.ndarray) -> np.ndarray:
        from scipy.ndimage import map_coordinates

        at = np.moveaxis(self.indices(points), -1, 0)
        return map_coordinates(volume, at.reshape(3, -1), order=1, mode="nearest").reshape(at.shape[1:])


class _Fit(NamedTuple):
    """The nearest head."""

    vertices: np.ndarray  # [V, 3] world units
    codes: np.ndarray  # [K] standard deviations


@annotator(LikenessConfig)
class LikenessAnnotator(Annotator):
    """Scores surfaces by their distance to the nearest head of the head model."""

    columns: ClassVar = FAULTS

    def __init__(self, cfg: LikenessConfig | None = None) -> None:
        super().__init__(cfg or LikenessConfig())
        self.cfg: LikenessConfig
        self._heads = _basis(self.cfg.num_codes)

    def judge(self, volume: np.ndarray | Tensor, frame: SlabFrame) -> Judgement:
        """Score and faults of a slab of raw density [X, Y, Z] that lies where `frame` says."""
        cfg, values = self.cfg, as_slab(volume)
        found = outer_surface(values, cfg.level)
        if found is None:
            return Judgement(WORST_SCORE, dict(NO_SURFACE))
        slab = _Slab(values, frame, cfg.level)
        fit = self._nearest_head(slab)
        faults = {**self._differences(slab, fit), "stray": found.floating}
        faults["implausibility"] = float(np.sqrt((fit.codes**2).mean()))
        excess = {name: max(0.0, faults[name] - getattr(cfg, f"{name}_floor")) for name in FAULTS}
        cost = sum(
            getattr(cfg, f"{name}_weight") * value / (value + getattr(cfg, f"{name}_half"))
            for name, value in excess.items()
        )
        score = (BEST_SCORE - cost) * (1.0 - excess["holes"])
        return Judgement(float(np.clip(score, WORST_SCORE, BEST_SCORE)), {name: faults[name] for name in FAULTS})

    def _nearest_head(self, slab: _Slab) -> _Fit:
        """Ridge least squares of codes and of a small motion to the surface, by a few rounds of nearest points."""
        heads, index = self._heads, self._heads.looked_at
        codes, motion, num = np.zeros(self.cfg.num_codes), np.zeros(7), self.cfg.num_codes
        prior = np.concatenate([np.ones(num), np.repeat(1 / np.array([MOVE, TURN, SCALE]) ** 2, (3, 3, 1))])
        for step in range(FIT_STEPS):
            vertices = _moved(heads.shape(codes), motion)
            normals, seen = heads.appearance(vertices)
            probe = slab.probe(vertices[index], normals, self.cfg.reach)
            is_used = self._counts(probe) & np.isfinite(probe.offset)
            if is_used.sum() < 10:
                break
            offset, rows = probe.offset[is_used], index[is_used]
            bound = 2 * self.cfg.reach / (2 + step)  # what is far is hair, glasses or a floater, the surer the later
            weight = (heads.weights * seen)[is_used] / (1 + (2 * offset / bound) ** 2)
            weight *= OBSERVATIONS / (weight.sum() * NOISE**2)
            normal = normals[is_used]
            design = np.concatenate(
                [np.einsum("rc,krc->rk", normal, heads.components[:, rows]), _motions(vertices[rows], normal)], axis=1
            )
            now = np.concatenate([codes, motion])
            left = (design * weight[:, None]).T @ design + np.diag(prior)
            now = np.linalg.solve(left, (design * weight[:, None]).T @ (offset + design @ now))
            codes, motion = now[:num], now[num:]
        return _Fit(_moved(heads.shape(codes), motion), codes)

    def _counts(self, probe: _Probe) -> np.ndarray:
        """bool [R]: vertices in the slab that no hair hides."""
        rise = np.nan_to_num(probe.offset, nan=0.0)
        return probe.is_inside & ~(self._heads.may_be_hidden & (probe.is_buried | (rise > HAIR_RISE)))

    def _differences(self, slab: _Slab, fit: _Fit) -> dict[str, float]:
        """Weighted means over the face of distance (world units) and angle (radians), and the share without surface."""
        cfg, heads, index = self.cfg, self._heads, self._heads.looked_at
        points, (normals, seen) = fit.vertices[index], heads.appearance(fit.vertices)
        probe = slab.probe(points, normals, cfg.reach)
        weight = np.where(self._counts(probe), heads.weights * seen, 0.0)
        if not weight.sum() > 0:
            return {"distance": cfg.reach, "angle": float(np.pi), "holes": 1.0}
        is_there = np.isfinite(probe.offset)
        holes = 1.0 - float(weight[is_there].sum() / weight.sum())
        if holes > 0.99:
            return {"distance": cfg.reach, "angle": float(np.pi), "holes": 1.0}
        offset, weight, normals = probe.offset[is_there], weight[is_there], normals[is_there]
        cosine = (slab.normals(points[is_there] + offset[:, None] * normals) * normals).sum(1)
        distance = float(np.average(np.abs(offset), weights=weight))
        angle = float(np.average(np.arccos(np.clip(cosine, -1, 1)), weights=weight))
        return {"distance": distance, "angle": angle, "holes": holes}


@dataclass(frozen=True)
class _Basis:
    """A head model in numpy, with what the annotator looks at of it."""

    mean: np.ndarray  # [V, 3] world units
    components: np.ndarray  # [K, V, 3] world units a standard deviation
    faces: np.ndarray  # [F, 3]
    looked_at: np.ndarray  # [R] vertex indices
    weights: np.ndarray  # [R] area times the part's weight
    may_be_hidden: np.ndarray  # [R] bool: where hair may grow or hang
    around: Any  # scipy CSR [R, V]: the mean over the neighbours' neighbours

    def shape(self, codes: np.ndarray) -> np.ndarray:
        """Vertices [V, 3] of one head."""
        return self.mean + np.tensordot(codes, self.components, 1)

    def appearance(self, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unit normals [R, 3] of a head of vertices [V, 3], and how well each vertex is seen [R], 0 to 1.

        Normals are those of a patch as wide as a slab's voxels. What bends within one (creases, open lips, nostrils) or
        looks away from VIEWS, is seen less.
        """
        normals = area_normals(vertices, self.faces)
        mean, area = self.around @ normals, self.around @ np.linalg.norm(normals, axis=1)
        flatness = np.linalg.norm(mean, axis=1) / np.maximum(area, 1e-12)
        normals = _unit(mean)
        seen = np.maximum(normals @ VIEWS.T, 0).mean(1)
        return normals, seen * np.clip((flatness - BENT) / (FLAT - BENT), 0, 1)


@lru_cache(maxsize=4)
def _basis(num_codes: int) -> _Basis:
    model = load_head_model()
    with torch.no_grad():
        heads = model.vertices(torch.cat([torch.zeros(1, num_codes), torch.eye(num_codes)])).double().numpy()
    mean, faces = heads[0], np.asarray(model.faces)
    area = np.linalg.norm(area_normals(mean, faces), axis=1)
    weights = area * _part_weights(model, mean)
    looked_at = np.nonzero(weights)[0]
    hidden = _may_be_hidden(mean[looked_at], mean[np.asarray(model.landmarks(68))])
    around = _neighbourhoods(faces, len(mean))
    around = (around @ around)[looked_at]
    return _Basis(mean, heads[1:] - mean, faces, looked_at, weights[looked_at], hidden, around)


def _neighbourhoods(faces: np.ndarray, num_vertices: int) -> Any:
    """Row-normalised matrix [V, V], scipy CSR: the mean over a vertex and its neighbours."""
    from scipy.sparse import coo_array, csr_array, diags_array, eye_array

    corners, others = faces[:, [0, 1, 2]].reshape(-1), faces[:, [1, 2, 0]].reshape(-1)
    edges = coo_array((np.ones(len(corners)), (corners, others)), shape=(num_vertices, num_vertices))
    graph = csr_array(((edges + edges.T) > 0).astype(float) + eye_array(num_vertices))
    return diags_array(1 / graph.sum(1)) @ graph


def _part_weights(model: HeadModel, mean: np.ndarray) -> np.ndarray:
    """Weight [V] of the part that each vertex belongs to; 0 for what is not looked at."""
    from scipy.spatial import cKDTree

    marks = mean[np.asarray(model.landmarks(68))]
    by_mark = np.empty(68)
    for indices, value in LANDMARK_WEIGHTS:
        by_mark[list(indices)] = value
    distance, nearest = cKDTree(marks).query(mean)
    elsewhere = np.where(mean[:, 1] > marks[17:27, 1].max(), FOREHEAD_WEIGHT, 1.0)
    weight = np.where(distance < LANDMARK_REACH, by_mark[nearest], elsewhere)
    region = np.asarray(model.region)
    is_looked_at = np.isin(region, [int(part) for part in LOOKED_AT])
    is_front = mean[:, 2] > marks[:17, 2].min() - 0.02  # from the ears forward
    return np.where(is_looked_at & is_front, weight, 0.0)


def _may_be_hidden(points: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """bool [R]: points [R, 3] of the average head outside the core of the face, whose landmarks are marks [68, 3]."""
    return (points[:, 1] > marks[17:27, 1].min()) | (np.abs(points[:, 0]) > CORE_X * np.abs(marks[[0, 16], 0]).mean())


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _moved(points: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """points [V, 3] turned and scaled about the origin, and moved; motion [7]: move, rotation vector, log scale."""
    from scipy.spatial.transform import Rotation

    return np.exp(motion[6]) * Rotation.from_rotvec(motion[3:6]).apply(points) + motion[:3]


def _motions(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """How the offset of points [R, 3] along their normals follows a small motion, [R, 7]."""
    return np.concatenate([normals, np.cross(points, normals), (points * normals).sum(1, keepdims=True)], axis=1)
