"""Parametric heads: geometry in its box, cameras and labels that agree with the pictures, the same bytes every time."""

import dataclasses
import io
import math
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch

from dataset_preprocessing.archive import check_archive
from dataset_preprocessing.synthetic_heads import render
from dataset_preprocessing.synthetic_heads.render import FFHQ_FOCAL, contact_sheet, depth_views, render_views
from dataset_preprocessing.synthetic_heads.run import (
    HeadsConfig,
    head_cameras,
    head_seed,
    make_heads,
    portraits,
)
from dataset_preprocessing.synthetic_heads.shape import (
    CODE_NAMES,
    NUM_CODES,
    HeadParameters,
    head_codes,
    head_parameters,
    nose_tip,
    sdf,
    true_mesh,
    true_sdf,
)
from eg3d.cameras import intrinsics, lookat_c2w, mirrored_labels, split_label
from eg3d.config_checks import faults_of
from eg3d.rendering.rays import pixel_rays

SMALL = {"num_images": 5, "resolution": 32, "seed": 3}


def extreme_codes() -> torch.Tensor:
    """Both ends of every number alone, and of all numbers together."""
    single = torch.cat([torch.eye(NUM_CODES), -torch.eye(NUM_CODES)]) * 6.0
    return torch.cat([single, torch.full((1, NUM_CODES), 6.0), torch.full((1, NUM_CODES), -6.0)])


def project(points: torch.Tensor, label: torch.Tensor, resolution: int) -> torch.Tensor:
    """World points [P, 3] -> pixel coordinates [P, 2] (column, row) under one label [25]."""
    c2w, K = split_label(label[None])
    local = (points - c2w[0, :3, 3]) @ c2w[0, :3, :3]
    homogeneous = local @ K[0].T
    return homogeneous[:, :2] / homogeneous[:, 2:] * resolution


def test_codes_are_standard_normal_and_repeat():
    codes = np.stack([head_codes(seed) for seed in range(2000)])
    assert codes.shape == (2000, len(CODE_NAMES)) and codes.dtype == np.float32
    assert np.abs(codes.mean(0)).max() < 0.1 and np.abs(codes.std(0) - 1).max() < 0.1
    np.testing.assert_array_equal(head_codes(5), codes[5])
    with pytest.raises(ValueError, match="head codes must be"):
        HeadParameters.from_codes(codes[:, 1:])


def test_every_head_lies_inside_the_unit_box():
    axis = torch.linspace(-0.6, 0.6, 25)
    grid = torch.cartesian_prod(axis, axis, axis)
    outside = grid[(grid.abs() > 0.495).any(dim=1)]
    for start in range(0, len(extreme_codes()), 18):
        params = HeadParameters.from_codes(extreme_codes()[start : start + 18])
        assert sdf(outside.expand(len(params.brow), -1, -1), params).min() > 0
        assert (sdf(torch.tensor([0.0, 0.0, 0.1]).expand(len(params.brow), 1, 3), params) < 0).all()


def test_the_step_of_the_tracer_is_safe():
    """The distance must hardly grow faster than the way to the head, or rays would jump through it."""
    generator = torch.Generator().manual_seed(0)
    params = head_parameters([0, 1, 2, 3])
    points = (torch.rand(4, 4000, 3, generator=generator) - 0.5) * torch.tensor([0.6, 0.8, 0.7])
    points = points + torch.tensor([0.0, 0.0, 0.1])
    points.requires_grad_(True)
    distance = sdf(points, params)
    gradient = torch.autograd.grad(distance.sum(), points)[0].norm(dim=-1)
    near = (distance > 0) & (distance < 0.1)
    assert gradient[near].quantile(0.99) < 1.25


def test_sdf_is_symmetric_and_batches_agree():
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    flipped = points * torch.tensor([-1.0, 1.0, 1.0])
    both = sdf(points.expand(2, -1, -1), head_parameters([7, 8]))
    torch.testing.assert_close(true_sdf(8)(points), both[1])
    torch.testing.assert_close(true_sdf(8)(flipped), both[1])


def test_the_nose_is_the_foremost_point_with_relief():
    for seed in range(5):
        surface = true_mesh(seed, 80)
        front = surface.vertices[surface.vertices[:, 2].argmax()]
        tip = nose_tip(head_parameters(seed))[0].numpy()
        assert np.abs(front - tip).max() < 0.02 and 0.32 < front[2] < 0.41
        cheek_level = (np.abs(surface.vertices[:, 1] - tip[1]) < 0.01) & (np.abs(surface.vertices[:, 0] - 0.08) < 0.01)
        assert front[2] - surface.vertices[cheek_level][:, 2].max() > 0.05
        assert len(surface.split(only_watertight=False)) == 1


def test_mesh_lies_on_the_distance():
    surface = true_mesh(4, 64)
    assert true_sdf(4)(torch.tensor(surface.vertices, dtype=torch.float32)).abs().max() < 0.01
    assert surface.volume > 0  # faces look outwards
    with pytest.raises(ValueError, match="at least 16"):
        true_mesh(4, 4)


def test_a_known_point_is_where_the_label_says():
    """The silhouette row by row: projected surface points cover exactly the pixels that are not background."""
    cfg = HeadsConfig(num_images=6, seed=11)
    points = torch.tensor(true_mesh(head_seed(11, 0), 160).vertices, dtype=torch.float32)
    pairs = portraits(cfg, 0)[:2]
    for view in pairs:
        image = np.asarray(PIL.Image.open(io.BytesIO(view.png)))
        pixels = project(points, torch.tensor(view.label), 64).floor().long()
        pixels = pixels[((pixels >= 0) & (pixels < 64)).all(dim=1)]
        mask = np.zeros((64, 64), dtype=bool)
        mask[pixels[:, 1], pixels[:, 0]] = True
        seen = image.max(axis=2) > 0
        assert (mask & seen).sum() / (mask | seen).sum() > 0.96


def test_depths_end_on_the_surface_that_the_picture_shows():
    """Walking each ray by its depth ends where the signed distance is 0; what is lit is hit, or next to a hit."""
    params, c2w = head_parameters([2, 5]), lookat_c2w(torch.tensor([0.4, -0.3]), torch.tensor([-0.2, 0.1]))[:, None]
    depth = torch.from_numpy(depth_views(params, c2w, resolution=64))
    assert depth.shape == (2, 1, 64, 64)
    rays = pixel_rays(c2w[:, 0], intrinsics(FFHQ_FOCAL).expand(2, -1, -1), 64)
    points = rays.rays_o + depth.flatten(1).unsqueeze(-1) * rays.rays_d
    hit, distance = depth.flatten(1) > 0, sdf(points, params)
    assert distance[hit].abs().max() < 4e-4
    seen = torch.from_numpy(render_views(params, c2w, resolution=64).max(axis=-1) > 0)
    widened = torch.nn.functional.max_pool2d((depth > 0).float(), 3, stride=1, padding=1) > 0
    assert seen[depth > 0].all() and widened[seen].float().mean() > 0.99  # thin parts may miss every pixel centre
    with pytest.raises(ValueError, match="multiple of"):
        depth_views(params, c2w, resolution=20)


def test_depths_are_written_on_request(tmp_path):
    cfg = HeadsConfig(out=str(tmp_path / "a.zip"), workers=1, depths=True, **SMALL)
    summary = check_archive(make_heads(cfg))
    assert summary.depths.shape == (5, 32, 32) and summary.recipe["depths"] is True
    views = portraits(cfg, 0)[:5]
    np.testing.assert_array_equal(summary.depths, np.stack([view.depth for view in views]))
    assert summary.depths[summary.depths > 0].min() > 2.2 and summary.depths.max() < 3.35


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.45, 0.2), (-0.45, -0.2)])
def test_a_mark_on_the_nose_is_seen_at_its_pixel(monkeypatch, yaw, pitch):
    """Paint the nose tip white and all else dark: the white spot lies where the label projects the tip."""
    params, c2w = head_parameters(1), lookat_c2w(yaw, pitch)
    surface = true_mesh(1, 128)
    tip = torch.tensor(surface.vertices[surface.vertices[:, 2].argmax()], dtype=torch.float32)

    def marked(points, params, parts):
        return ((points - tip).norm(dim=-1, keepdim=True) < 0.012).float().expand_as(points)

    monkeypatch.setattr(render, "albedo", marked)
    image = render_views(params, c2w[None], resolution=128)[0, 0, :, :, 0]
    rows, columns = np.nonzero(image > 80)
    label = torch.cat([c2w.flatten(), intrinsics(FFHQ_FOCAL).flatten()])
    expected = project(tip[None], label, 128)[0].numpy()
    assert len(rows) > 5
    np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], expected, atol=1.5)


def test_mirrored_labels_give_mirrored_pictures():
    """Heads are symmetric: with the light in front, the mirrored camera sees the mirrored picture."""
    codes = torch.from_numpy(head_codes(2))[None].clone()
    codes[0, CODE_NAMES.index("light")] = 0.0
    params = HeadParameters.from_codes(codes)
    label = head_cameras(HeadsConfig(seed=1), 4)[:1]
    poses, _ = split_label(torch.cat([label, mirrored_labels(label)]))
    first, second = render_views(params, poses[None], resolution=32)[0].astype(float)
    difference = np.abs(first[:, ::-1] - second)
    assert difference.mean() < 2.0


def test_cameras_follow_the_published_distribution():
    cfg = HeadsConfig(views_per_head=400)
    c2w, K = split_label(head_cameras(cfg, 0))
    centre = c2w[:, :3, 3]
    torch.testing.assert_close(centre.norm(dim=1), torch.full((400,), 2.7))
    yaw = torch.atan2(centre[:, 0], centre[:, 2])
    assert yaw.abs().max() <= 0.5 + 1e-4 and 0.2 < yaw.std() < 0.32
    assert torch.all(K[:, 0, 0] == torch.tensor(FFHQ_FOCAL)) and torch.all(K[:, 0, 2] == 0.5)


def test_same_seed_same_bytes_for_any_number_of_workers(tmp_path):
    shown = []
    first = make_heads(HeadsConfig(out=str(tmp_path / "a.zip"), workers=1, **SMALL), advance=shown.append)
    second = make_heads(HeadsConfig(out=str(tmp_path / "b.zip"), workers=2, **SMALL))
    assert first.read_bytes() == second.read_bytes()
    assert sum(shown) == 5
    other = make_heads(HeadsConfig(out=str(tmp_path / "c.zip"), workers=1, **{**SMALL, "seed": 4}))
    assert other.read_bytes() != first.read_bytes()
    summary = check_archive(first)
    assert summary.codes.shape == (5, NUM_CODES) and summary.resolution == 32
    seeds = summary.recipe["head_seeds"]
    assert seeds == [head_seed(3, i) for i in (0, 0, 1, 1, 2)]
    np.testing.assert_array_equal(summary.codes, np.stack([head_codes(s) for s in seeds]))
    np.testing.assert_array_equal(summary.labels[2:4], head_cameras(HeadsConfig(seed=3), 1).numpy())


def test_background_is_exactly_black_and_heads_are_not():
    image = render_views(head_parameters(6), lookat_c2w(0.0, 0.0)[None], resolution=64)[0, 0]
    assert (image[0] == 0).all() and (image[:, 0] == 0)[:48].all()
    assert image[20:44, 24:40].min() >= 30
    assert image[-1, 26:38].min() > 0  # the neck leaves the picture at its lower edge


def test_contact_sheet_size():
    assert contact_sheet([0, 1], resolution=32, poses=[(0.0, 0.0), (0.5, 0.25), (-0.5, 0.0)]).shape == (64, 96, 3)


def test_config_names_every_fault():
    faults = HeadsConfig(resolution=48, workers=0, seed=5000, yaw_max=3.0, num_images=0).validate()
    names = [fault.split(":")[0].split("_std")[0] for fault in faults]
    assert names == ["workers", "num_images", "resolution", "seed", "yaw"]
    with pytest.raises(ValueError, match="resolution: 48 must be a power of two"):
        make_heads(HeadsConfig(resolution=48))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("yaw_std", math.inf), ("pitch_std", math.nan), ("yaw_std", 1e10), ("pitch_std", -0.1), ("yaw_max", -0.1),
        ("pitch_max", 1.3), ("yaw_max", 1e-9), ("workers", 10**20), ("workers", 0), ("contact_heads", -1),
        ("contact_heads", 10**6), ("views_per_head", 10**6), ("num_images", 2 * 10**6 + 1), ("num_images", -1),
        ("resolution", 2**40), ("resolution", 4), ("seed", -1), ("seed", 2**40), ("out", ""),
    ],
)  # fmt: skip
def test_values_that_can_only_be_mistakes(field, value):
    faults = faults_of(dataclasses.replace(HeadsConfig(), **{field: value}))
    assert len(faults) == 1
    assert faults[0].startswith(field.partition("_")[0])


def test_limits_that_are_meant_pass():
    for changes in ({"yaw_std": 0.0}, {"yaw_max": 0.0, "pitch_max": 0.0}, {"yaw_std": 30.0}, {"num_images": 2 * 10**6}):
        assert faults_of(dataclasses.replace(HeadsConfig(), **changes)) == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--help"], 0, "views_per_head"),
        (["num_images=2", "resolution=16", "workers=1", "out={}/x.zip"], 0, "data set: "),
        (["yaw_std=inf"], 2, "yaw_std: inf is not a finite number"),
        (["resolution=48"], 2, "resolution: 48 must be a power of two"),
        (["resolutoin=64"], 2, "resolution"),
    ],
)
def test_command(tmp_path, arguments, code, text):
    arguments = [argument.format(tmp_path) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "dataset_preprocessing.synthetic_heads", *arguments], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
