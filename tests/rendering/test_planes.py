"""Tri-plane lookup against texel addresses worked out by hand."""

import pytest
import torch

from eg3d.rendering.planes import PLANE_AXES, sample_planes


def ramps(n=1, side=4):
    """Planes whose two channels are the width and the height index of the texel."""
    index = torch.arange(side, dtype=torch.float32)
    ramp = torch.stack([index.expand(side, side), index[:, None].expand(side, side)])
    return ramp.expand(n, 3, 2, side, side).contiguous()


def only(planes, p):
    """The planes with all but one set to zero, times 3: a mean that shows that plane."""
    kept = torch.zeros_like(planes)
    kept[:, p] = 3 * planes[:, p]
    return kept


@pytest.mark.parametrize(("plane", "address"), [(0, (1.9, 2.3)), (1, (1.9, 0.3)), (2, (0.3, 1.9))])
def test_texel_addresses_of_a_point(plane, address):
    point = torch.tensor([[[0.1, 0.2, -0.3]]])
    found = sample_planes(only(ramps(), plane), point, box_warp=1.0)[0, :, 0]
    torch.testing.assert_close(found, torch.tensor(address), atol=1e-6, rtol=1e-6)


def test_third_plane_quirk_is_published_and_can_be_corrected():
    """The published third plane is the transpose of the second: no plane sees (y, z)."""
    assert PLANE_AXES["xy_xz_zx"][2] == PLANE_AXES["xy_xz_zx"][1][::-1]
    point, other = torch.tensor([[[0.1, 0.2, -0.3]]]), torch.tensor([[[0.1, -0.1, -0.3]]])
    third = only(torch.randn(1, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0)), 2)
    published = [sample_planes(third, p, box_warp=1.0) for p in (point, other)]
    corrected = [sample_planes(third, p, box_warp=1.0, plane_axes="xy_xz_zy") for p in (point, other)]
    assert torch.equal(*published)  # blind to y
    assert not torch.equal(*corrected)


def test_planes_fade_to_zero_outside_the_box():
    planes = torch.ones(1, 3, 1, 4, 4)
    inside, edge, outside = (torch.tensor([[[x, 0.0, 0.0]]]) for x in (0.374, 0.5, 0.63))
    assert sample_planes(planes, inside, box_warp=1.0).item() == pytest.approx(1)
    assert sample_planes(planes, edge, box_warp=1.0).item() == pytest.approx(0.5)
    # every plane uses x here, so a point outside in x gets nothing from any
    assert sample_planes(planes, outside, box_warp=1.0).item() == 0
    # outside in y only: the two planes without y still answer
    assert sample_planes(planes, torch.tensor([[[0.0, 0.9, 0.0]]]), box_warp=1.0).item() == pytest.approx(2 / 3)


def test_box_scales_points_and_gradients_flow():
    rng = torch.Generator().manual_seed(0)
    planes = torch.randn(2, 3, 5, 8, 8, generator=rng, requires_grad=True)
    points = torch.rand(2, 7, 3, generator=rng) - 0.5
    small, large = sample_planes(planes, points, box_warp=1.0), sample_planes(planes, points * 1.6, box_warp=1.6)
    torch.testing.assert_close(small, large)
    assert small.shape == (2, 5, 7)
    small.square().sum().backward()
    assert planes.grad.abs().sum() > 0
    channels_last = planes.detach().permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    torch.testing.assert_close(sample_planes(channels_last, points, box_warp=1.0), small.detach())


def test_bad_arguments():
    points = torch.zeros(1, 1, 3)
    with pytest.raises(ValueError, match=r"\[N, 3, C, H, W\], got \[1, 6, 4, 4\]"):
        sample_planes(torch.zeros(1, 6, 4, 4), points, box_warp=1.0)
    with pytest.raises(ValueError, match="'xyz' is not one of xy_xz_zx, xy_xz_zy"):
        sample_planes(torch.zeros(1, 3, 2, 4, 4), points, box_warp=1.0, plane_axes="xyz")
    with pytest.raises(ValueError, match="planes hold 2 items but points hold 1"):
        sample_planes(torch.zeros(2, 3, 2, 4, 4), points, box_warp=1.0)
