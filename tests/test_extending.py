"""Room for more: a toy generator, field, representation and reward, registered from here, go through the whole path.

Nothing of the project is edited for them. `docs/architecture.md` says which file each would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from command_line import Run
from torch import Tensor, nn

from eg3d import gen_samples
from eg3d.cameras import CameraConfig, split_label
from eg3d.checkpoints.store import load_generator, load_triplane_generator, save_networks
from eg3d.fields.protocol import Field
from eg3d.finetuning.rewards import reward_from, score_seeds
from eg3d.generators import registry
from eg3d.generators.protocol import Generator, Rendered
from eg3d.ops.density_grid.grid import GridSpec, grid_points
from eg3d.rendering import renderer
from eg3d.rendering.rays import RayBundle, pixel_rays
from eg3d.rendering.renderer import RenderedRays, RenderingConfig
from eg3d.representations import protocol as representations
from eg3d.representations.protocol import Representation, representation_from
from eg3d.representations.shape import ShapeConfig, density_volume, shape_mesh
from eg3d.representations.sigma_field import SigmaField
from eg3d.samples import Sample, SampleConfig, sample_seeds

SOFTNESS = 20_000.0  # raw density per world unit


@dataclass(frozen=True)
class BallField:
    """Balls around the origin: what a field is, without planes or decoder."""

    radii: Tensor  # [N] world units
    box_warp: float = 1.0

    @property
    def device(self) -> torch.device:
        return self.radii.device

    def __len__(self) -> int:
        return len(self.radii)

    def __getitem__(self, rows: slice | Tensor | list[int]) -> Self:
        return replace(self, radii=self.radii[rows])

    def joined(self, others: Sequence[Self]) -> Self:
        return replace(self, radii=torch.cat([self.radii, *(other.radii for other in others)]))

    def density(self, points: Tensor) -> Tensor:
        return 10 + SOFTNESS * (self.radii[:, None] - points.norm(dim=-1))

    def density_and_color(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(points), torch.full((*points.shape[:2], 3), 0.5)

    def density_grid(self, spec: GridSpec) -> Tensor:
        points = grid_points(spec, box_warp=self.box_warp).expand(len(self), -1, 3)
        return self.density(points).reshape(len(self), *spec.shape)

    def render(self, rays: RayBundle, cfg: RenderingConfig, rng: Any = None) -> RenderedRays:
        def query(points: Tensor) -> tuple[Tensor, Tensor]:
            sigma_raw, rgb = self.density_and_color(points)
            return sigma_raw, rgb.transpose(1, 2)

        return renderer.render_rays(query, rays, cfg, rng)


@dataclass
class BallConfig:
    z_dim: int = 4
    img_resolution: int = 16
    camera: CameraConfig = field(default_factory=CameraConfig)
    rendering: RenderingConfig = field(default_factory=lambda: RenderingConfig(depth_resolution=96))


class BallGenerator(nn.Module):
    """The radius of a ball follows from the latent."""

    def __init__(self, cfg: BallConfig) -> None:
        super().__init__()
        self.cfg, self.neural_rendering_resolution, self.num_ws = cfg, cfg.img_resolution, 1
        self.scale = nn.Parameter(torch.tensor(0.02))

    @property
    def camera(self) -> CameraConfig:
        return self.cfg.camera

    @property
    def z_dim(self) -> int:
        return self.cfg.z_dim

    def mapping(
        self,
        z: Tensor,
        c: Tensor,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        return truncation_psi * z[:, None, :1]

    def field(self, ws: Tensor, *, noise_mode: str = "const", rng: Any = None) -> BallField:
        return BallField(0.2 + self.scale * ws[:, 0, 0])

    def render(
        self,
        field: Field,
        ws: Tensor,
        c: Tensor,
        *,
        neural_rendering_resolution: int | None = None,
        rng: Any = None,
        superresolve: bool = True,
    ) -> Rendered:
        side = neural_rendering_resolution or self.neural_rendering_resolution
        rays = field.render(pixel_rays(*split_label(c), side), self.cfg.rendering, rng)
        depth, opacity, spread = (x.view(-1, 1, side, side) for x in (rays.depth, rays.opacity, rays.spread))
        image = rays.rgb.unflatten(-1, (side, side))
        return Rendered(image, image, depth, opacity, spread, image if superresolve else None)


@dataclass
class Volume(Representation):
    """How much matter there is."""

    input_kind: ClassVar[str] = "numbers"

    name: str = "volume"
    resolution: int = 24

    def shape(self, G: Generator | None = None) -> tuple[int, ...]:
        return (1,)

    def extract(self, G: Generator, sample: Sample) -> Tensor:
        return torch.sigmoid((sample.field.density_grid(GridSpec(self.resolution)) - 10) / 200).mean((1, 2, 3))[:, None]


def largest(x: Tensor, factor: float = 1.0) -> Tensor:
    """A reward of a user: more matter is better."""
    return factor * x[:, 0]


@pytest.fixture
def balls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a toy generator, whose kind is known for the length of a test."""
    monkeypatch.setattr(registry, "_kinds", dict(registry._kinds))
    monkeypatch.setattr(representations, "_known", dict(representations._known))
    registry.register(registry.GeneratorKind("ball", BallConfig, BallGenerator))
    representations.register(Volume)
    G, path = BallGenerator(BallConfig()), tmp_path / "balls.safetensors"
    save_networks(path, {"G_ema": G}, configs={"G_ema": G.cfg})
    return path


def test_a_file_finds_its_own_kind_of_generator(balls: Path) -> None:
    G = load_generator(balls)
    assert isinstance(G, BallGenerator)
    with pytest.raises(ValueError, match="a BallGenerator; this needs a generator of EG3D"):
        load_triplane_generator(balls)


def test_a_kind_that_nobody_registered_is_one_line(balls: Path) -> None:
    registry._kinds.pop("ball")
    with pytest.raises(ValueError, match="generator kind 'ball' is not one of eg3d"):
        load_generator(balls)


def test_slabs_meshes_and_pictures_of_a_foreign_field(balls: Path) -> None:
    G = load_generator(balls)
    with torch.no_grad():
        sample = sample_seeds(G, [3, 4], SampleConfig(psi=0.5))
        radii = sample.field.radii  # type: ignore[attr-defined]
        slab = SigmaField(resolution=32, grid="exact").extract(G, sample)
        volume = density_volume(sample.field[:1], 64, grid="exact")
        mesh = shape_mesh(sample.field[:1], volume, ShapeConfig(resolution=64))
        depth = representation_from({"name": "depth_map", "resolution_px": 33}).extract(G, sample)
    assert slab.shape == (2, *SigmaField(resolution=32).shape())
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(float(radii[0]), abs=2e-3)
    nearest = 2.7 - radii  # the middle ray meets the ball in front of the origin; it looks at a point behind its face
    assert depth[:, 0, 16, 16] == pytest.approx(nearest.numpy(), abs=0.03)


def test_a_foreign_reward_on_a_foreign_representation(balls: Path) -> None:
    settings = {"name": "volume", "resolution": 24}
    assert representation_from(settings).settings() == settings
    G = load_generator(balls)
    reward = reward_from({"_target_": f"{__name__}.largest", "representation": settings, "factor": 3.0}, device="cpu")
    seeds = list(range(5))
    scores = score_seeds(G, reward, seeds, SampleConfig())
    radii = sample_seeds(G, seeds, SampleConfig()).field.radii  # type: ignore[attr-defined]
    assert torch.equal(scores.argsort(), radii.detach().argsort())
    G.requires_grad_(True)
    reward(reward.representation.extract(G, sample_seeds(G, [0], SampleConfig()))).sum().backward()
    assert float(G.scale.grad) != 0  # type: ignore[attr-defined]


def test_a_command_of_the_project_takes_it(balls: Path, run: Run, tmp_path: Path) -> None:
    words = [
        "--network",
        str(balls),
        "--seeds",
        "0-1",
        "--outdir",
        str(tmp_path / "out"),
        "--shapes",
        "--shape-res",
        "24",
    ]
    assert run(gen_samples, *words).code == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"seed000{seed}.{suffix}" for seed in (0, 1) for suffix in ("png", "ply")}
