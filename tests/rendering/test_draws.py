"""The counter-based generator: published answers, range, and independence of shape and device order."""

import torch

from eg3d.rendering.draws import CounterDraws, _philox


def words(counter, stream, seed):
    return [int(word) for word in _philox(torch.tensor([counter]), stream, seed)]


def test_known_answers_of_philox():
    """From the authors' test vectors for philox4x32-10."""
    assert words(0, 0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert words(-1, 2**64 - 1, 2**64 - 1) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_draws_are_uniform_repeatable_and_a_function_of_position():
    draws = CounterDraws(seed=2**40 + 7)
    u = draws.uniform(0, (50, 401))
    assert u.dtype == torch.float32 and u.min() >= 0 and u.max() < 1
    assert abs(u.mean().item() - 0.5) < 0.01 and abs(u.var().item() - 1 / 12) < 0.002
    assert torch.equal(u.flatten()[:10], draws.uniform(0, (10,)))
    for other in (draws.uniform(1, (50, 401)), CounterDraws(seed=7).uniform(0, (50, 401))):
        assert (other == u).float().mean() < 1e-3
    assert draws.uniform(0, (0, 3)).shape == (0, 3)
