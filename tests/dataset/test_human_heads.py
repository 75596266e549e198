"""Portraits: closed parts, cameras and labels that agree with the pictures, the same bytes every time."""

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
from dataset_preprocessing.human_heads.codes import (
    CODE_NAMES,
    GLASSES_SHARE,
    HAIR_STYLES,
    LAST_STYLE,
    NUM_CODES,
    NUM_SHAPE,
    head_codes,
    looks,
    shape_codes,
)
from dataset_preprocessing.human_heads.distance import surface_distance
from dataset_preprocessing.human_heads.parts import is_closed
from dataset_preprocessing.human_heads.portrait import portrait, portrait_parts
from dataset_preprocessing.human_heads.render import FFHQ_FOCAL, contact_sheet, render
from dataset_preprocessing.human_heads.run import HeadsConfig, head_cameras, head_seed, make_heads, pictures
from dataset_preprocessing.human_heads.truth import true_depth_normals, true_distance, true_mesh, true_occupancy
from eg3d.cameras import intrinsics, lookat_c2w, split_label
from eg3d.config_checks import faults_of
from eg3d.ops.density_grid.grid import GridSpec, grid_points
from eg3d.rendering.rays import pixel_rays

SMALL = {"num_images": 5, "resolution": 32, "seed": 3}
STYLES = (*HAIR_STYLES, LAST_STYLE)


def styled(seed: int, style: str, *, glasses: bool = False) -> np.ndarray:
    """The code of head `seed` with this style of hair."""
    codes = head_codes(seed)
    ends = [0.0, *HAIR_STYLES.values(), 1.0]
    place = STYLES.index(style)
    share = torch.tensor((ends[place] + ends[place + 1]) / 2, dtype=torch.float64)
    codes[CODE_NAMES.index("hair_style")] = torch.special.ndtri(share).item()
    codes[CODE_NAMES.index("glasses")] = 2.5 if glasses else -1.0
    return codes


def extreme(sign: float, style: str) -> np.ndarray:
    """Every number at one of its ends, with this style of hair and glasses."""
    codes = styled(0, style, glasses=True)
    kept = [CODE_NAMES.index(name) for name in ("hair_style", "glasses")]
    ends = np.full(NUM_CODES, 6.0 * sign, dtype=np.float32)
    ends[:NUM_SHAPE] = np.where(np.arange(NUM_SHAPE) % 2, 1.0, -1.0) * sign * 1.5
    ends[kept] = codes[kept]
    return ends


def front() -> np.ndarray:
    return lookat_c2w(0.0, 0.0)[0].numpy()


def test_codes_are_standard_normal_and_repeat():
    codes = np.stack([head_codes(seed) for seed in range(2000)])
    assert codes.shape == (2000, len(CODE_NAMES)) and codes.dtype == np.float32 and NUM_CODES <= 64
    assert np.abs(codes.mean(0)).max() < 0.1 and np.abs(codes.std(0) - 1).max() < 0.1
    np.testing.assert_array_equal(head_codes(5), codes[5])
    assert np.abs(shape_codes(codes)).max() < 2 and shape_codes(codes).shape == (2000, NUM_SHAPE)
    with pytest.raises(ValueError, match="head codes must be"):
        portrait(codes[0, 1:])
    with pytest.raises(ValueError, match="finite"):
        portrait(np.full(NUM_CODES, np.nan))


def test_shares_of_people():
    """About one in six wears glasses; every style of hair has its share."""
    found = looks(np.stack([head_codes(seed) for seed in range(4000)]))
    assert np.mean([look.wears_glasses for look in found]) == pytest.approx(GLASSES_SHARE, abs=0.02)
    ends = [0.0, *HAIR_STYLES.values(), 1.0]
    for style, low, high in zip(STYLES, ends, ends[1:]):
        assert np.mean([look.style == style for look in found]) == pytest.approx(high - low, abs=0.025)


@pytest.mark.parametrize("style", STYLES)
def test_parts_are_closed_and_inside_the_box(style):
    for codes in (styled(1, style, glasses=True), extreme(1.0, style), extreme(-1.0, style)):
        parts = portrait_parts(codes)
        assert len({part.name for part in parts}) >= (2 if style == "bald" else 3)
        for part, surface in zip(parts, true_mesh(codes), strict=True):
            assert is_closed(part.faces), part.name
            assert surface.volume > 0, part.name  # faces look outwards
            assert np.abs(part.vertices).max() < 0.5, part.name
        assert parts[0].vertices[:, 1].min() <= -0.44  # the bust goes on below every picture


@pytest.mark.parametrize("style", STYLES)
def test_the_head_is_inside_the_picture(style):
    """Background above and beside the head, on black exactly 0 and nowhere else; the neck leaves at the lower edge.

    Heads of average size: the tallest reach the upper edge, as in FFHQ.
    """
    for seed, yaw in ((2, 0.0), (3, 0.5), (4, -0.5)):
        codes = styled(seed, style)
        codes[:NUM_SHAPE] = 0.0
        view = render(portrait(codes), lookat_c2w(yaw, 0.0)[0].numpy(), 64)
        assert (view.image[0] == 0).all() and (view.image[:28, [0, -1]] == 0).all()
        assert view.image[-1].max() > 0 and view.image[20:44, 26:38].min() > 0
        seen = view.image.max(axis=2) > 0
        assert seen[view.depth > 0].all()
        widened = torch.nn.functional.max_pool2d(torch.from_numpy(view.depth > 0).float()[None], 3, 1, 1)[0] > 0
        assert widened.numpy()[seen].mean() > 0.99  # thin parts may miss every pixel's centre


def test_a_plain_background_changes_nothing_else():
    subject = portrait(head_codes(6))
    black, plain = (render(subject, front(), 64, background=name) for name in ("black", "plain"))
    inside = torch.nn.functional.max_pool2d(torch.from_numpy(black.depth == 0).float()[None], 3, 1, 1)[0] == 0
    same = (black.image == plain.image).all(axis=2)
    assert same[inside.numpy()].mean() > 0.99  # a gap between thin parts may be smaller than a pixel
    np.testing.assert_array_equal(black.depth, plain.depth)
    assert len(np.unique(plain.image[0], axis=0)) == 1 and plain.image[0].min() > 0
    with pytest.raises(ValueError, match="background: 'white' is not one of black, plain"):
        render(subject, front(), 64, background="white")


def test_what_is_lit_is_not_flat():
    """Nobody is black in the face or burnt out, and the light comes from different sides."""
    faces = [render(portrait(styled(seed, "short")), front(), 64).image[22:44, 22:42] for seed in range(12)]
    assert all(15 < face.mean() < 220 and (face == 255).mean() < 0.05 for face in faces)
    sides = [face[:, :8].astype(float).mean() - face[:, -8:].astype(float).mean() for face in faces]
    assert max(sides) > 5 and min(sides) < -5


def test_a_known_point_is_where_the_label_says():
    """The tip of the nose lies on the ray of the pixel that its label projects it to."""
    for index in range(4):
        head = head_seed(11, index)
        tip = portrait_parts(head_codes(head))[0].vertices
        tip = tip[np.where(np.abs(tip[:, 0]) < 0.03, tip[:, 2], -1).argmax()]
        for label in head_cameras(HeadsConfig(seed=11), index):
            c2w, K = split_label(label[None])
            local = (torch.from_numpy(tip).float() - c2w[0, :3, 3]) @ c2w[0, :3, :3]
            column, row = ((local @ K[0].T)[:2] / local[2] * 128).floor().int().tolist()
            depth, _ = true_depth_normals(head_codes(head), c2w[0].numpy(), 128)
            assert depth[row, column] == pytest.approx(float(local.norm()), abs=0.012)


def test_depths_and_normals_are_those_of_the_meshes():
    """Walking along a ray by its depth ends on the surface; a little less is outside, a little more is inside."""
    codes, c2w = styled(2, "side parting"), lookat_c2w(0.4, -0.2)
    depth, normals = true_depth_normals(codes, c2w[0].numpy(), 48)
    rays = pixel_rays(c2w, intrinsics(FFHQ_FOCAL)[None], 48)
    hit = depth.reshape(-1) > 0
    points = (rays.rays_o + torch.from_numpy(depth).reshape(1, -1, 1) * rays.rays_d)[0].numpy()[hit]
    distances = [surface_distance(points, part.vertices, part.faces) for part in portrait_parts(codes)]
    assert np.min(distances, axis=0).max() < 1e-4
    length = np.linalg.norm(normals.reshape(-1, 3), axis=1)
    np.testing.assert_allclose(length[hit], 1.0, atol=1e-5)
    assert (length[~hit] == 0).all()
    towards = -(normals.reshape(-1, 3) * rays.rays_d[0].numpy()).sum(1)[hit]
    assert (towards > -0.3).mean() > 0.99 and towards.mean() > 0.6


def test_occupancy_is_inside_out_of_the_depths():
    """The first point inside along the front camera's rays lies where the depth map says, up to the grid's step."""
    codes = styled(4, "bob", glasses=False)
    inside = true_occupancy(codes, 64)
    assert inside.shape == (64, 64, 64) and not inside[[0, -1]].any() and not inside[..., [0, -1]].any()
    points = grid_points(GridSpec(64)).numpy()[inside.reshape(-1)]
    c2w, size = front(), 32
    depth, _ = true_depth_normals(codes, c2w, size)
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    pixel = np.floor((local[:, :2] / local[:, 2:] * FFHQ_FOCAL + 0.5) * size).astype(int)
    on = ((pixel >= 0) & (pixel < size)).all(1)
    pixel, reach = pixel[on], np.linalg.norm(local[on], axis=1)
    seen = depth[pixel[:, 1], pixel[:, 0]]
    assert (seen > 0).mean() > 0.97
    assert (reach > seen - 0.02).mean() > 0.99
    first = np.full((size, size), np.inf)
    np.minimum.at(first, (pixel[:, 1], pixel[:, 0]), reach)
    both = np.isfinite(first) & (depth > 0)
    assert np.median((first - depth)[both]) < 0.02
    with pytest.raises(ValueError, match="at least 2"):
        true_occupancy(codes, 1)


def test_distances_have_the_sign_of_the_occupancy_and_the_slope_of_a_distance():
    codes = styled(4, "short", glasses=True)
    distance, inside = true_distance(codes, 40), true_occupancy(codes, 40)
    part = (slice(3, 30), slice(10, 20), slice(0, 40))
    np.testing.assert_array_equal(true_distance(codes, GridSpec(40, slices=part)), distance[part])
    np.testing.assert_array_equal(distance < 0, inside)
    steps = np.abs(np.diff(distance, axis=2))[np.abs(distance[..., 1:]) < 0.06]
    assert steps.max() < 1 / 39 + 0.03 and np.quantile(steps, 0.999) < 1 / 39 + 1e-6


@pytest.mark.parametrize("style", STYLES)
def test_hair_and_glasses_leave_the_eyes_free(style):
    """From in front, what lies over the pupils is the head itself, not its hair or a frame."""
    from dataset_preprocessing.human_heads.head import head_template

    for seed in range(6):
        codes = styled(seed, style, glasses=True)
        parts, c2w, size = portrait_parts(codes), front(), 256
        alone, whole = (true_depth_normals(changed, c2w, size)[0] for changed in (styled(seed, "bald"), codes))
        for ids in head_template().eyes:
            local = (parts[0].vertices[ids].mean(0) - c2w[:3, 3]) @ c2w[:3, :3]
            column, row = np.floor((local[:2] / local[2] * FFHQ_FOCAL + 0.5) * size).astype(int)
            around = np.s_[row - 5 : row + 6, column - 5 : column + 6]
            np.testing.assert_array_equal(alone[around], whole[around])


def test_maps_are_written_on_request(tmp_path):
    cfg = HeadsConfig(out=str(tmp_path / "a.zip"), workers=1, depths=True, normals=True, **SMALL)
    summary = check_archive(make_heads(cfg))
    assert summary.depths.shape == (5, 32, 32) and summary.normals.shape == (5, 32, 32, 3)
    assert summary.recipe["depths"] is True and summary.recipe["background"] == "black"
    views = pictures(cfg, 0)[:5]
    np.testing.assert_array_equal(summary.depths, np.stack([view.depth for view in views]))
    np.testing.assert_array_equal(summary.normals, np.stack([view.normals for view in views]))
    assert summary.depths[summary.depths > 0].min() > 2.2 and summary.depths.max() < 3.35
    depth, normals = true_depth_normals(summary.codes[2], summary.labels[2, :16].reshape(4, 4), 32)
    np.testing.assert_allclose(summary.depths[2], depth, atol=1e-5)
    np.testing.assert_allclose(summary.normals[2], normals, atol=1e-4)


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
    image = np.asarray(PIL.Image.open(io.BytesIO(pictures(HeadsConfig(**SMALL), 0)[2].png)))
    np.testing.assert_array_equal(
        image, render(portrait(summary.codes[2]), summary.labels[2, :16].reshape(4, 4), 32).image
    )


def test_contact_sheet_size():
    assert contact_sheet([0, 1], resolution=32, poses=[(0.0, 0.0), (0.5, 0.25), (-0.5, 0.0)]).shape == (64, 96, 3)


def test_config_names_every_fault():
    cfg = HeadsConfig(resolution=48, workers=0, seed=5000, yaw_max=3.0, num_images=0, background="grey")
    names = [fault.split(":")[0].split("_std")[0] for fault in cfg.validate()]
    assert names == ["workers", "num_images", "resolution", "background", "seed", "yaw"]
    with pytest.raises(ValueError, match="resolution: 48 must be a power of two"):
        make_heads(HeadsConfig(resolution=48))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("yaw_std", math.inf), ("pitch_std", math.nan), ("yaw_std", 1e10), ("pitch_std", -0.1), ("yaw_max", -0.1),
        ("pitch_max", 1.3), ("yaw_max", 1e-9), ("workers", 10**20), ("workers", 0), ("contact_heads", -1),
        ("contact_heads", 10**6), ("views_per_head", 10**6), ("num_images", 2 * 10**6 + 1), ("num_images", -1),
        ("resolution", 2**40), ("resolution", 4), ("seed", -1), ("seed", 2**40), ("out", ""), ("background", ""),
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
        (["num_images=0", "contact_heads=1", "contact_sheet={}/x.png"], 0, "contact sheet: "),
        (["yaw_std=inf"], 2, "yaw_std: inf is not a finite number"),
        (["resolution=48"], 2, "resolution: 48 must be a power of two"),
        (["resolutoin=64"], 2, "resolution"),
    ],
)
def test_command(tmp_path, arguments, code, text):
    arguments = [argument.format(tmp_path) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "dataset_preprocessing.human_heads", *arguments], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
