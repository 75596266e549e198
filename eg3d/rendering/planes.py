"""Features of points from three axis-aligned planes.

Shape letters: N batch, P points, C features, H x W plane texels.
"""

from __future__ import annotations

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
    planes. Returns features [N, C, P]. Gradients flow to planes and points. Fused forms: eg3d/ops.
    Raises ValueError for planes of another rank.
    """
    if plane_axes not in PLANE_AXES:
        raise ValueError(f"plane_axes: {plane_axes!r} is not one of {', '.join(PLANE_AXES)}")
    if planes.ndim != 5 or planes.shape[1] != 3:
        raise ValueError(f"planes must be [N, 3, C, H, W], got {list(planes.shape)}")
    if len(points) != len(planes):
        raise ValueError(f"planes hold {len(planes)} items but points hold {len(points)}; repeat one of them")
    unit = points * (2 / box_warp)
    samples = [
        F.grid_sample(plane, unit[:, :, axes].unsqueeze(1), mode="bilinear", padding_mode="zeros", align_corners=False)
        for plane, axes in zip(planes.unbind(1), PLANE_AXES[plane_axes], strict=True)
    ]
    return (samples[0] + samples[1] + samples[2]).squeeze(2) / 3
