"""One sample of a generator, the same wherever it is asked for: a seed or latent, its style codes, its field.

Rankings, slabs, rewards, fine-tuning, pictures and measures all come through here, so that a seed names one shape.
Shape letters: N samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from eg3d.config_checks import one_of
from eg3d.fields.protocol import Field
from eg3d.generators.protocol import Generator, device_of
from eg3d.random_streams import Rng
from eg3d.seeds import latents

PUBLISHED_CUTOFF = 14  # style codes: all of the published 512-pixel generator's backbone
AUTO = "auto"
CONDITIONINGS = (AUTO, "generator", "published")


@dataclass
class SampleConfig:
    """How a latent becomes style codes. Source: StyleGAN (2019), truncation; EG3D (2022), section 4, conditioning."""

    psi: float = 1.0  # truncation strength, 1 = off, 0 = mean face
    truncation_cutoff: int | None = PUBLISHED_CUTOFF  # style codes that are truncated, from the first on; null = all
    # Whose canonical camera the mapping sees: "generator" = its own | "published" = with the focal length of the
    # released preference data | "auto" = as the reward at work was learnt, and its own where there is none.
    conditioning: str = AUTO
    camera_factor: float = 1.0  # multiplies the label that the mapping sees; 0 = unconditioned

    def validate(self) -> list[str]:
        """All faults, one line each."""
        faults = one_of("conditioning", self.conditioning, CONDITIONINGS)
        if not math.isfinite(self.psi):
            faults.append(f"psi: must be a finite number, got {self.psi}")
        if self.truncation_cutoff is not None and self.truncation_cutoff < 0:
            faults.append(f"truncation_cutoff: expected 0 or more, or null for all, got {self.truncation_cutoff}")
        return faults

    def camera(self, G: Generator) -> Tensor:
        """The canonical camera [1, 25] that samples of `G` are conditioned on, before camera_factor."""
        camera = G.camera.published() if self.conditioning == "published" else G.camera
        return camera.canonical()


@dataclass(frozen=True)
class Sample:
    """N samples of one generator."""

    ws: Tensor  # [N, num_ws, w_dim] style codes
    field: Field  # of N samples

    def __len__(self) -> int:
        return len(self.ws)

    def rows(self, rows: slice | Tensor | list[int]) -> Sample:
        """Some of the samples: a slice, row numbers [M] or a mask [N]."""
        return Sample(self.ws[rows], self.field[rows])


def style_codes(
    G: Generator, z: Tensor, cfg: SampleConfig, *, c: Tensor | None = None, update_emas: bool = False
) -> Tensor:
    """Style codes [N, num_ws, w_dim] of latents z [N, z_dim]; differentiable in the weights of the mapping.

    c [1, 25] or [N, 25]: conditioning labels; None = the canonical camera. update_emas: move the centre of truncation.
    """
    labels = (cfg.camera(G) if c is None else c).to(z).expand(len(z), -1) * cfg.camera_factor
    return G.mapping(
        z, labels, truncation_psi=cfg.psi, truncation_cutoff=cfg.truncation_cutoff, update_emas=update_emas
    )


def sample_latents(
    G: Generator,
    z: Tensor,
    cfg: SampleConfig,
    *,
    c: Tensor | None = None,
    noise_mode: str = "const",
    rng: Rng | None = None,
    update_emas: bool = False,
) -> Sample:
    """The samples of latents z [N, z_dim]: style codes as `style_codes` gives them, and their field."""
    ws = style_codes(G, z, cfg, c=c, update_emas=update_emas)
    return Sample(ws, G.field(ws, noise_mode=noise_mode, rng=rng))


def seed_latents(G: Generator, seeds: Sequence[int]) -> Tensor:
    """Latents [N, z_dim] of seeds, where the weights of `G` are."""
    return latents(seeds, G.z_dim).to(device_of(G))


def sample_seeds(G: Generator, seeds: Sequence[int], cfg: SampleConfig, *, c: Tensor | None = None) -> Sample:
    """The samples that `seeds` name: constant noise, conditioned on the canonical camera unless c [N, 25] says else."""
    return sample_latents(G, seed_latents(G, seeds), cfg, c=c)


def sample_seed_batches(
    G: Generator, seeds: Sequence[int], cfg: SampleConfig, *, batch: int
) -> Iterator[tuple[list[int], Sample]]:
    """Seeds and their samples, `batch` at a time."""
    for start in range(0, len(seeds), batch):
        part = list(seeds[start : start + batch])
        yield part, sample_seeds(G, part, cfg)
