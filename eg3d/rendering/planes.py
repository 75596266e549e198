"""Features of points from three axis-aligned planes.

Shape letters: N batch, P points, C features, H x W plane texels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Which coordinates (width, height) each plane sees. The published generators sample the third plane at (z, x), the
# transpose of the second, so that no plane sees (y, z); their weights only work with that. "xy_xz_zy" corrects it.
PLANE_AXES: dict[str, tuple[tuple[int, int], ...]] = {
    "xy_xz_zx": ((0, 1), (0, 2), (2, 0)),
    "xy_xz_zy": ((0, 1), (0, 2), (2, 1)),
}


def sample_planes(planes: Tensor, points: Tensor, *, box_warp: float, plane_axes: str = "xy_xz_zx") -> Tensor:
    """Mean over the planes of bilinear samples. Source: EG3D (2022), section 3; texel centres, zero padding.

    planes [N, 3, C, H, W]; points [N, P, 3] world units, the cube of side `box_warp` around the origin fills the
    planes. Returns features [N, C, P] float32. Gradients flow to planes and points (first order).
    Raises ValueError for planes of another rank.
    """
    if planes.ndim != 5 or planes.shape[1] != 3:
        raise ValueError(f"planes must be [N, 3, C, H, W], got {list(planes.shape)}")
    if len(points) != len(planes):
        raise ValueError(f"planes hold {len(planes)} items but points hold {len(points)}; repeat one of them")
    unit = points.float() * (2 / box_warp)
    total: Tensor | None = None
    # One table at a time: nothing of size [N, 3, C, P] is written, and no gradient is copied three times.
    for (width, height), table in merged_tables(planes.float(), plane_axes):
        grid = torch.stack([unit[..., width], unit[..., height]], dim=-1).unsqueeze(1)
        features = F.grid_sample(table, grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(2)
        total = features if total is None else total + features
    assert total is not None
    return total


def merged_tables(planes: Tensor, plane_axes: str) -> list[tuple[tuple[int, ...], Tensor]]:
    """Tables [N, C, H, W] with their (width, height) axes, whose samples add up to the mean over the planes.

    Planes that see the same two axes are added first, the second one transposed: with the published axes two look-ups
    a point do the work of three.
    """
    if plane_axes not in PLANE_AXES:
        raise ValueError(f"plane_axes: {plane_axes!r} is not one of {', '.join(PLANE_AXES)}")
    scaled = planes * (1 / 3)
    tables: dict[tuple[int, ...], Tensor] = {}
    for plane, axes in zip(scaled.unbind(1), PLANE_AXES[plane_axes], strict=True):
        if axes[::-1] in tables:
            tables[axes[::-1]] = tables[axes[::-1]] + plane.transpose(-1, -2)
        else:
            tables[axes] = plane
    return list(tables.items())
