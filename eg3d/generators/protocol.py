"""What a generator promises, and what a picture of it consists of.

Shape letters: N samples, R neural rendering side, S side of the final image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from eg3d.cameras import CameraConfig
from eg3d.fields.protocol import Field
from eg3d.random_streams import Rng


@dataclass(frozen=True)
class Rendered:
    """Images of N samples. Colours -1 to 1 (about), depths in world units along the rays."""

    image_raw: Tensor  # [N, 3, R, R] as super-resolution leaves it; see image_raw_clean
    image_raw_clean: Tensor  # [N, 3, R, R] what the renderer made
    image_depth: Tensor  # [N, 1, R, R] expected distance
    opacity: Tensor  # [N, 1, R, R] share of light stopped by matter, 0 to 1
    depth_spread: Tensor  # [N, 1, R, R] variance of the stopping distance times opacity, world units squared
    image: Tensor | None = None  # [N, 3, S, S]; None where no super-resolution was asked for

    @property
    def final(self) -> Tensor:
        """`image` [N, 3, S, S], -1 to 1. Raises ValueError where there is none."""
        if self.image is None:
            raise ValueError("there is no final image: it was rendered with superresolve=False")
        return self.image

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """All samples of `parts`, in order; the final image only where every part has one."""
        columns: dict[str, list[Any]] = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        joined: dict[str, Any] = {n: None if any(x is None for x in c) else torch.cat(c) for n, c in columns.items()}
        return cls(**joined)


class Generator(Protocol):
    """A network whose samples are fields. State and parameters are those of an `nn.Module`.

    `cfg` is the dataclass that its file carries, plain data with at least `camera` (CameraConfig), `rendering`
    (RenderingConfig) and `img_resolution` (px); `neural_rendering_resolution` is R unless a call says otherwise.
    """

    cfg: Any
    training: bool
    neural_rendering_resolution: int

    @property
    def camera(self) -> CameraConfig:
        """The cameras that its images are seen from."""

    @property
    def z_dim(self) -> int:
        """Length of the latent."""

    @property
    def num_ws(self) -> int:
        """Style codes a sample."""

    def mapping(
        self,
        z: Tensor,
        c: Tensor,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """Style codes [N, num_ws, w_dim] of latents [N, z_dim] and conditioning labels [N, 25].

        truncation_psi pulls the first `truncation_cutoff` codes (None = all) to the mean; 1 leaves them alone.
        """

    def field(self, ws: Tensor, *, noise_mode: str = "const", rng: Rng | None = None) -> Field:
        """The field of style codes [N, num_ws, w_dim]. noise_mode: one of eg3d.networks.noise.NOISE_MODES."""

    def render(
        self,
        field: Field,
        ws: Tensor,
        c: Tensor,
        *,
        neural_rendering_resolution: int | None = None,
        rng: Rng | None = None,
        superresolve: bool = True,
    ) -> Rendered:
        """Images of a field and its style codes from cameras c [N, 25]; R as given, or the attribute."""

    # As nn.Module:
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def eval(self) -> Self: ...
    def train(self, mode: bool = True) -> Self: ...
    def to(self, device: torch.device | str) -> Self: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...


def device_of(G: Generator) -> torch.device:
    """Where the weights are."""
    return next(iter(G.parameters())).device
