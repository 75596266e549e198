"""Seeds name latents, and a list of seeds is written as EG3D's users write it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eg3d.seeds import latent, latents, parse_seeds


def test_a_seed_is_the_published_draw_alone_and_among_others() -> None:
    expected = np.random.RandomState(7).randn(1, 512).astype(np.float32)
    assert np.array_equal(latent(7).numpy(), expected)
    assert torch.equal(latents([3, 7])[1:], latent(7))


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0,1,4-6", [0, 1, 4, 5, 6]), ("3", [3]), (" 5 , 2-2", [5, 2]), ("4294967295", [2**32 - 1]), ("1,1", [1, 1])],
)
def test_lists(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1,,2", "3-1", "-1", "1.5", "1-", "4294967296", "0-1000000"])
def test_anything_else_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="seeds: ") as error:
        parse_seeds(text)
    assert "\n" not in str(error.value)
