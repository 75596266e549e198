"""A mirrored scene seen from the mirrored camera is the mirrored image, whatever the camera."""

import pytest
import torch

from eg3d.cameras import camera_label, intrinsics, lookat_c2w, mirrored_labels, split_label
from eg3d.rendering.rays import pixel_rays
from eg3d.rendering.renderer import RenderingConfig, render_rays

MIRROR = torch.tensor([-1.0, 1.0, 1.0])
PLAIN = intrinsics(4.2647)
OFF_CENTRE = torch.tensor([[4.1, 0.3, 0.42], [0.0, 4.6, 0.55], [0.0, 0.0, 1.0]])  # skew, principal point, two focals


def lopsided(points):
    """A field without any symmetry: two balls of different size, colours that vary in space."""
    first = 0.22 - (points - points.new_tensor([0.12, 0.05, 0.1])).norm(dim=-1)
    second = 0.12 - (points - points.new_tensor([-0.2, -0.15, 0.0])).norm(dim=-1)
    return 80 * torch.maximum(first, second), torch.sigmoid(6 * points).transpose(1, 2)


def image(field, c, side=24):
    rendered = render_rays(field, pixel_rays(*split_label(c), side), RenderingConfig(depth_resolution=24), None)
    return rendered.rgb.unflatten(-1, (side, side)), rendered.depth.unflatten(1, (side, side))


@pytest.mark.parametrize("K", [PLAIN, OFF_CENTRE], ids=["centred", "off-centre"])
@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0.0, 0.0, 0.0), (0.35, -0.2, 0.0), (-0.2, 0.1, 0.4)])
def test_the_mirrored_camera_sees_the_mirrored_image(K, yaw, pitch, roll):
    angle = torch.tensor(roll)
    turn = torch.eye(4)
    turn[0, 0], turn[0, 1], turn[1, 0], turn[1, 1] = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
    c = camera_label(lookat_c2w(yaw, pitch) @ turn, K)
    colour, depth = image(lopsided, c)
    mirrored_colour, mirrored_depth = image(lambda points: lopsided(points * MIRROR), mirrored_labels(c))
    torch.testing.assert_close(mirrored_colour, colour.flip(-1), atol=2e-3, rtol=0)
    torch.testing.assert_close(mirrored_depth, depth.flip(-1), atol=1e-3, rtol=0)
    unchanged, _ = image(lambda points: lopsided(points * MIRROR), c)
    assert (unchanged - colour.flip(-1)).abs().max() > 0.05 or (K is PLAIN and yaw == roll == 0)


def test_mirroring_twice_changes_nothing_and_keeps_poses_rotations():
    c = camera_label(lookat_c2w(torch.linspace(-0.5, 0.5, 5), 0.1), OFF_CENTRE)
    mirrored = mirrored_labels(c)
    torch.testing.assert_close(mirrored_labels(mirrored), c)
    c2w, K = split_label(mirrored)
    torch.testing.assert_close(torch.linalg.det(c2w[:, :3, :3]), torch.ones(5))
    assert float(K[0, 0, 2]) == pytest.approx(0.58) and float(K[0, 0, 1]) == pytest.approx(-0.3)
    plain = camera_label(lookat_c2w(0.3, 0.1), PLAIN)
    signs = torch.ones(25)
    signs[[1, 2, 3, 4, 8]] = -1  # of published labels only these change
    assert torch.equal(mirrored_labels(plain), plain * signs)
    with pytest.raises(ValueError, match=r"\[N, 25\]"):
        mirrored_labels(plain[0])
