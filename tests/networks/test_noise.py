"""Named noise: what each name adds, and one message for what cannot be."""

import pytest
import torch

from eg3d.networks.noise import NOISE_MODES, check_noise, layer_noise
from eg3d.random_streams import SampleStreams


def test_each_name():
    const = torch.arange(9.0).view(3, 3)
    assert NOISE_MODES == ("const", "none", "random")
    assert layer_noise("none", const, 2, None) is None
    assert torch.equal(layer_noise("const", const, 2, None), const[None, None])
    drawn = layer_noise("random", const.double(), 2, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0)).double())


def test_a_sample_draws_its_own_noise():
    const = torch.zeros(3, 3)
    both = layer_noise("random", const, 2, SampleStreams.seeded([4, 5]))
    assert torch.equal(both[1:], layer_noise("random", const, 1, SampleStreams.seeded([5])))


def test_what_cannot_be():
    check_noise("const", None)
    check_noise("random", torch.Generator())
    with pytest.raises(ValueError, match="noise_mode: 'off' is not one of const, none, random"):
        check_noise("off", None)
    with pytest.raises(ValueError, match=r'noise_mode "random" needs a torch.Generator, got rng=None; pass rng='):
        check_noise("random", None)
