"""Discriminator augmentation: random transforms of real and generated images alike. Source: ADA (2020), appendix B.

Every transform is applied to a sample with probability `p` times its weight. Geometry is one affine map a sample, which
`forward` returns so that camera labels can follow (`eg3d.cameras.transformed_labels`). Samples that only flip, turn by
right angles or move by whole pixels are copied pixel by pixel; all others are resampled at twice the resolution through
orthogonal sym6 filters, which lose nothing. Shape letters: N batch, C channels (a multiple of 3), H image side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eg3d.networks.bilinear import look_up
from eg3d.networks.convolution import conv2d, conv_transpose2d
from eg3d.networks.resampling import fast_layout
from eg3d.random_streams import Rng, normal, uniform

# Orthonormal low-pass filters of Daubechies' least asymmetric wavelets of order 2 and 6 (Ten Lectures, table 6.3).
SYM2 = np.array([1 + 3**0.5, 3 + 3**0.5, 3 - 3**0.5, 1 - 3**0.5]) / (4 * 2**0.5)
SYM6 = np.array(
    [
        0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
        0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
        0.0017677118642428036, -0.007800708325034148,
    ]
)  # fmt: skip
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # expected power of natural images in the four bands of the image filter
NUM_UNIFORM, NUM_NORMAL = 29, 12  # numbers that a sample draws, whatever its transforms, so that streams stay in step

GROUPS = {
    "blit": ("xflip", "rotate90", "xint"),
    "geom": ("scale", "rotate", "aniso", "xfrac"),
    "color": ("brightness", "contrast", "lumaflip", "hue", "saturation"),
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
}
PIPES = {
    **{name: (name,) for name in GROUPS},
    "bg": ("blit", "geom"),
    "bgc": ("blit", "geom", "color"),
    "bgcf": ("blit", "geom", "color", "filter"),
    "bgcfn": ("blit", "geom", "color", "filter", "noise"),
    "bgcfnc": ("blit", "geom", "color", "filter", "noise", "cutout"),
}


@dataclass
class AugmentConfig:
    """Weights of the transforms (0 = never, 1 = with probability p) and their strengths, as published."""

    xflip: float = 1.0
    rotate90: float = 1.0
    xint: float = 1.0
    xint_max: float = 0.125  # image widths, uniform
    scale: float = 1.0
    scale_std: float = 0.2  # of log2
    rotate: float = 1.0
    rotate_max: float = 1.0  # half turns to either side
    aniso: float = 1.0
    aniso_std: float = 0.2  # of log2
    xfrac: float = 1.0
    xfrac_std: float = 0.125  # image widths
    brightness: float = 1.0
    brightness_std: float = 0.2  # of the colour range -1 to 1
    contrast: float = 1.0
    contrast_std: float = 0.5  # of log2
    lumaflip: float = 1.0
    hue: float = 1.0
    hue_max: float = 1.0  # half turns to either side
    saturation: float = 1.0
    saturation_std: float = 1.0  # of log2
    imgfilter: float = 0.0
    imgfilter_bands: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0, 1.0])
    imgfilter_std: float = 1.0  # of log2
    noise: float = 0.0
    noise_std: float = 0.1
    cutout: float = 0.0
    cutout_size: float = 0.5  # image widths

    def validate(self) -> list[str]:
        faults = [f"{f.name}: {getattr(self, f.name)} is below 0" for f in fields(self) if _is_negative(self, f.name)]
        if len(self.imgfilter_bands) != 4:
            faults.append(f"imgfilter_bands: four weights, got {len(self.imgfilter_bands)}")
        return faults


def _is_negative(cfg: AugmentConfig, name: str) -> bool:
    value = getattr(cfg, name)
    return min(value, default=0) < 0 if isinstance(value, list) else value < 0


def pipe_config(name: str) -> AugmentConfig:
    """The transforms that a published name stands for, such as bgc: blits, geometry and colours."""
    if name not in PIPES:
        raise ValueError(f"augpipe: {name!r} is not one of {', '.join(PIPES)}")
    wanted = {transform for group in PIPES[name] for transform in GROUPS[group]}
    every = (transform for group in GROUPS.values() for transform in group)
    return AugmentConfig(**{transform: float(transform in wanted) for transform in every})


class AugmentPipe(nn.Module):
    """The augmentation; its state is `p`, which training may adapt, and the two filters (named as published)."""

    p: Tensor  # []
    Hz_geom: Tensor  # [12]
    Hz_fbank: Tensor  # [4, 43]

    def __init__(self, cfg: AugmentConfig, p: float = 0.0) -> None:
        super().__init__()
        faults = cfg.validate()
        if faults:
            raise ValueError("augmentation: " + "; ".join(faults))
        self.cfg = cfg
        self.register_buffer("p", torch.tensor(float(p)))
        self.register_buffer("Hz_geom", torch.from_numpy(SYM6 / SYM6.sum()).float())
        self.register_buffer("Hz_fbank", torch.from_numpy(filter_bank()).float())

    def forward(self, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Transformed images [N, C, H, H] and the affine maps [N, 3, 3] that image coordinates went through.

        x in -1 to 1, its channels RGB triples that are treated alike. Coordinates are 0 to 1, right and down. A sample
        that nothing happens to is returned bit for bit. Twice differentiable in x.
        """
        gate = _Gates(uniform((len(x), NUM_UNIFORM), rng).to(x), normal((len(x), NUM_NORMAL), rng).to(x), float(self.p))
        blit = _blits(self.cfg, gate, x.shape[-1])
        general, is_general = _geometry(self.cfg, gate)
        centred = general @ blit
        is_blit = (blit != torch.eye(3).to(x)).flatten(1).any(1) & ~is_general
        x = _on_rows(x, is_blit, lambda part, rows: copied_pixels(part, centred[rows]))
        x = _on_rows(x, is_general, lambda part, rows: resampled(part, centred[rows], self.Hz_geom))
        x = self._coloured(x, gate)
        x = self._filtered(x, gate)
        x = self._noisy(x, gate, rng)
        return self._cut(x, gate), _shifted(centred)

    def _coloured(self, x: Tensor, gate: _Gates) -> Tensor:
        matrices, is_changed = _colours(self.cfg, gate)

        def change(part: Tensor, rows: Tensor) -> Tensor:
            triples = part.unflatten(1, (-1, 3)).flatten(3)
            turned = matrices[rows, None, :3, :3] @ triples + matrices[rows, None, :3, 3:]
            return turned.view_as(part)

        return _on_rows(x, is_changed, change)

    def _filtered(self, x: Tensor, gate: _Gates) -> Tensor:
        cfg, power = self.cfg, torch.tensor(BAND_POWER).to(x)
        gains, is_changed = torch.ones(len(x), 4).to(x), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for band, weight in enumerate(cfg.imgfilter_bands):
            is_on, strength = gate(cfg.imgfilter * weight), gate.lognormal(cfg.imgfilter_std)
            single = torch.ones_like(gains)
            single[:, band] = torch.where(is_on, strength, 1.0)
            gains = gains * torch.where(is_on[:, None], single / (power * single**2).sum(1, keepdim=True).sqrt(), 1.0)
            is_changed |= is_on
        return _on_rows(x, is_changed, lambda part, rows: _separable(part, gains[rows] @ self.Hz_fbank))

    def _noisy(self, x: Tensor, gate: _Gates, rng: Rng) -> Tensor:
        is_on, strength = gate(self.cfg.noise), gate.normal().abs() * self.cfg.noise_std
        if self.cfg.noise == 0:
            return x
        noise = normal(x.shape, rng).to(x) * strength[:, None, None, None]
        return _on_rows(x, is_on, lambda part, rows: part + noise[rows])

    def _cut(self, x: Tensor, gate: _Gates) -> Tensor:
        is_on, centre = gate(self.cfg.cutout), torch.stack([gate.uniform(), gate.uniform()], dim=1)
        place = (torch.arange(x.shape[-1], device=x.device) + 0.5) / x.shape[-1]
        is_near = (place - centre[:, :, None]).abs() < self.cfg.cutout_size / 2
        is_kept = ~(is_near[:, 1, :, None] & is_near[:, 0, None, :])
        return _on_rows(x, is_on, lambda part, rows: part * is_kept[rows, None].to(part))


class _Gates:
    """The numbers of a batch, handed out in order, one a sample: whether a transform happens, and how strongly."""

    def __init__(self, uniforms: Tensor, normals: Tensor, p: float) -> None:
        self.p, self._uniforms, self._normals = p, iter(uniforms.unbind(1)), iter(normals.unbind(1))

    def __call__(self, weight: float) -> Tensor:
        return self.at(self.p * weight)

    def at(self, probability: float) -> Tensor:
        return next(self._uniforms) < probability

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * next(self._uniforms)

    def normal(self) -> Tensor:
        return next(self._normals)

    def lognormal(self, std: float) -> Tensor:
        return torch.exp2(self.normal() * std)


def _blits(cfg: AugmentConfig, gate: _Gates, side: int) -> Tensor:
    """Flips, right angles and whole pixels: [N, 3, 3], centred coordinates in image widths."""
    is_on, coin = gate(cfg.xflip), gate.uniform()
    G = _matrix(torch.where(is_on & (coin < 0.5), -1.0, 1.0).to(coin), 0, 0, 1)
    is_on, turn = gate(cfg.rotate90), (gate.uniform() * 4).floor()
    turn = torch.where(is_on, turn, 0.0)
    cos, sin = ((turn == k).to(turn) - (turn == k + 2).to(turn) for k in (0, 1))
    G = _matrix(cos, -sin, sin, cos) @ G
    is_on, move = gate(cfg.xint), [gate.uniform(-cfg.xint_max, cfg.xint_max) for _ in range(2)]
    x, y = (torch.where(is_on, (m * side).round() / side, 0.0) for m in move)
    return _matrix(1, 0, 0, 1, x, y) @ G


def _geometry(cfg: AugmentConfig, gate: _Gates) -> tuple[Tensor, Tensor]:
    """All other geometry [N, 3, 3], and where there is any [N]."""
    is_on, s = gate(cfg.scale), gate.lognormal(cfg.scale_std)
    is_any, s = is_on, torch.where(is_on, s, 1.0)
    G = _matrix(s, 0, 0, s)
    half = 1 - math.sqrt(1 - min(gate.p * cfg.rotate, 1.0))  # so that p is the chance of a rotation before or after
    before, first = gate.at(half), gate.uniform(-math.pi, math.pi) * cfg.rotate_max
    G = _rotation(torch.where(before, first, 0.0)) @ G
    is_on, s = gate(cfg.aniso), gate.lognormal(cfg.aniso_std)
    is_any, s = is_any | is_on, torch.where(is_on, s, 1.0)
    G = _matrix(s, 0, 0, 1 / s) @ G
    after, second = gate.at(half), gate.uniform(-math.pi, math.pi) * cfg.rotate_max
    G = _rotation(torch.where(after, second, 0.0)) @ G
    is_on, move = gate(cfg.xfrac), [gate.normal() * cfg.xfrac_std for _ in range(2)]
    x, y = (torch.where(is_on, m, 0.0) for m in move)
    return _matrix(1, 0, 0, 1, x, y) @ G, is_any | before | after | is_on


def _colours(cfg: AugmentConfig, gate: _Gates) -> tuple[Tensor, Tensor]:
    """Affine maps of colours [N, 4, 4], and where there is any [N]."""
    is_on, b = gate(cfg.brightness), gate.normal() * cfg.brightness_std
    is_any, C = is_on, torch.eye(4).to(b).repeat(len(b), 1, 1)
    C[:, :3, 3] = torch.where(is_on, b, 0.0)[:, None]
    is_on, s = gate(cfg.contrast), gate.lognormal(cfg.contrast_std)
    is_any = is_any | is_on
    C = torch.cat([C[:, :3] * torch.where(is_on, s, 1.0)[:, None, None], C[:, 3:]], dim=1)
    grey = torch.full((3,), 1 / math.sqrt(3)).to(b)
    luma, eye = torch.outer(grey, grey), torch.eye(3).to(b)
    is_on, coin = gate(cfg.lumaflip), (gate.uniform() < 0.5).to(b)
    is_any = is_any | is_on
    C = _linear(eye - 2 * luma * torch.where(is_on, coin, 0.0)[:, None, None]) @ C
    is_on, angle = gate(cfg.hue), gate.uniform(-math.pi, math.pi) * cfg.hue_max
    is_any, angle = is_any | is_on, torch.where(is_on, angle, 0.0)[:, None, None]
    cross = grey[0] * torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]).to(b)
    C = _linear(luma + angle.cos() * (eye - luma) + angle.sin() * cross) @ C  # Rodrigues' rotation about grey
    is_on, s = gate(cfg.saturation), gate.lognormal(cfg.saturation_std)
    is_any = is_any | is_on
    return _linear(luma + (eye - luma) * torch.where(is_on, s, 1.0)[:, None, None]) @ C, is_any


def _matrix(a, b, c, d, x=0, y=0) -> Tensor:
    """[N, 3, 3] with rows (a, b, x), (c, d, y), (0, 0, 1) of numbers and tensors [N]."""
    entries = (a, b, x, c, d, y, 0, 0, 1)
    like = next(v for v in entries if isinstance(v, Tensor))
    columns = [v if isinstance(v, Tensor) else torch.full_like(like, v) for v in entries]
    return torch.stack(columns, dim=-1).unflatten(-1, (3, 3))


def _rotation(angle: Tensor) -> Tensor:
    return _matrix(angle.cos(), -angle.sin(), angle.sin(), angle.cos())


def _linear(m: Tensor) -> Tensor:
    """[N, 3, 3] as a colour map [N, 4, 4]."""
    m = F.pad(m, [0, 1, 0, 1])
    m[:, 3, 3] = 1
    return m


def _shifted(centred: Tensor) -> Tensor:
    """A map of centred coordinates as one of coordinates from 0 to 1."""
    shift = torch.eye(3).to(centred)
    shift[:2, 2] = 0.5
    back = torch.eye(3).to(centred)
    back[:2, 2] = -0.5
    return shift @ centred @ back


def _on_rows(x: Tensor, is_changed: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """x with `change(x[rows], rows)` in the rows that are to change; the others stay as they are."""
    rows = is_changed.nonzero().squeeze(1)
    return x if len(rows) == 0 else x.index_copy(0, rows, change(x[rows], rows))


def copied_pixels(x: Tensor, G: Tensor) -> Tensor:
    """Images [N, C, H, H] moved pixel by pixel; G [N, 3, 3] turns by right angles and moves by whole pixels.

    What comes in from outside is reflected at the borders.
    """
    side = x.shape[-1]
    centres = torch.arange(side, device=x.device, dtype=G.dtype) - (side - 1) / 2
    v, u = torch.meshgrid(centres, centres, indexing="ij")
    moved = torch.stack([u.reshape(-1), v.reshape(-1)]) - (G[:, :2, 2:] * side).round()
    source = (G[:, :2, :2].transpose(1, 2) @ moved + (side - 1) / 2).round().long()
    source = (side - 1) - ((side - 1) - source.abs()).abs()
    index = (source[:, 1] * side + source[:, 0])[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).view_as(x)


def resampled(x: Tensor, G: Tensor, taps: Tensor) -> Tensor:
    """Images [N, C, H, H] through affine maps G [N, 3, 3] of centred coordinates in image widths, borders reflected.

    Enlarged twice by the filter `taps` [T] (sum 1), looked up bilinearly, shrunk by the same filter: the identity gives
    x back, because an orthogonal wavelet's filter and its adjoint do.
    """
    side, num = x.shape[-1], len(taps)
    delay = float((taps * torch.arange(num).to(taps)).sum())  # pixel j lies at 2 j + delay in the enlarged image
    inverse = torch.linalg.inv(G)
    reach = (side - 1) / 2 + num / 4  # how far from the centre the enlarged result is wanted
    extent = (inverse[:, :2, :2].abs().sum(2) * reach + inverse[:, :2, 2].abs() * side).max()
    margin = min(max(math.ceil(float(extent) - (side - 1) / 2) + num // 2, 0), side - 1)
    x = fast_layout(F.pad(x, [margin] * 4, mode="reflect"))  # the enlargement takes 8 instead of 100 ms
    x = _wavelet(x, taps, is_up=True)
    place = (torch.arange(2 * side + num - 2, device=x.device).to(G) - delay) / 2 - (side - 1) / 2
    v, u = torch.meshgrid(place, place, indexing="ij")
    wanted = torch.stack([u.reshape(-1), v.reshape(-1)])
    source = inverse[:, :2, :2] @ wanted + inverse[:, :2, 2:] * side
    source = 2 * (source + (side - 1) / 2 + margin) + delay
    grid = ((2 * source + 1) / x.shape[-1] - 1).transpose(1, 2).unflatten(1, (len(place), len(place)))
    return _wavelet(fast_layout(look_up(x, grid)), taps, is_up=False)


def _wavelet(x: Tensor, taps: Tensor, *, is_up: bool) -> Tensor:
    """Both axes to twice the pixels (with gain 2 an axis), or to half of them."""
    channels = x.shape[1]
    for shape, stride in (((1, -1), (1, 2)), ((-1, 1), (2, 1))):
        kernel = taps.to(x).view(1, 1, *shape).expand(channels, 1, -1, -1)
        if is_up:
            x = conv_transpose2d(x, 2 * kernel, stride=stride, groups=channels)
        else:
            x = conv2d(x, kernel, stride=stride, groups=channels)
    return x


def _separable(x: Tensor, taps: Tensor) -> Tensor:
    """Every image [N, C, H, H] through its own symmetric filter [N, T] along both axes, borders reflected."""
    n, channels, side, _ = x.shape
    pad = taps.shape[1] // 2
    x = F.pad(x, [pad] * 4, mode="reflect" if pad < side else "replicate")
    x = x.reshape(1, n * channels, *x.shape[2:])
    kernel = taps.to(x).repeat_interleave(channels, 0)[:, None]
    x = conv2d(x, kernel[:, :, None, :], groups=n * channels)
    return conv2d(x, kernel[:, :, :, None], groups=n * channels).view(n, channels, side, side)


def filter_bank() -> np.ndarray:
    """Zero-phase filters [4, 43] of four octave bands, low to high, that add up to the identity."""
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = low * (-1.0) ** (np.arange(len(low)) - len(low) // 2)
    bands, passed = [], np.ones(1)
    for factor in (1, 2, 4):
        bands.append(np.convolve(passed, _spread(high, factor)))
        passed = np.convolve(passed, _spread(low, factor))
    bands.append(passed)
    size = len(passed)
    return np.stack([np.pad(band, (size - len(band)) // 2) for band in reversed(bands)])


def _spread(taps: np.ndarray, factor: int) -> np.ndarray:
    """Taps with factor - 1 zeros between them."""
    spread = np.zeros(factor * (len(taps) - 1) + 1)
    spread[::factor] = taps
    return spread
