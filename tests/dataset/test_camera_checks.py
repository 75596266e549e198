"""Labels that are no cameras are named by what they are; every published kind of camera passes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from sets import labels_of, png, table, write

from dataset_preprocessing.archive import check_archive
from dataset_preprocessing.conversion import ConversionConfig, convert_images
from eg3d.camera_checks import camera_faults, error_line
from eg3d.cameras import camera_label, intrinsics, lookat_c2w, mirrored_labels
from eg3d.data import ImageDataset

RNG = torch.Generator().manual_seed(0)
AXES = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
SHEAR = torch.eye(4)
SHEAR[0, 1] = 0.2
K = intrinsics(4.2647)


def faces(count: int = 50) -> torch.Tensor:
    """Poses of FFHQ's kind, [count, 4, 4]."""
    yaw, pitch = torch.randn(2, count, generator=RNG)
    return lookat_c2w(0.3 * yaw, 0.12 * pitch)


def around(count: int = 50, **camera) -> torch.Tensor:
    """Poses from all sides."""
    yaw, pitch = torch.rand(2, count, generator=RNG)
    return lookat_c2w(6.28 * yaw, -1.4 * pitch, **camera)


def rolled(c2w: torch.Tensor) -> torch.Tensor:
    angle = torch.tensor(0.7)
    roll = torch.eye(4)
    roll[:2, :2] = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    return c2w @ roll


def changed(K: torch.Tensor, **entries: float) -> torch.Tensor:
    K = K.clone()
    for name, value in entries.items():
        row, column = {"fx": (0, 0), "fy": (1, 1), "s": (0, 1), "cx": (0, 2), "cy": (1, 2)}[name]
        K[row, column] = value
    return K


GOOD = {
    "FFHQ": camera_label(faces(), K),
    "one frontal face": camera_label(lookat_c2w(0.0, 0.0), K),
    "heads from all sides": camera_label(around(), K),
    "cars": camera_label(around(radius=1.3, lookat=(0.0, 0.0, 0.0)), intrinsics(1.0254)),
    "rolled": camera_label(rolled(faces()), K),
    "cropped off the middle": camera_label(faces(), changed(K, fx=4.1, fy=4.3, s=0.02, cx=0.47, cy=0.52)),
    "mirrored": mirrored_labels(camera_label(faces(), changed(K, cx=0.4))),
    "rounded": (camera_label(faces(), K) * 1e4).round() / 1e4,
    "far away": camera_label(lookat_c2w(0.3, 0.1, radius=27.0), intrinsics(42.0)),
}


@pytest.mark.parametrize("kind", GOOD)
def test_cameras_that_exist_pass(kind):
    assert camera_faults(GOOD[kind].double().numpy()) == []


def world_to_camera(c2w):
    return torch.linalg.inv(c2w)


BAD = {  # labels and what they are called
    "pixels": (camera_label(faces(), K * torch.tensor([[64.0], [64.0], [1.0]])), "intrinsics in pixels"),
    "focal in pixels": (camera_label(faces(), changed(K, fx=273.0, fy=273.0)), "intrinsics in pixels"),
    "centre in pixels": (camera_label(faces(), changed(K, cx=256.0, cy=256.0)), "intrinsics in pixels"),
    "transposed": (camera_label(faces().transpose(1, 2), K), "transposed pose"),
    "OpenGL": (camera_label(faces() @ AXES, K), "OpenGL axes"),
    "OpenGL from all sides": (camera_label(around() @ AXES, K), "OpenGL axes"),
    "zeros": (torch.zeros(3, 25), "all zeros"),
    "no intrinsics": (camera_label(faces(), torch.zeros(3, 3)), "intrinsics are zeros"),
    "intrinsics first": (GOOD["FFHQ"].roll(9, dims=1), "intrinsics before the pose"),
    "inverse from all sides": (camera_label(world_to_camera(around()), K), "world-to-camera"),
    "mirrored axes": (camera_label(torch.diag(torch.tensor([-1.0, 1, 1, 1])) @ faces(), K), "determinant -1"),
    "scaled": (camera_label(faces() * torch.tensor([[2.0], [2.0], [2.0], [1.0]]), K), "has a scale"),
    "sheared": (camera_label(faces() @ SHEAR, K), "not orthonormal"),
    "a rotation of zeros": (camera_label(torch.diag(torch.tensor([0.0, 0, 0, 1])), K), "not orthonormal"),
    "no last row": (camera_label(faces() * torch.tensor([[1.0], [1.0], [1.0], [0.0]]), K), "last row of the pose"),
    "transposed intrinsics": (camera_label(faces(), K.T), "transposed intrinsics"),
    "no last row of K": (camera_label(faces(), K * torch.tensor([[1.0], [1.0], [0.0]])), "do not have the form"),
    "negative focal": (camera_label(faces(), changed(K, fy=-4.2647)), "focal length is not positive"),
    "no focal": (camera_label(faces(), changed(K, fx=0.0)), "focal length is not positive"),
    "tiny focal": (camera_label(faces(), changed(K, fx=0.004, fy=0.004)), "too short"),
    "huge numbers": (torch.full((2, 25), 3e38), "last row of the pose"),
}
UNLIKELY = {
    "minus one to one": (camera_label(faces(), changed(K, fx=8.53, fy=8.53, cx=0.0, cy=0.0)), "principal point"),
    "inverse": (camera_label(world_to_camera(faces()), K), "world-to-camera"),
    "millimetres": (camera_label(lookat_c2w(0.1, 0.1, radius=2700.0), K), "tiny in the picture"),
    "looks past": (camera_label(lookat_c2w(0.0, 0.0, lookat=(2.0, 0.0, 0.0)), K), "outside the picture"),
    "no position": (camera_label(torch.eye(4), K), "within the scene"),
}


def written(path, labels):
    names = [f"{index:03d}.png" for index in range(len(labels))]
    files = {name: png() for name in names} | {"dataset.json": table(list(zip(names, labels.tolist())))}
    return write(path, files)


@pytest.mark.parametrize("kind", BAD)
def test_labels_that_are_no_cameras_are_refused_by_name_and_counted(tmp_path, kind):
    labels, name = BAD[kind]
    path = written(tmp_path / "set.zip", labels)
    for read in (ImageDataset, check_archive, lambda path: convert_images(path, tmp_path / "out", ConversionConfig())):
        with pytest.raises(ValueError, match=name) as caught:
            read(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: dataset.json: ")
        assert f" of {len(labels)} labels are no cameras" in text
        assert "\n" not in text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", UNLIKELY)
def test_unlikely_cameras_are_warned_of(tmp_path, kind, caplog):
    labels, name = UNLIKELY[kind]
    path = written(tmp_path / "set", labels)
    with caplog.at_level(logging.WARNING):
        assert len(ImageDataset(path)) == len(labels)
    assert len(caplog.messages) == 1
    assert name in caplog.text
    assert str(path) in caplog.text
    lines = convert_images(path, tmp_path / "out", ConversionConfig()).lines()
    assert len(lines) == 1
    assert name in lines[0]
    assert len(labels_of(tmp_path / "out")) == len(labels)


def test_every_label_counts_once_and_a_single_bad_one_is_found():
    labels = GOOD["FFHQ"].double().numpy()
    labels[7] = 0
    labels[[20, 30]] = BAD["OpenGL"][0][:2]
    names = [f"{index}.png" for index in range(len(labels))]
    line = error_line(camera_faults(labels), names)
    assert line.startswith("3 of 50 labels are no cameras")
    assert "all zeros: 1 (first 7.png: 0)" in line
    assert "2 (first 20.png: " in line


def test_a_mirrored_copy_of_a_good_label_is_good():
    """What the conversion writes for --mirror passes where the original passed."""
    for kind, labels in (GOOD | {name: pair[0] for name, pair in UNLIKELY.items()}).items():
        errors = [fault for fault in camera_faults(mirrored_labels(labels).double().numpy()) if fault.is_error]
        assert errors == [], kind


def test_no_labels_have_no_faults():
    assert camera_faults(np.zeros((0, 25))) == []
