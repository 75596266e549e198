"""Principal components of heads and their mirror images, and how well they reach heads they have not seen.

A mirrored data set has symmetric and antisymmetric components, so that these two halves are analysed on their own.
Shape letters: N heads, V vertices, K components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from eg3d.head_model import Region

# What a vertex counts in the analysis; those of the face count 1.
WEIGHTS = {
    Region.SCALP: 0.5,
    Region.EAR: 0.4,  # of many small triangles
    Region.EYE_WHITE: 0.7,
    Region.IRIS: 0.7,
    Region.PUPIL: 0.7,
    Region.NECK: 0.3,
    Region.BUST: 0.05,
    Region.MOUTH: 0.2,
    Region.SOCKET: 0.2,
    Region.BASE: 0.005,
}
NOT_MEASURED = (Region.NECK, Region.BUST, Region.BASE, Region.MOUTH, Region.SOCKET)
PERCENTILE = 99


@dataclass(frozen=True)
class Components:
    """Mean [V, 3] and shifts [K, V, 3] at a code of 1, the largest first; float64, world units."""

    mean: np.ndarray
    shifts: np.ndarray


@dataclass(frozen=True)
class Figure:
    """What a number of components leaves of heads that were not in the analysis."""

    num_components: int
    rms_mm: float
    percentile_mm: float  # 99th, of the distances of single vertices


def vertex_weights(region: np.ndarray) -> np.ndarray:
    """Weights [V]."""
    return np.array([WEIGHTS.get(Region(int(value)), 1.0) for value in region])


def analyse(heads: np.ndarray, mirror: np.ndarray, weights: np.ndarray, num_components: int) -> Components:
    """Components of heads [N, V, 3] and their mirror images; weights [V] of the vertices."""
    flipped = heads[:, mirror] * np.array([-1.0, 1.0, 1.0])
    even, odd = (heads + flipped) / 2, (heads - flipped) / 2
    mean = even.mean(axis=0)
    halves = [_half(part, weights, num_components) for part in (even - mean, odd)]
    variances = np.concatenate([variance for variance, _ in halves])
    shifts = np.concatenate([shift for _, shift in halves])
    order = np.argsort(-variances, kind="stable")[:num_components]
    return Components(mean, shifts[order])


def _half(centred: np.ndarray, weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Weighted variances [k] and shifts [k, V, 3] of one half, by its Gram matrix."""
    rows = (centred * np.sqrt(weights)[:, None]).reshape(len(centred), -1)
    num = len(rows)
    variance, vectors = scipy.linalg.eigh(rows @ rows.T / num, subset_by_index=[max(num - count, 0), num - 1])
    variance, vectors = variance[::-1], vectors[:, ::-1]
    is_there = variance > 1e-12 * variance[0]
    variance, vectors = variance[is_there], vectors[:, is_there]
    # rows = sqrt(num) U S V': a code of 1 is U' rows / sqrt(num), and the same sum of the unweighted heads
    shifts = np.tensordot(vectors.T, centred, axes=1) / np.sqrt(num)
    largest = np.abs(shifts).reshape(len(shifts), -1).argmax(axis=1)
    signs = np.sign(shifts.reshape(len(shifts), -1)[np.arange(len(shifts)), largest])
    return variance, shifts * signs[:, None, None]


def quantised(components: Components, num_fine: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int16 [num_fine, V, 3], int8 [K - num_fine, V, 3] and scales float32 [K] of the shifts."""
    steps = np.where(np.arange(len(components.shifts)) < num_fine, 32767, 127)
    scales = (np.abs(components.shifts).max(axis=(1, 2)) / steps).astype(np.float32)
    whole = np.rint(components.shifts / scales[:, None, None].astype(np.float64)).clip(-32767, 32767)
    return whole[:num_fine].astype(np.int16), whole[num_fine:].clip(-127, 127).astype(np.int8), scales


def codes_of(heads: np.ndarray, components: Components, weights: np.ndarray) -> np.ndarray:
    """Codes [N, K] of heads [N, V, 3], by weighted least squares."""
    root = np.sqrt(weights)[:, None]
    basis = (components.shifts * root).reshape(len(components.shifts), -1)
    wanted = ((heads - components.mean) * root).reshape(len(heads), -1)
    return scipy.linalg.solve(basis @ basis.T, basis @ wanted.T, assume_a="pos").T


def figures(
    heads: np.ndarray, components: Components, region: np.ndarray, mm_per_unit: float, counts: Sequence[int]
) -> list[Figure]:
    """What is left of heads [N, V, 3] on the head itself, without neck and shoulders and what is inside."""
    weights, measured = vertex_weights(region), ~np.isin(region, NOT_MEASURED)
    found = []
    for count in counts:
        part = Components(components.mean, components.shifts[:count])
        codes = codes_of(heads, part, weights)
        made = part.mean[measured] + np.tensordot(codes, part.shifts[:, measured], axes=1)
        distances = np.linalg.norm(made - heads[:, measured], axis=-1) * mm_per_unit
        rms = float(np.sqrt(np.square(distances).mean()))
        found.append(Figure(count, rms, float(np.percentile(distances, PERCENTILE))))
    return found
