"""Shapes of human heads: a mean and its components, as one small file that the project ships.

World frame as everywhere: y up, the face towards +z, the subject's left at +x, in the box [-0.5, 0.5]^3 but for the
ends of some shoulders; eyes and mouth lie where FFHQ's crops put them. A code is in standard deviations: N(0, I) are
people as the model knows them, expressions included.
Faces turn counter-clockwise seen from outside; skin with its wall and base is one closed part, each eyeball another.
Shape letters: N heads, K components, V vertices, F triangles, M points.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eg3d.checkpoints.manifest import MANIFEST, resolve
from eg3d.head_fit import FitConfig, Motion, Shape, fit_points
from eg3d.head_model_file import HeadArrays, read_head_arrays

SHIPPED_NAME = "head_model"  # in checkpoints/manifest.json


class Region(IntEnum):
    """What a vertex belongs to."""

    SKIN = 0
    LIPS = 1
    EYE_WHITE = 2
    IRIS = 3
    PUPIL = 4
    BROW = 5
    SCALP = 6
    EAR = 7
    NECK = 8
    BUST = 9  # below the neck
    MOUTH = 10  # inside, behind the lips
    SOCKET = 11  # inside the eyelids, around the eyeballs
    BASE = 12  # the wall and the flat end below, not part of a person


NOT_FITTED = (Region.MOUTH, Region.SOCKET, Region.BUST, Region.BASE)  # what a picture or a density does not show


@dataclass(frozen=True)
class SurfaceFit:
    """A head model fitted to M points; lengths in world units."""

    code: Tensor  # [K'] standard deviations
    motion: Motion  # takes the head of this code to the points
    distances: Tensor  # [M] from the surface; from the nearest vertex for points that do not count
    is_counted: Tensor  # bool [M]: near enough, and facing the same way
    residual: float  # root mean square of the distances that count


class HeadModel:
    """Head shapes by code. Tensors are float32 on the CPU; `to` is a matter of the caller's codes."""

    def __init__(self, arrays: HeadArrays, card: dict[str, Any]) -> None:
        self.card = card  # recipe, seed, sources, licences, figures
        self.faces = torch.from_numpy(arrays.faces.astype(np.int64))  # [F, 3]
        self.region = torch.from_numpy(arrays.region.astype(np.int64))  # [V] values of Region
        self.mirror = torch.from_numpy(arrays.mirror.astype(np.int64))  # [V]
        self.mean = torch.from_numpy(np.array(arrays.mean))  # [V, 3] world units
        whole = np.concatenate([arrays.components_16.astype(np.float32), arrays.components_8.astype(np.float32)])
        self.components = torch.from_numpy(whole * arrays.scales[:, None, None])  # [K, V, 3] world units at a code of 1
        self._shapes: dict[tuple[tuple[int, ...], int], Shape] = {}
        self._landmarks = {
            68: torch.from_numpy(arrays.landmarks_68.astype(np.int64)),
            98: torch.from_numpy(arrays.landmarks_98.astype(np.int64)),
        }

    @property
    def num_components(self) -> int:
        """The most numbers a code may have."""
        return len(self.components)

    @property
    def num_vertices(self) -> int:
        """V."""
        return len(self.mean)

    @property
    def mm_per_unit(self) -> float:
        """Millimetres of a world unit on an adult of average size."""
        return float(self.card["mm_per_unit"])

    def vertices(self, codes: Tensor) -> Tensor:
        """codes [N, K'] of standard deviations, K' <= K (the rest is 0) -> vertices [N, V, 3] in world units.

        Linear and differentiable; on the device of the codes. Raises ValueError on another shape.
        """
        self._check(codes)
        mean, components = self.mean.to(codes.device), self.components[: codes.shape[1]].to(codes.device)
        return mean + torch.einsum("nk,kvi->nvi", codes.to(components.dtype), components)

    def landmarks(self, count: int) -> Tensor:
        """Vertices [count] of the 68 points of iBUG or the 98 of WFLW, in their order: right sides first."""
        if count not in self._landmarks:
            raise ValueError(f"landmarks: {count} is not one of 68, 98")
        return self._landmarks[count]

    def distance(self, codes: Tensor) -> Tensor:
        """codes [N, K'] -> [N]: how far from the mean: the root mean square of the numbers, 1 for N(0, I)."""
        self._check(codes)
        return codes.square().mean(dim=1).sqrt()

    def fit(
        self, points: Tensor, vertex_index: Tensor, *, ridge: float = 1e-3, num_components: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The code whose vertices vertex_index [M] lie nearest to points [M, 3] (world units): ridge least squares.

        `ridge` is what a number of the code costs at one standard deviation beside the mean square of the distances, in
        mm squared; 0 follows the points alone. Returns code [K'] and the distances [M] that are left, world units.
        Raises ValueError for other shapes.
        """
        if points.ndim != 2 or points.shape[1] != 3 or vertex_index.shape != points.shape[:1]:
            raise ValueError(
                f"fit: points must be [M, 3] and vertex_index [M], got {list(points.shape)}, {list(vertex_index.shape)}"
            )
        basis = self.components[:num_components, vertex_index].flatten(1).T.double() * self.mm_per_unit
        wanted = (points.double() - self.mean[vertex_index]).flatten() * self.mm_per_unit
        code = _ridge(basis, wanted, ridge * len(points))
        left = (basis @ code - wanted).reshape(-1, 3).norm(dim=1) / self.mm_per_unit
        return code.float(), left.float()

    def fit_surface(
        self,
        points: Tensor,
        normals: Tensor | None = None,
        cfg: FitConfig | None = None,
        *,
        regions: Iterable[int] | None = None,
    ) -> SurfaceFit:
        """Code and motion of the head nearest to an unordered point cloud, or to the points of depth maps.

        points [M, 3] and their outward unit normals [M, 3], if known, in world units; the head must stand about as the
        model's do (within reach). `regions` are those of the model that take part; without them all but NOT_FITTED.
        About a tenth of a second for thousands of points. No gradients. Raises ValueError for other shapes.
        """
        cfg = cfg or FitConfig()
        if points.ndim != 2 or points.shape[1] != 3 or (normals is not None and normals.shape != points.shape):
            found = [list(points.shape)] + ([] if normals is None else [list(normals.shape)])
            raise ValueError(f"fit_surface: points and normals must be [M, 3], got {', '.join(map(str, found))}")
        if not len(points) or not 1 <= cfg.num_components <= self.num_components:
            raise ValueError(f"fit_surface needs points, and 1 to {self.num_components} components")
        taking_part = tuple(sorted(set(Region) - set(NOT_FITTED) if regions is None else set(regions)))
        there, facing = (None if x is None else x.detach().cpu().double().numpy() for x in (points, normals))
        assert there is not None
        code, motion, distances, counts = fit_points(self._shape(taking_part, cfg.num_components), there, facing, cfg)
        residual = float(np.sqrt(np.square(distances[counts]).mean())) if counts.any() else float("inf")
        made = torch.from_numpy(code).float(), motion, torch.from_numpy(distances).float(), torch.from_numpy(counts)
        return SurfaceFit(*made, residual)

    def _shape(self, regions: tuple[int, ...], num_components: int) -> Shape:
        key = (regions, num_components)
        if key not in self._shapes:
            import scipy.sparse

            kept = np.isin(self.region.numpy(), regions)
            place = np.cumsum(kept) - 1
            faces = self.faces.numpy()
            part = self.components[:num_components, torch.from_numpy(kept)].permute(1, 2, 0).contiguous().numpy()
            inside = place[faces[kept[faces].all(axis=1)]]
            rows, columns = inside.ravel(), np.repeat(np.arange(len(inside)), 3)
            ones = np.ones(len(rows), dtype=np.float32)
            around = scipy.sparse.csr_matrix((ones, (rows, columns)), shape=(int(kept.sum()), len(inside)))
            self._shapes[key] = Shape(self.mean.numpy()[kept], part, inside, around, self.mm_per_unit)
        return self._shapes[key]

    def _check(self, codes: Tensor) -> None:
        if codes.ndim != 2 or not 1 <= codes.shape[1] <= self.num_components:
            raise ValueError(f"head codes must be [N, 1 to {self.num_components}], got {list(codes.shape)}")


def _ridge(basis: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """argmin |basis [R, K] x - wanted [R]|^2 + ridge |x|^2."""
    if ridge <= 0:
        return torch.linalg.lstsq(basis, wanted[:, None], driver="gelsd").solution[:, 0]
    normal = basis.T @ basis + ridge * torch.eye(basis.shape[1], dtype=basis.dtype)
    return torch.linalg.solve(normal, basis.T @ wanted)


def load_head_model(
    path: str | os.PathLike[str] | None = None, *, manifest: str | os.PathLike[str] = MANIFEST
) -> HeadModel:
    """The head model of a file, or the one that the project ships, which is checked against its SHA-256.

    Raises FileNotFoundError or ValueError, one line each.
    """
    return HeadModel(*read_head_arrays(resolve(SHIPPED_NAME if path is None else path, manifest=manifest)))
