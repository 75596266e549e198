"""The annotator by rules: it stands in for a person who ranks shapes by the quality of their surface.

No person is involved, and nothing here sees a reward network. The surface is where the raw density of a slab crosses
level 10, seen from the camera's side (high z). Five faults cost points out of 10:

- roughness: mean distance, along the normals, between the visible surface and itself after smoothing over `smoothing`
  world units. Wider detail (nose, lips, eye sockets) survives the smoothing and hardly counts; sharp creases (hairline,
  jaw) are few and fall outside the smoother `counted_share` of the surface, which alone is averaged.
- stray pieces: share of the outer surface that belongs to other pieces than the largest.
- holes: share of the face window without a surface, or with a pit deeper than `pit_depth`, plus a cost for every tunnel
  through the head.
- unnatural relief: how far the relief of the face window (its depth map around the best-fitting quadratic, which takes
  a round blob away) stays below `relief_wanted`, as without a nose, or goes beyond `relief_most`, as in a caricature.
- asymmetry: mean difference, in depth, between the wider face and its mirror image.

What is left is multiplied by the share of the face window that shows a surface.

Limits. Roughness below `roughness_floor` is free and missing relief costs points, so that neither an inflated blob nor
a head with its features smoothed away wins. The scales are of smooth, symmetric heads: nine in ten of the head model's
portraits have a roughness of 0.0003 to 0.0006 (at 64 points a side), a relief of 0.0085 to 0.012, an asymmetry up to
0.004 and a score of 7.9 to 9.3. It is a rule with fixed scales: it knows nothing of faces, and a smooth, symmetric
shape with a bump in the window may outrank a likeness.
Say "simulated" wherever its answers are used.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
from torch import Tensor

from eg3d.representations.sigma_field import SlabFrame
from reward_model_training.preferences.annotators.pieces import OuterSurface, outer_surface
from reward_model_training.preferences.annotators.protocol import (
    BEST_SCORE,
    WORST_SCORE,
    Annotator,
    AnnotatorConfig,
    Judgement,
    as_slab,
)
from reward_model_training.preferences.annotators.registry import annotator

AVERAGING = 0.5  # of a smoothing step: how far a vertex goes towards the mean of its neighbours
MEAN_SQUARED_EDGE = 1.07  # voxels squared, of marching-cubes meshes


@dataclass
class RulesConfig(AnnotatorConfig):
    """What the annotator by rules looks at, and how much each fault costs.

    A fault x costs weight * x / (x + half), in points of 10: half of its weight at x = half, never more than all of it.
    """

    name: str = "rules"
    level: float = 10.0  # raw density of the surface
    smoothing: float = 0.016  # world units, standard deviation; waves shorter than four times this are roughness
    counted_share: float = 0.7  # of the visible surface, the smoother part; creases (hairline, jaw) fall outside
    roughness_floor: float = 0.0004  # world units; below it a surface is simply smooth
    roughness_half: float = 0.0006  # world units
    stray_half: float = 0.03  # share of the outer surface
    holes_half: float = 0.03  # share of the face window
    relief_wanted: float = 0.009  # world units, standard deviation over the face window
    relief_most: float = 0.017  # world units; above it, features are exaggerated
    relief_half: float = 0.003  # world units beyond relief_most
    asymmetry_floor: float = 0.001  # world units; below it, halves are the same
    asymmetry_half: float = 0.004  # world units
    roughness_weight: float = 4.0  # points
    stray_weight: float = 1.0  # points
    holes_weight: float = 1.0  # points
    relief_weight: float = 2.0  # points
    asymmetry_weight: float = 2.0  # points
    tunnel_cost: float = 0.01  # share of the face window that a tunnel counts as
    pit_depth: float = 0.05  # world units
    pit_width: float = 0.11  # world units; a wider dip is shape
    window_x: tuple[float, float] = (0.25, 0.75)  # face window, fractions of the slab
    window_y: tuple[float, float] = (0.3, 0.75)
    wide_x: tuple[float, float] = (0.2, 0.8)  # where halves are compared; must be symmetric
    wide_y: tuple[float, float] = (0.25, 0.85)
    largest_difference: float = 0.03  # world units between halves; an edge seen from one side only counts no more

    def validate(self) -> list[str]:
        lengths = ("smoothing", "relief_wanted", "pit_depth", "pit_width")
        halves = tuple(f.name for f in fields(self) if f.name.endswith("_half"))
        positive = (*lengths, *halves, "relief_most", "counted_share", "largest_difference")
        faults = super().validate()
        faults += [f"{n}: must be above 0, got {getattr(self, n)}" for n in positive if not getattr(self, n) > 0]
        weights = [f.name for f in fields(self) if f.name.endswith("_weight")]
        faults += [f"{n}: must be 0 or more, got {getattr(self, n)}" for n in weights if not getattr(self, n) >= 0]
        total = sum(getattr(self, n) for n in weights)
        if abs(total - BEST_SCORE) > 1e-6:
            faults.append(f"{', '.join(weights)}: must add up to {BEST_SCORE:g} points, got {total:g}")
        if self.counted_share > 1:
            faults.append(f"counted_share: must be at most 1, got {self.counted_share}")
        for name in ("window_x", "window_y", "wide_x", "wide_y"):
            low, high = getattr(self, name)
            if not 0 <= low < high <= 1:
                faults.append(f"{name}: expected two rising fractions of the slab, got {low}, {high}")
        if abs(sum(self.wide_x) - 1) > 1e-6:
            faults.append(f"wide_x: {self.wide_x[0]}, {self.wide_x[1]} is not symmetric around 0.5")
        if self.relief_most < self.relief_wanted:
            faults.append(f"relief_most: {self.relief_most} is below relief_wanted {self.relief_wanted}")
        return faults


@dataclass(frozen=True)
class SurfaceScore:
    """Faults of one surface (0 = none) and the score they leave, 0 (worst, no surface) to 10 (best)."""

    roughness: float  # world units
    stray: float  # share of the outer surface, 0 to 1
    holes: float  # share of the face window, tunnels counted in, 0 to 1
    score: float  # points, higher = better
    relief: float = 0.0  # world units
    asymmetry: float = 0.0  # world units


NO_SURFACE = SurfaceScore(roughness=float("inf"), stray=1.0, holes=1.0, score=WORST_SCORE)


def surface_quality(
    volume: np.ndarray | Tensor, cfg: RulesConfig | None = None, *, voxel: float = 1 / 63
) -> SurfaceScore:
    """Judge the surface in a slab of raw density [X, Y, Z] whose grid points are `voxel` world units apart.

    The same volume always gives the same numbers. Without a surface (nothing crosses the level, or values are not
    finite) the answer is NO_SURFACE, the worst there is. Raises ValueError for another shape.
    """
    cfg = cfg or RulesConfig()
    values = as_slab(volume)
    found = outer_surface(values, cfg.level)
    if found is None:
        return NO_SURFACE
    roughness = _judge_mesh(found, values.shape, cfg, voxel)
    height = _front_height(values, cfg.level) * voxel
    gaps, relief = _judge_window(height, cfg, voxel)
    asymmetry = _asymmetry(height, cfg)
    holes = min(1.0, gaps + cfg.tunnel_cost * found.num_tunnels)
    score = _score(roughness, found.stray, holes, relief, asymmetry, cfg) * (1.0 - gaps)
    return SurfaceScore(roughness, found.stray, holes, score, relief, asymmetry)


@annotator(RulesConfig)
class RulesAnnotator(Annotator):
    """`surface_quality` as an annotator; it does not mind where the slab lies."""

    columns: ClassVar = ("roughness", "stray", "holes", "relief", "asymmetry")

    def __init__(self, cfg: RulesConfig | None = None) -> None:
        super().__init__(cfg or RulesConfig())
        self.cfg: RulesConfig

    def judge(self, volume: np.ndarray | Tensor, frame: SlabFrame) -> Judgement:
        """surface_quality of a slab of raw density [X, Y, Z] with this annotator's settings."""
        found = surface_quality(volume, self.cfg, voxel=frame.voxel)
        return Judgement(found.score, {name: getattr(found, name) for name in self.columns})


def _score(roughness: float, stray: float, holes: float, relief: float, asymmetry: float, cfg: RulesConfig) -> float:
    missing = max(0.0, 1.0 - relief / cfg.relief_wanted)
    cost = cfg.roughness_weight * _share(roughness - cfg.roughness_floor, cfg.roughness_half)
    cost += cfg.stray_weight * _share(stray, cfg.stray_half)
    cost += cfg.holes_weight * _share(holes, cfg.holes_half)
    cost += cfg.relief_weight * (missing + _share(relief - cfg.relief_most, cfg.relief_half))
    cost += cfg.asymmetry_weight * _share(asymmetry - cfg.asymmetry_floor, cfg.asymmetry_half)
    return float(np.clip(BEST_SCORE - cost, WORST_SCORE, BEST_SCORE))


def _share(excess: float, half: float) -> float:
    """Part of a weight that a fault costs, 0 to 1: a half at excess = half; nothing below 0."""
    return max(0.0, excess) / (max(0.0, excess) + half)


def _judge_mesh(found: OuterSurface, shape: tuple[int, ...], cfg: RulesConfig, voxel: float) -> float:
    """Roughness of the visible part of the main piece (world units)."""
    difference = _roughness(found.vertices, found.neighbours, length=cfg.smoothing / voxel)
    distance = np.abs((difference * found.normals).sum(1))
    upper = np.array(shape) - 2  # the cut through the neck and the back is no surface
    is_seen = found.is_main & (found.normals[:, 2] > 0.1) & ((found.vertices > 1) & (found.vertices < upper)).all(1)
    weight = found.areas * is_seen
    if weight.sum() <= 0:
        return cfg.smoothing
    return _mean_of_smaller(distance, weight, cfg.counted_share) * voxel


def _mean_of_smaller(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Weighted mean of the smaller values, `share` of the total weight: a few sharp creases do not decide it."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    kept = np.minimum(total, share * total[-1])
    return float((values[order] * np.diff(kept, prepend=0.0)).sum() / kept[-1])


def _roughness(vertices: np.ndarray, neighbours, *, length: float) -> np.ndarray:
    """Vertices minus their smoothed selves [V, 3], voxels; `length` is the standard deviation of the smoothing.

    S is Gaussian-like (repeated averaging over neighbours). What S takes away is smoothed once more and given back, so
    the difference is (1 - S)(1 - S): a plain average would also flatten, and so count, every curved place.
    """
    steps = max(1, round(2 * length**2 / (AVERAGING * MEAN_SQUARED_EDGE / 2)))
    difference = vertices
    for _ in range(2):
        smooth = difference
        for _ in range(steps):
            smooth = smooth + AVERAGING * (neighbours @ smooth - smooth)
        difference = difference - smooth
    return difference


def _judge_window(height: np.ndarray, cfg: RulesConfig, voxel: float) -> tuple[float, float]:
    """Share of the face window without a surface or with a deep narrow pit, and the relief there (world units).

    height [X, Y]: world units from the back of the slab, negative where there is no surface.
    """
    from scipy import ndimage

    is_missing = height < 0
    side = max(3, 2 * round(cfg.pit_width / voxel / 2) + 1)
    closed = ndimage.grey_closing(height, size=(side, side), mode="nearest")
    is_gap = is_missing | (closed - height > cfg.pit_depth)
    window = _window(height, cfg.window_x, cfg.window_y)
    gaps = float(is_gap[window].mean())
    return gaps, _relief(height[window][..., None], ~is_gap[window]) if gaps < 0.5 else 0.0


def _window(height: np.ndarray, x: tuple[float, float], y: tuple[float, float]) -> tuple[slice, slice]:
    columns, rows = (
        slice(int(low * n), max(int(low * n) + 1, n - int((1 - high) * n)))
        for (low, high), n in zip((x, y), height.shape, strict=True)
    )
    return columns, rows


def _asymmetry(height: np.ndarray, cfg: RulesConfig) -> float:
    """Mean |height - its mirror image| where both halves have a surface, each difference bounded; world units.

    The slab's crop is symmetric in x, so that its mirror plane is the head's.
    """
    wide = height[_window(height, cfg.wide_x, cfg.wide_y)]
    both = (wide >= 0) & (wide[::-1] >= 0)
    if not both.any():
        return 0.0
    return float(np.minimum(np.abs(wide - wide[::-1]), cfg.largest_difference)[both].mean())


def _relief(height: np.ndarray, is_surface: np.ndarray) -> float:
    """Standard deviation of a height map around the polynomial of degree 2 that fits it best: 0 for a round blob."""
    x, y = (np.linspace(-1, 1, n) for n in height.shape[:2])
    x, y = (grid[is_surface] for grid in np.meshgrid(x, y, indexing="ij"))
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    h = height[is_surface].reshape(-1)
    fit, *_ = np.linalg.lstsq(terms, h, rcond=None)
    return float((h - terms @ fit).std())


def _front_height(values: np.ndarray, level: float) -> np.ndarray:
    """Where a ray along -z first crosses the level, [X, Y] in voxels from the back of the slab; -1 = never."""
    inside = values >= level
    first = values.shape[2] - 1 - inside[:, :, ::-1].argmax(2)
    is_hit = inside.any(2)
    at = np.take_along_axis(values, first[..., None], 2)[..., 0].astype(np.float64)
    before = np.take_along_axis(values, np.minimum(first + 1, values.shape[2] - 1)[..., None], 2)[..., 0]
    share = np.where(before < level, (at - level) / np.maximum(at - before, 1e-12), 0.0)
    return np.where(is_hit, first + share, -1.0)
