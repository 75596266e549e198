"""Augmentation: what leaves an image alone, what is exact, what is differentiable, and where pixels go."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from eg3d.networks import augment
from eg3d.networks.augment import GROUPS, PIPES, SYM2, SYM6, AugmentConfig, AugmentPipe, pipe_config
from eg3d.random_streams import SampleStreams

ALL = pipe_config("bgcfnc")


def _images(n: int = 4, channels: int = 3, side: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1


def _streams(n: int = 4) -> SampleStreams:
    return SampleStreams.seeded(range(n))


def _only(*names: str, **strengths: float) -> AugmentConfig:
    every = {name: float(name in names) for group in GROUPS.values() for name in group}
    return AugmentConfig(**{**every, **strengths})  # type: ignore[arg-type]


@pytest.mark.parametrize("taps", [SYM2, SYM6], ids=["sym2", "sym6"])
def test_wavelets_are_orthonormal_with_vanishing_moments(taps: torch.Tensor) -> None:
    h, k = torch.tensor(taps), torch.arange(len(taps))
    assert float(h.sum()) == pytest.approx(math.sqrt(2), abs=1e-10)
    for shift in range(0, len(h), 2):
        product = float((h[shift:] * h[: len(h) - shift]).sum())
        assert product == pytest.approx(1.0 if shift == 0 else 0.0, abs=1e-10)
    for moment in range(len(h) // 2):  # the high-pass filter kills polynomials up to this degree
        assert float((h * (-1.0) ** k * (k - len(h) / 2.0) ** moment).sum()) == pytest.approx(0, abs=1e-6)


def test_the_bands_of_the_image_filter_add_up_to_the_identity() -> None:
    bank = torch.from_numpy(augment.filter_bank())
    assert bank.shape == (4, 43)
    assert torch.allclose(bank, bank.flip(1))  # zero phase
    wanted = torch.zeros(43).double()
    wanted[21] = 1
    assert torch.allclose(bank.sum(0), wanted, atol=1e-12)
    frequency = torch.tensor([0.0, math.pi])
    response = (bank[:, :, None] * torch.cos((torch.arange(43) - 21)[:, None] * frequency)).sum(1)
    assert torch.allclose(response, torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 1]]).double(), atol=1e-6)


def test_p_zero_is_the_identity_bit_for_bit() -> None:
    x = _images(channels=6)
    y, maps = AugmentPipe(ALL, p=0.0)(x, _streams())
    assert torch.equal(y, x)
    assert torch.equal(maps, torch.eye(3).expand(4, 3, 3))


def test_a_sample_that_nothing_happens_to_stays_bit_for_bit() -> None:
    x, n = _images(64, side=8), 64
    y, maps = AugmentPipe(_only("xflip", "scale", "brightness"), p=0.3)(x, _streams(n))
    is_same = (y == x).flatten(1).all(1)
    assert 10 < int(is_same.sum()) < 40  # 0.7^2 (1 - 0.3 / 2) = 0.42 of 64
    assert (maps[is_same] == torch.eye(3)).all()


def test_the_identity_survives_resampling() -> None:
    x = _images(side=24)
    y = augment.resampled(x, torch.eye(3).expand(4, 3, 3), AugmentPipe(ALL).Hz_geom)
    assert torch.allclose(y, x, atol=2e-4)  # float32 coordinates of the look-up


def _quarter_turns(k: int, flip: bool = False) -> Tensor:
    cos, sin = round(math.cos(k * math.pi / 2)), round(math.sin(k * math.pi / 2))
    turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return (turn @ torch.diag(torch.tensor([-1.0 if flip else 1.0, 1.0, 1.0])))[None]


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_flips_and_right_angles_are_exact(side: int, k: int, flip: bool) -> None:
    x = _images(1, side=side)
    wanted = torch.rot90(x.flip(-1) if flip else x, k=-k, dims=(2, 3))  # rows go down: positive angles turn clockwise
    assert torch.equal(augment.copied_pixels(x, _quarter_turns(k, flip)), wanted)


def test_whole_pixels_move_and_reflect() -> None:
    x = _images(1, side=8)
    G = torch.eye(3)[None].clone()
    G[0, :2, 2] = torch.tensor([1 / 8, -2 / 8])
    y = augment.copied_pixels(x, G)
    assert torch.equal(y[..., :6, 1:], x[..., 2:, :7])
    assert torch.equal(y[..., :6, 0], x[..., 2:, 1])  # reflected about the first column
    assert torch.equal(y[..., 6:, 1:], x[..., [6, 5], :7])


@pytest.mark.parametrize("name", ["xflip", "rotate90", "xint"])
def test_blits_permute_pixels(name: str) -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8).expand(32, 3, -1, -1)
    y, maps = AugmentPipe(_only(name), p=1.0)(x, _streams(32))
    assert set(y.unique().tolist()) <= set(range(64))
    if name != "xint":
        assert torch.equal(y.flatten(2).sort().values, x.flatten(2))
    kinds = len({tuple(m.flatten().tolist()) for m in maps})
    assert kinds == {"xflip": 2, "rotate90": 4, "xint": 9}[name]  # up to 1 of 8 pixels each way


def _blob(side: int, u: float, v: float) -> Tensor:
    """A round spot at image coordinates (u, v)."""
    place = (torch.arange(side) + 0.5) / side
    square = (place[None, :] - u) ** 2 + (place[:, None] - v) ** 2
    return torch.exp(-square / (2 * 0.05**2)).expand(1, 3, -1, -1)


@pytest.mark.parametrize("pipe", ["blit", "geom", "bg"])
def test_maps_say_where_pixels_went(pipe: str) -> None:
    n, side, at = 12, 48, (0.56, 0.44)
    y, maps = AugmentPipe(pipe_config(pipe), p=1.0)(_blob(side, *at).repeat(n, 1, 1, 1), _streams(n))
    wanted = (maps @ torch.tensor([*at, 1.0]))[:, :2]
    place = (torch.arange(side) + 0.5) / side
    for k in range(n):
        if not ((wanted[k] > 0.2) & (wanted[k] < 0.8)).all():
            continue
        near = torch.stack(torch.meshgrid(place, place, indexing="xy"))
        weight = y[k, 0].clamp_min(0) * ((near - wanted[k][:, None, None]).norm(dim=0) < 0.2)
        found = (near * weight).sum((1, 2)) / weight.sum()
        assert torch.allclose(found, wanted[k], atol=0.5 / side), (k, found, wanted[k])  # half a pixel


@pytest.mark.parametrize("name", [*(name for group in GROUPS.values() for name in group)])
def test_each_transform_does_something_to_about_every_second_sample(name: str) -> None:
    n = 48
    x = _images(n, side=8)
    y, _ = AugmentPipe(_only(name), p=0.5)(x, _streams(n))
    changed = float((y != x).flatten(1).any(1).float().mean())
    share = {"xflip": 0.25, "rotate90": 0.375, "lumaflip": 0.25, "xint": 0.444, "imgfilter": 1 - 0.5**4}.get(name, 0.5)
    assert changed == pytest.approx(share, abs=0.22)  # three deviations of 48 coins
    assert torch.isfinite(y).all()


def test_colours_keep_grey_grey_and_hue_keeps_luma() -> None:
    x = _images(8)
    grey = x[:, :1].expand(-1, 3, -1, -1)
    y, _ = AugmentPipe(pipe_config("color"), p=1.0)(grey, _streams(8))
    assert torch.allclose(y, y[:, :1].expand_as(y), atol=1e-5)
    turned, _ = AugmentPipe(_only("hue", "saturation"), p=1.0)(x, _streams(8))
    assert torch.allclose(turned.mean(1), x.mean(1), atol=1e-5)
    hue, _ = AugmentPipe(_only("hue"), p=1.0)(x, _streams(8))
    assert torch.allclose(hue.norm(dim=1), x.norm(dim=1), atol=1e-5)


def test_a_luma_flip_twice_is_nothing() -> None:
    pipe, x = AugmentPipe(_only("lumaflip"), p=1.0), _images(8)
    once, _ = pipe(x, _streams(8))
    twice, _ = pipe(once, _streams(8))
    assert not torch.equal(once, x)
    assert torch.allclose(twice, x, atol=1e-5)


def test_both_triples_of_six_channels_are_treated_alike() -> None:
    x = _images(6, channels=3)
    for name in ("bgcf", "cutout"):
        y, _ = AugmentPipe(pipe_config(name), p=1.0)(torch.cat([x, x], dim=1), _streams(6))
        assert torch.allclose(y[:, :3], y[:, 3:], atol=1e-6)


def test_cutout_blacks_out_a_square() -> None:
    y, _ = AugmentPipe(_only("cutout"), p=1.0)(torch.ones(20, 3, 16, 16), _streams(20))
    assert set(y.unique().tolist()) == {0.0, 1.0}
    holes = (y[:, 0] == 0).float()
    sides = holes.amax(1).sum(1), holes.amax(2).sum(1)
    assert torch.equal(holes.sum((1, 2)), sides[0] * sides[1])
    assert max(float(sides[0].max()), float(sides[1].max())) <= 8


def test_samples_do_not_depend_on_their_neighbours() -> None:
    x, pipe = _images(6, side=32), AugmentPipe(ALL, p=0.8)
    together, maps = pipe(x, _streams(6))
    rows = [4, 1]
    alone, own = pipe(x[rows], _streams(6).rows(rows))
    assert torch.equal(own, maps[rows])
    assert torch.allclose(alone, together[rows], atol=1e-3)  # other margins, other rounding of look-up coordinates


@pytest.mark.parametrize("cfg", [dataclasses.replace(ALL, noise=0.0), pipe_config("blit")], ids=["all", "blit"])
def test_differentiable_twice(cfg: AugmentConfig) -> None:
    pipe, x = AugmentPipe(cfg, p=1.0).double(), _images(2, side=6, dtype=torch.float64).requires_grad_(True)

    def change(images: Tensor) -> Tensor:
        return pipe(images, _streams(2))[0]

    assert torch.autograd.gradcheck(change, (x,), atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda images: change(images) ** 2, (x,), atol=1e-6, fast_mode=True)


def test_names_of_pipes_and_faults() -> None:
    assert {name for name in PIPES if pipe_config(name).imgfilter} == {"filter", "bgcf", "bgcfn", "bgcfnc"}
    assert pipe_config("bgc") == AugmentConfig()
    with pytest.raises(ValueError, match="augpipe: 'bcg' is not one of blit, geom"):
        pipe_config("bcg")
    faults = AugmentConfig(xflip=-1, imgfilter_bands=[1]).validate()
    assert [fault.split(":")[0] for fault in faults] == ["xflip", "imgfilter_bands"]
    with pytest.raises(ValueError, match="xflip: -1 is below 0"):
        AugmentPipe(AugmentConfig(xflip=-1))


def test_state_has_the_published_names() -> None:
    shapes = {name: list(tensor.shape) for name, tensor in AugmentPipe(AugmentConfig()).state_dict().items()}
    assert shapes == {"p": [], "Hz_geom": [12], "Hz_fbank": [4, 43]}
