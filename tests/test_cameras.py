"""Cameras and latents against the numbers of the published conversions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from eg3d import cameras
from eg3d.cameras import CameraConfig, camera_label, fov_to_intrinsics, intrinsics, lookat_c2w, split_label
from eg3d.seeds import latent, latents

# yaw, pitch -> first three rows, radius 2.7, look-at (0, 0, 0.2)
POSES = {
    (0.0, 0.0): [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7]],
    (0.4, -0.2): [
        [0.908456, 0.057052, -0.414068, 1.042872],
        [0, -0.990641, -0.136494, 0.343775],
        [-0.417980, 0.123999, -0.899954, 2.466625],
    ],
    (0.0, -0.2): [[1, 0, 0, 0], [0, -0.990514, -0.137413, 0.343775], [0, 0.137413, -0.990514, 2.678025]],
    (-0.4, -0.2): [
        [0.908456, -0.057052, 0.414068, -1.042873],
        [0, -0.990641, -0.136494, 0.343775],
        [0.417980, 0.123999, -0.899954, 2.466624],
    ],
}


@pytest.mark.parametrize(("angles", "rows"), POSES.items())
def test_published_poses(angles, rows):
    pose = lookat_c2w(*angles)[0]
    torch.testing.assert_close(pose[:3], torch.tensor(rows, dtype=torch.float32), atol=2e-6, rtol=0)
    assert pose[3].tolist() == [0, 0, 0, 1]


def test_poses_are_rigid_and_on_the_sphere():
    yaw, pitch = torch.linspace(-3, 3, 11), torch.linspace(-1.5, 1.5, 11)
    pose = lookat_c2w(yaw, pitch, radius=2.0, lookat=(0.1, 0.0, 0.2))
    rotation = pose[:, :3, :3]
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, torch.eye(3).expand(11, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(11), atol=1e-5, rtol=0)
    torch.testing.assert_close(pose[:, :3, 3].norm(dim=1), torch.full((11,), 2.0))
    # the look-at point lies on the optical axis
    offset = torch.tensor([0.1, 0.0, 0.2]) - pose[:, :3, 3]
    torch.testing.assert_close(torch.linalg.cross(offset, pose[:, :3, 2]), torch.zeros(11, 3), atol=1e-5, rtol=0)


def test_one_angle_goes_with_many():
    assert lookat_c2w(torch.zeros(3), 0.1).shape == (3, 4, 4)
    yaw = torch.tensor([0.2], requires_grad=True)
    lookat_c2w(yaw, 0.0)[0, 0, 3].backward()
    assert yaw.grad.item() > 0  # positive yaw moves the camera towards +x


@pytest.mark.parametrize(("fov_deg", "focal"), [(18, 4.465175), (18.837, 4.263391), (45, 1.707366)])
def test_field_of_view(fov_deg, focal):
    K = fov_to_intrinsics(fov_deg)
    assert K[0, 0].item() == pytest.approx(focal, abs=2e-6)
    assert K.tolist()[2] == [0, 0, 1]
    assert K[0, 2] == K[1, 2] == 0.5


def test_labels_go_both_ways():
    c2w = lookat_c2w(torch.tensor([0.1, 0.2]), -0.1)
    label = camera_label(c2w, intrinsics(4.2647))
    again, K = split_label(label)
    assert torch.equal(again, c2w)
    assert K[1, 0, 0].item() == pytest.approx(4.2647)
    own, published = CameraConfig().canonical(), CameraConfig(focal=1.7).published().canonical()
    assert own.shape == published.shape == (1, 25)
    assert own[0, 16].item() == pytest.approx(4.2647)
    assert published[0, 16].item() == pytest.approx(4.263391, abs=2e-6)
    assert torch.equal(published[:, 16:], fov_to_intrinsics().reshape(1, 9))
    assert torch.equal(own[:, :16], published[:, :16])
    with pytest.raises(ValueError, match=r"must be \[N, 25\].*got \[2, 16\]"):
        split_label(torch.zeros(2, 16))


def test_a_seed_names_a_latent():
    z = latent(7)
    assert z.shape == (1, 512)
    assert z.dtype == torch.float32
    np.testing.assert_array_equal(z.numpy(), np.random.RandomState(7).randn(1, 512).astype(np.float32))
    assert torch.equal(latents([3, 7], 512)[1:], z)
    assert latents([], 4).shape == (0, 4)
    assert math.isclose(latents(range(50)).std().item(), 1, abs_tol=0.02)


def _projected(points: Tensor, c: Tensor) -> Tensor:
    """Image coordinates [N, P, 2] of world points [P, 3] in cameras [N, 25]."""
    c2w, K = cameras.split_label(c)
    homogeneous = torch.cat([points, torch.ones(len(points), 1)], dim=1)
    in_camera = (torch.linalg.inv(c2w) @ homogeneous.T)[:, :3]
    seen = K @ in_camera
    return (seen[:, :2] / seen[:, 2:]).transpose(1, 2)


def _some_labels(n: int) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    c2w = cameras.lookat_c2w(torch.randn(n, generator=rng) * 0.3, torch.randn(n, generator=rng) * 0.2)
    K = cameras.intrinsics(4.2647).repeat(n, 1, 1)
    K[:, 0, 1], K[:, 0, 2], K[:, 1, 2] = 0.1, 0.45, 0.52
    return cameras.camera_label(c2w, K)


def test_a_mirrored_camera_sees_the_mirrored_world_mirrored() -> None:
    c, points = _some_labels(3), torch.rand(20, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    mirrored = cameras.mirrored_labels(c)
    wanted = _projected(points, c) * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    assert torch.allclose(_projected(points * torch.tensor([-1.0, 1.0, 1.0]), mirrored), wanted, atol=1e-5)
    assert torch.allclose(torch.linalg.det(cameras.split_label(mirrored)[0]), torch.ones(3))
    assert torch.allclose(cameras.mirrored_labels(mirrored), c)
    plain = cameras.CameraConfig().canonical()
    assert torch.equal(cameras.mirrored_labels(plain)[:, 16:], plain[:, 16:])  # intrinsics of a centred camera stay


@pytest.mark.parametrize("is_turned_over", [False, True])
def test_a_transformed_camera_sees_the_transformed_picture(is_turned_over: bool) -> None:
    n, rng = 16, torch.Generator().manual_seed(2)
    c, points = _some_labels(n), torch.rand(20, 3, generator=rng) - 0.5
    A = torch.eye(3).repeat(n, 1, 1)
    A[:, :2] = torch.randn(n, 2, 3, generator=rng)
    A[:, 0] *= (torch.linalg.det(A) * (-1.0 if is_turned_over else 1.0)).sign()[:, None]
    wanted = _projected(points, c) @ A[:, :2, :2].transpose(1, 2) + A[:, None, :2, 2]
    found = cameras.transformed_labels(c, A)
    world = points * torch.tensor([-1.0 if is_turned_over else 1.0, 1.0, 1.0])
    assert torch.allclose(_projected(world, found), wanted, atol=1e-4)
    c2w, K = cameras.split_label(found)
    assert torch.allclose(torch.linalg.det(c2w[:, :3, :3]), torch.ones(n), atol=1e-4)
    assert torch.allclose(K[:, 1, 0], torch.zeros(n), atol=1e-5)
    assert (K[:, (0, 1), (0, 1)] > 0).all()


def test_the_identity_leaves_labels_alone() -> None:
    c = _some_labels(4)
    assert torch.allclose(cameras.transformed_labels(c, torch.eye(3).expand(4, 3, 3)), c, atol=1e-6)
