"""Rays of the published frontal camera, projection back to pixels, and the box test."""

import torch

from eg3d.cameras import intrinsics, lookat_c2w
from eg3d.rendering.rays import RayBundle, box_limits, pixel_rays


def frontal(resolution):
    return pixel_rays(lookat_c2w(0.0, 0.0), intrinsics(4.2647)[None], resolution)


def test_published_directions_of_two_by_two_rays():
    a, b = 0.0584203, -0.9965813
    expected = torch.tensor([[-a, a, b], [a, a, b], [-a, -a, b], [a, -a, b]])
    torch.testing.assert_close(frontal(2).rays_d[0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(frontal(2).rays_o[0], torch.tensor([[0, 0, 2.7]]).expand(4, 3), atol=1e-6, rtol=0)


def test_rays_project_back_to_their_pixels_with_skew():
    c2w = lookat_c2w(torch.tensor([0.3, -0.5]), torch.tensor([-0.1, 0.2])).double()
    K = torch.tensor([[3.0, 0.1, 0.45], [0, 3.5, 0.55], [0, 0, 1]]).double().expand(2, 3, 3)
    rays = pixel_rays(c2w, K, 5)
    torch.testing.assert_close(rays.rays_d.norm(dim=-1), torch.ones(2, 25).double())
    points = rays.rays_o + 1.7 * rays.rays_d
    homogeneous = torch.cat([points, torch.ones(2, 25, 1)], -1)
    camera = (torch.linalg.inv(c2w) @ homogeneous.transpose(1, 2))[:, :3]
    image = K @ camera
    uv = (image[:, :2] / image[:, 2:]).transpose(1, 2).reshape(2, 5, 5, 2)
    centres = (torch.arange(5).double() + 0.5) / 5
    torch.testing.assert_close(uv[..., 0], centres.expand(2, 5, 5))
    torch.testing.assert_close(uv[..., 1], centres[:, None].expand(2, 5, 5))


def test_box_limits():
    rays_o = torch.tensor([[[0.0, 0.0, 2.0], [0.25, 0.0, 2.0], [0.0, 3.0, 2.0]]])
    rays_d = torch.tensor([[[0.0, 0.0, -1.0], [0.6, 0.0, -0.8], [0.0, 0.0, -1.0]]])
    near, far = box_limits(RayBundle(rays_o, rays_d), 1.0)
    assert near[0, 0] == 1.5  # parallel to two sides
    assert far[0, 0] == 2.5
    # the other two miss: nearest and farthest *entry* of the rays that hit
    assert near[0, 1:].tolist() == [1.5, 1.5]
    assert far[0, 1:].tolist() == [1.5, 1.5]
    near, far = box_limits(RayBundle(rays_o[:, 2:], rays_d[:, 2:]), 1.0)
    assert (near.item(), far.item()) == (-1, -2)


def test_rays_that_miss_take_limits_of_their_own_sample_if_asked():
    rays_o = torch.tensor([[[0.0, 0.0, 2.0], [0.0, 3.0, 2.0]], [[0.0, 0.0, 4.0], [0.0, 3.0, 4.0]]])
    rays_d = torch.tensor([0.0, 0.0, -1.0]).expand(2, 2, 3)
    near, far = box_limits(RayBundle(rays_o, rays_d), 1.0)
    assert near.tolist() == [[1.5, 1.5], [3.5, 1.5]] and far.tolist() == [[2.5, 3.5], [4.5, 3.5]]
    near, far = box_limits(RayBundle(rays_o, rays_d), 1.0, "sample")
    assert near.tolist() == [[1.5, 1.5], [3.5, 3.5]] and far.tolist() == [[2.5, 1.5], [4.5, 3.5]]
    near, far = box_limits(RayBundle(rays_o[:, 1:], rays_d[:, 1:]), 1.0, "sample")
    assert near.tolist() == [[-1.0], [-1.0]] and far.tolist() == [[-2.0], [-2.0]]
    near, far = box_limits(RayBundle(rays_o[:0], rays_d[:0]), 1.0)
    assert near.shape == far.shape == (0, 2)
