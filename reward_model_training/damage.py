"""Known damage to slabs of raw density, graded from none to full; and changes that must not matter.

A reward that is worth following puts every damaged slab below the clean one, and severe damage below mild; and it says
the same of what is the same shape (`ties`). Lengths are world units, so that a severity means the same at any
resolution; a seed names where damage goes, the same places at every severity. Damage sits on the visible front, mostly
in the face window, where the raw density crosses the surface's level (as for the simulated annotator).

A new kind is a function `(Front, severity [N, 1, 1], draws) -> slabs [N, X, Y, Z]` with a docstring that says what a
person would see, decorated with `damage` or `tie`. Shapes: N slabs, X, Y, Z their sides, K things on a face.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eg3d.config_checks import require_one_of
from reward_model_training.front_surface import Front, along, blurred

LEVEL = 10.0  # raw density of the surface, as for the simulated annotator
WIDE_X, WIDE_Y = (0.15, 0.85), (0.2, 0.9)  # slab fractions: all of a face's front
FEATURES_X, FEATURES_Y = (0.25, 0.75), (0.2, 0.75)  # slab fractions: brows to mouth
NOSE_X, NOSE_Y = (0.43, 0.57), (0.3, 0.48)  # slab fractions around the nose
SHIFT = 1 / 63  # world units: a voxel of a 64-point grid
BEYOND = 3.0  # a hot voxel has this many times the slab's largest or smallest density
STRAY_VOXELS = 6  # at full severity

Change = Callable[[Front, Tensor, "Draws"], Tensor]


class Kind(NamedTuple):
    """One kind of change."""

    change: Change
    is_tie: bool  # the shape stays the same to a person

    @property
    def meaning(self) -> str:
        """What a person would see."""
        return " ".join((self.change.__doc__ or "").partition("\n\n")[0].split())


KINDS: dict[str, Kind] = {}


def damage(change: Change) -> Change:
    """Decorator: a kind of damage, by the function's name."""
    KINDS[change.__name__.strip("_")] = Kind(change, is_tie=False)
    return change


def tie(change: Change) -> Change:
    """Decorator: a kind of change that must not matter, by the function's name."""
    KINDS[change.__name__.strip("_")] = Kind(change, is_tie=True)
    return change


def damages() -> tuple[str, ...]:
    """Names of all kinds of damage."""
    return tuple(name for name, kind in KINDS.items() if not kind.is_tie)


def ties() -> tuple[str, ...]:
    """Names of all changes that must not matter."""
    return tuple(name for name, kind in KINDS.items() if kind.is_tie)


class Draws:
    """Uniform numbers for N slabs, each from a generator of its own that (seed, kind) names."""

    def __init__(self, name: str, seeds: Sequence[int], device: torch.device) -> None:
        # PyTorch's generator on the CPU takes 32 bits of a seed and drops the others.
        texts = [hashlib.sha256(f"{name} {seed}".encode()).digest() for seed in seeds]
        self._rngs = [torch.Generator().manual_seed(int.from_bytes(text[:4], "big")) for text in texts]
        self._device = device

    def uniform(self, *shape: int) -> Tensor:
        """[N, *shape] in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=rng) for rng in self._rngs]).to(self._device)


@torch.no_grad()
def damaged(
    x: Tensor,
    name: str,
    severity: float | Sequence[float],
    seed: int | Sequence[int],
    *,
    voxel: float,
    level: float = LEVEL,
) -> Tensor:
    """Slabs of raw density with a change done to them, float32; without gradient.

    x [N, X, Y, Z] or [X, Y, Z], any float type; severity 0 (x as it is, to the bit) to 1, and seed: one, or one a slab;
    voxel: world units between neighbouring points. The same arguments give the same slabs, whatever else is in the
    batch. Raises ValueError for an unknown name, another shape or a severity outside 0 to 1.
    """
    require_one_of("damage", name, tuple(KINDS))
    if x.ndim not in (3, 4) or min(x.shape) < 1 or min(x.shape[-3:]) < 2:
        raise ValueError(f"x must be [N, X, Y, Z] or [X, Y, Z] with 2 points or more a side, got {list(x.shape)}")
    slabs = (x[None] if x.ndim == 3 else x).float()
    severities = [float(severity)] * len(slabs) if isinstance(severity, (int, float)) else list(map(float, severity))
    seeds = [seed] * len(slabs) if isinstance(seed, int) else list(seed)
    if not len(severities) == len(seeds) == len(slabs):
        raise ValueError(f"expected a severity and a seed for each of {len(slabs)} slabs, got {len(severities)}")
    if not all(0 <= each <= 1 for each in severities):
        raise ValueError(f"severity must lie in 0 to 1, got {severities}")
    if not voxel > 0:
        raise ValueError(f"voxel must be above 0 world units, got {voxel}")
    amount = torch.tensor(severities, device=slabs.device)[:, None, None]
    made = KINDS[name].change(Front(slabs, voxel, level), amount, Draws(name, seeds, slabs.device))
    made = torch.where(amount[..., None] > 0, made, slabs)
    return made[0] if x.ndim == 3 else made


def _growth(severity: Tensor, number: int, count: int) -> Tensor:
    """[N, 1, 1]: how much of the `number`-th of `count` things there is: they come one after another."""
    return (severity * count - number).clamp(0, 1)


def _bells(front: Front, places: Tensor, width: Tensor, size: Tensor) -> Tensor:
    """[N, X, Y]: the highest of K round hills at places [N, K, 2], with widths and sizes [N, K]."""
    hills = torch.zeros_like(front.height)
    for k in range(places.shape[1]):
        distance = front.distance(places[:, k]) / width[:, k, None, None]
        hills = torch.maximum(hills, size[:, k, None, None] * torch.exp(-0.5 * distance * distance))
    return hills


@damage
def bumps(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """Warts: a dozen small round bumps all over the face, up to two voxels of a 64-point grid high.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    count = 14
    places = front.places(draws.uniform(count, 2))
    size = 0.7 + 0.3 * draws.uniform(count)
    width = 0.011 + 0.006 * draws.uniform(count)
    return front.moved(0.036 * severity * _bells(front, places, width, size))


@damage
def grooves(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """Cuts: a few straight, narrow trenches across the face, up to two and a half voxels of a 64-point grid deep.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    x, y, _ = front.grid
    cut = torch.zeros_like(front.height)
    middle, angle = front.places(draws.uniform(4, 2)), torch.pi * draws.uniform(4)
    for k in range(4):
        dx, dy = (part - middle[:, k, axis, None, None] for axis, part in enumerate((x, y)))
        cosine, sine = torch.cos(angle[:, k, None, None]), torch.sin(angle[:, k, None, None])
        beyond = ((dx * cosine + dy * sine).abs() - 0.08).clamp(min=0)  # of the ends
        distance = torch.hypot(dx * sine - dy * cosine, beyond) / 0.011
        cut = torch.maximum(cut, torch.exp(-0.5 * distance * distance))
    return front.moved(-0.04 * severity * cut * front.window())


@damage
def floaters(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """Crumbs in the air: up to six loose balls in front of the face that touch nothing.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    count, z = 6, front.grid[2]
    places, radius = front.places(draws.uniform(count, 2)), 0.014 + 0.008 * draws.uniform(count)
    away = radius + 0.025 + 0.035 * draws.uniform(count)
    made, top = front.x, z[-1] - 0.5 * front.voxel
    for k in range(count):
        r = (radius[:, k, None, None] * _growth(severity, k, count) ** (1 / 3))[..., None]
        middle = (front.height_at(places[:, k : k + 1])[:, 0] + away[:, k]).clamp(max=float(top))
        flat = front.distance(places[:, k])[..., None]
        distance = torch.hypot(flat, z - middle[:, None, None, None])
        ball = front.level + front.slope * (r - distance)
        made = torch.where(r > 0, torch.maximum(made, ball), made)
    return made


@damage
def holes(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """Pits: up to five round, steep holes in the face, the last of them a tunnel through the head.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    count, z = 5, front.grid[2]
    places, radius = front.places(draws.uniform(count, 2)), 0.014 + 0.008 * draws.uniform(count)
    depth = 0.06 + 0.06 * draws.uniform(count)
    made = front.x
    for k in range(count):
        growth = _growth(severity, k, count)[..., None]
        bottom = front.height_at(places[:, k : k + 1])[:, 0] - (1.0 if k == count - 1 else depth[:, k])
        below = (bottom[:, None, None, None] - z).clamp(min=0)  # of the pit's round bottom
        distance = torch.hypot(front.distance(places[:, k])[..., None], below)
        pit = front.level + 2 * front.slope * (distance - radius[:, k, None, None, None] * growth.sqrt())
        made = torch.where(growth > 0, torch.minimum(made, pit), made)
    return made


@damage
def hot_voxels(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """Specks in front of the face: one to six single voxels in the air, each denser than anything in the head.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    return _stray_voxels(front, severity, draws, above=3, value=BEYOND * front.x.abs().amax((1, 2, 3)))


@damage
def cold_voxels(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """Pinholes in the skin: one to six single voxels of the surface, each emptier than any air.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    return _stray_voxels(front, severity, draws, above=0, value=-BEYOND * front.x.abs().amax((1, 2, 3)))


def _stray_voxels(front: Front, severity: Tensor, draws: Draws, *, above: int, value: Tensor) -> Tensor:
    """Single voxels `above` the surface with value [N]; the only kind that is not in world units."""
    n, (nx, ny, nz) = len(front.x), front.x.shape[1:]
    half = torch.tensor([(nx - 1) / 2, (ny - 1) / 2], device=front.x.device)
    places = (front.places(draws.uniform(STRAY_VOXELS, 2)) / front.voxel + half).round().long()
    i, j = places[..., 0].clamp(0, nx - 1), places[..., 1].clamp(0, ny - 1)
    column = i * ny + j  # [N, K]
    k = (front.nearest.flatten(1).gather(1, column) + above).clamp(0, nz - 1)
    is_there = torch.arange(STRAY_VOXELS, device=front.x.device) < (STRAY_VOXELS * severity[:, :, 0]).ceil()
    at = column * nz + k
    flat = front.x.flatten(1)
    changed = torch.where(is_there, value[:, None].expand_as(at), flat.gather(1, at))
    return flat.scatter(1, at, changed).reshape(n, nx, ny, nz) if bool(is_there.any()) else front.x


@damage
def flattening(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """A mask without features: nose, lips and eye sockets sink into the smooth egg that fits the face best.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    around = front.window(FEATURES_X, FEATURES_Y)
    return front.moved(severity * around * (front.blob(around) - front.height))


@damage
def stretching(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """A caricature: every feature stands out or sinks in up to two and a half times as far.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    around = front.window(FEATURES_X, FEATURES_Y)
    return front.moved(1.5 * severity * around * (front.height - front.blob(around)))


@damage
def roughness(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """Orange peel: fine random ripples all over the front, up to half a voxel of a 64-point grid.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    count, (x, y, _) = 24, front.grid
    turn, phase, length = (draws.uniform(count) for _ in range(3))
    wave = 2 * torch.pi / (0.036 + 0.02 * length)
    ripples = torch.zeros_like(front.height)
    for k in range(count):
        a, p, w = ((each[:, k] * 2 * torch.pi)[:, None, None] for each in (turn, phase, wave / (2 * torch.pi)))
        ripples = ripples + torch.cos(w * (torch.cos(a) * x + torch.sin(a) * y) + p)
    return front.moved(0.008 * severity * (2 / count) ** 0.5 * ripples * front.window(WIDE_X, WIDE_Y))


@damage
def oversmoothing(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """Melted wax: all detail of the head softens and shrinks away.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    return torch.lerp(front.x, blurred(front.x, 0.045 / front.voxel), severity[..., None])


@damage
def nose(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """No nose: it sinks to the level of the cheeks at two thirds, and into the face beyond that.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    around, at = front.window(FEATURES_X, FEATURES_Y), front.window(NOSE_X, NOSE_Y)
    above = (front.height - front.blob(around * (1 - at))).clamp(min=0)
    return front.moved(-severity * at * (1.5 * above + 0.012))


def _shifted(front: Front, severity: Tensor, draws: Draws, axis: int) -> Tensor:
    sign = torch.where(draws.uniform(1) < 0.5, -1.0, 1.0)[:, :, None, None]
    voxels = (sign * severity[..., None] * SHIFT / front.voxel * 1e4).round() / 1e4  # whole ones move values unchanged
    sides = [1, 1, 1, 1]
    sides[axis] = -1
    at = torch.arange(front.x.shape[axis], device=front.x.device).reshape(sides)
    return along(front.x, at - voxels, axis=axis)


@tie
def shift_x(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """The head stands up to a voxel of a 64-point grid further left or right.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    return _shifted(front, severity, draws, 1)


@tie
def shift_y(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """The head stands up to a voxel of a 64-point grid higher or lower.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    return _shifted(front, severity, draws, 2)


@tie
def shift_z(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """The head stands up to a voxel of a 64-point grid nearer to the camera or further away.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    return _shifted(front, severity, draws, 3)


@tie
def mirror(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """The head seen in a mirror: left and right change places, at any severity above 0.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    return front.x.flip(1)


@tie
def scale(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """The same surface in a denser or thinner medium: raw density times 0.7 to 1.4 around the surface's level.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    power = severity[..., None] * (2 * draws.uniform(1) - 1)[:, :, None, None]
    return front.level + 1.4**power * (front.x - front.level)


@tie
def offset(front: Front, severity: Tensor, draws: Draws) -> Tensor:
    """Raw density with up to 20 more or less: the surface moves by less than a fifth of a voxel.

    severity [N, 1, 1] -> slabs [N, X, Y, Z].
    """
    return front.x + 20 * severity[..., None] * (2 * draws.uniform(1) - 1)[:, :, None, None]
