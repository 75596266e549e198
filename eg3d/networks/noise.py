"""The noise that synthesis layers add, by name: `const` is kept with the weights, `none` is none, `random` is drawn.

Shape letters: N batch, R layer resolution. Source: StyleGAN2 (2020), section 2.1 (noise outside the style block).
"""

from __future__ import annotations

from torch import Tensor

from eg3d.config_checks import require_one_of
from eg3d.random_streams import Rng, normal

NOISE_MODES = ("const", "none", "random")


def check_noise(noise_mode: str, rng: Rng | None) -> None:
    """Raise ValueError for an unknown mode, or for random noise without a generator to draw it from."""
    require_one_of("noise_mode", noise_mode, NOISE_MODES)
    if noise_mode == "random" and rng is None:
        raise ValueError(
            'noise_mode "random" needs a torch.Generator, got rng=None; '
            'pass rng=torch.Generator().manual_seed(seed) or use noise_mode "const"'
        )


def layer_noise(noise_mode: str, const: Tensor, n: int, rng: Rng | None) -> Tensor | None:
    """Noise of unit strength: [1, 1, R, R] from `const` [R, R], [N, 1, R, R] fresh from rng, or None.

    For arguments that `check_noise` let pass.
    """
    if noise_mode == "none":
        return None
    if noise_mode == "const":
        return const[None, None]
    return normal((n, 1, *const.shape), rng).to(const)
