"""What the viewer shows: poses from a free camera, networks side by side, what is kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from eg3d.cameras import CameraConfig, split_label
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.representations.mesh import NoSurface
from eg3d.viewing import gallery as gallery_module
from eg3d.viewing.browser import framed, mesh_place
from eg3d.viewing.gallery import LAYOUTS, Choice, Gallery, Pose, pose_from


def network(cfg, seed: int = 0) -> TriPlaneGenerator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TriPlaneGenerator(cfg).eval()


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (0.4, -0.2), (-1.2, 0.5), (3.0, -1.0), (0.1, 1.2)])
@pytest.mark.parametrize("distance", [1.0, 2.5])
def test_a_camera_on_the_line_of_sight_gives_the_pose(yaw, pitch, distance) -> None:
    camera = CameraConfig()
    c2w, _ = split_label(camera.label(yaw, pitch))
    centre, forward = c2w[0, :3, 3].numpy(), c2w[0, :3, 2].numpy()
    pivot = np.array(camera.pivot)
    pose = pose_from(pivot - distance * forward, pivot, camera)
    again, _ = split_label(camera.label(pose.yaw, pose.pitch))
    assert np.allclose(again[0, :3, 3], centre, atol=1e-4)
    assert pose.zoom == pytest.approx(2.5 / distance)
    moved = pose_from(pivot - distance * forward + 0.3, pivot + 0.3, camera)  # panning is ignored
    assert (moved.yaw, moved.pitch) == pytest.approx((pose.yaw, pose.pitch), abs=1e-5)


def test_a_camera_on_top_stays_upright() -> None:
    pose = pose_from([0, 5, 0.2], [0, 0, 0.2], CameraConfig())
    assert pose.pitch == pytest.approx(-gallery_module.STEEPEST)


def test_pictures_follow_seed_psi_camera_and_mode(generator_config) -> None:
    shown = Gallery({"toy": network(generator_config)})
    base = Choice(seed=1, mode="image")
    first = shown.picture(base, Pose())
    assert first.shape == (16, 16, 3) and first.dtype == np.uint8
    assert np.array_equal(first, shown.picture(base, Pose()))
    for other in (Choice(seed=2), dataclasses.replace(base, psi=0.0)):
        assert not np.array_equal(first, shown.picture(other, Pose()))
    for pose in (Pose(yaw=0.6), Pose(pitch=0.6), Pose(zoom=2)):
        assert not np.array_equal(first, shown.picture(base, pose))
    assert shown.picture(dataclasses.replace(base, mode="image_depth"), Pose()).shape == (8, 8, 3)
    assert shown.picture(dataclasses.replace(base, mode="image_raw"), Pose()).shape == (8, 8, 3)
    assert shown.picture(base, Pose(), is_preview=True).shape == (8, 8, 3)


def test_two_networks_are_side_by_side(generator_config) -> None:
    small = dataclasses.replace(generator_config, superresolution="none", img_resolution=8)
    left, right = network(generator_config), network(small, seed=1)
    both = Gallery({"left": left, "right": right}).picture(Choice(), Pose(yaw=0.2))
    assert both.shape == (16, 32, 3)
    assert np.array_equal(both[:, :16], Gallery({"left": left}).picture(Choice(), Pose(yaw=0.2)))
    alone = Gallery({"right": right}).picture(Choice(), Pose(yaw=0.2))
    assert np.array_equal(both[:, 16:], alone.repeat(2, 0).repeat(2, 1))


def test_two_networks_are_compared_in_one_camera(generator_config) -> None:
    left, right = network(generator_config), network(generator_config, seed=1)
    both, pose = Gallery({"left": left, "right": right}), Pose(yaw=0.2)
    pictures = {layout: both.picture(Choice(layout=layout), pose) for layout in LAYOUTS}
    a, b = np.split(pictures["side by side"], 2, axis=1)
    assert not np.array_equal(a, b)
    assert np.array_equal(pictures["left"], a) and np.array_equal(pictures["right"], b)
    assert np.array_equal(pictures["split"], np.concatenate([a[:, :8], b[:, 8:]], axis=1))
    half = (b.astype(float) - a) / 2 + 127.5
    inside = (a > 0) & (a < 255) & (b > 0) & (b < 255)  # colours beyond are cut in a picture, not in a difference
    assert np.abs(pictures["difference"] - half)[inside].max() <= 1.5
    same = Gallery({"left": left, "right": left}).picture(Choice(layout="difference"), pose)
    assert np.ptp(same) == 0 and abs(int(same[0, 0, 0]) - 127) <= 1
    assert both.shown(Choice(layout="right")) == ["right"] and both.shown(Choice(layout="split")) == ["left", "right"]


def test_one_network_has_no_layout(generator_config) -> None:
    alone = Gallery({"toy": network(generator_config)})
    pictures = [alone.picture(Choice(layout=layout), Pose()) for layout in LAYOUTS]
    assert all(np.array_equal(pictures[0], picture) for picture in pictures)


def test_meshes_and_their_absence(generator_config) -> None:
    shown = Gallery({"toy": network(generator_config)})
    choice = Choice(resolution=16, level=-0.7)
    mesh = shown.mesh("toy", choice)
    assert np.abs(mesh.bounds).max() <= 0.5 * 1.0
    assert shown.mesh("toy", choice) is mesh  # kept
    assert shown.mesh("toy", dataclasses.replace(choice, mode="mesh", layout="left")) is mesh
    for _ in range(2):
        with pytest.raises(NoSurface):
            shown.mesh("toy", dataclasses.replace(choice, level=1e6))


def test_only_the_last_latents_are_kept(generator_config, monkeypatch) -> None:
    monkeypatch.setattr(gallery_module, "NUM_KEPT", 2)
    shown = Gallery({"toy": network(generator_config)})
    for seed in range(5):
        shown.picture(Choice(seed=seed), Pose())
    assert len(shown._kept) == 2


def test_meshes_share_the_frontal_view() -> None:
    camera = CameraConfig()
    assert mesh_place(0, 1, camera) == (0, 0, 0)
    left, right = mesh_place(0, 2, camera), mesh_place(1, 2, camera)
    pivot = np.array(camera.pivot)
    for place, side in ((left, -1), (right, 1)):  # half-sized around the pivot, a quarter of the view to each side
        moved = np.array(place) + pivot / 2 - pivot
        assert np.allclose(moved, [side * 0.25 * 2.5 / camera.focal, 0, 0])


@pytest.mark.parametrize("canvas", [(200, 100), (100, 200), (5000, 1000), (1, 1)])
def test_frames_have_the_shape_of_the_canvas_and_square_pixels(canvas) -> None:
    picture = np.full((64, 64, 3), 255, np.uint8)
    frame = framed(picture, canvas)
    assert frame.shape[1] / frame.shape[0] == pytest.approx(canvas[0] / canvas[1], rel=0.02)
    assert max(frame.shape) <= 1600
    white = (frame == 255).all(-1)
    assert white.any(0).sum() == pytest.approx(white.any(1).sum(), abs=1) == min(frame.shape[:2])
