"""Stratified and importance distances against a plain reading of their definition."""

import bisect

import pytest
import torch

from eg3d.rendering.sampling import importance_depths, stratified_depths


def limits(near=2.25, far=3.3, shape=(2, 5)):
    return torch.full(shape, near), torch.full(shape, far)


def test_stratified_cells():
    near, far = limits()
    fixed = stratified_depths(near, far, 8, rng=None)
    cell = (3.3 - 2.25) / 7
    torch.testing.assert_close(fixed[1, 3], 2.25 + (torch.arange(8) + 0.5) * cell)
    drawn = stratified_depths(near, far, 8, rng=torch.Generator().manual_seed(0))
    floor = 2.25 + torch.arange(8) * cell
    assert ((drawn >= floor - 1e-6) & (drawn <= floor + cell + 1e-6)).all()
    assert (drawn.diff(dim=-1) >= 0).all()
    assert drawn.max() > 3.3  # the jitter of the last cell goes beyond far, as published


def test_disparity_cells_are_even_in_inverse_distance():
    t = stratified_depths(*limits(1.0, 4.0), 6, rng=None, disparity=True)
    steps = (1 / t[0, 0]).diff()
    torch.testing.assert_close(steps, steps[:1].expand(5))


def test_draws_come_from_the_generator_in_the_published_shape():
    near, far = limits()
    jitter = torch.rand((2, 5, 8, 1), generator=torch.Generator().manual_seed(3)).squeeze(-1)
    found = stratified_depths(near, far, 8, rng=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, 2.25 + (torch.arange(8) + jitter) * (3.3 - 2.25) / 7)


def naive_importance(t, w, u, shift):
    """One ray, step by step; t, w, u lists. shift: which edges the kept weights are spent on."""
    count = len(t)
    padded = [float("-inf"), *w, float("-inf")]
    pairwise = [max(padded[k], padded[k + 1]) for k in range(count)]
    a = [(pairwise[k] + pairwise[k + 1]) / 2 + 0.01 for k in range(count - 1)]
    kept = [x + 1e-5 for x in a[1:-1]]
    cdf = [0.0]
    for x in kept:
        cdf.append(cdf[-1] + x / sum(kept))
    edges = [(t[k] + t[k + 1]) / 2 for k in range(count - 1)] if shift else t[1:-1]
    out = []
    for value in u:
        index = bisect.bisect_right(cdf, value)
        low, high = max(index - 1, 0), min(index, len(kept))
        width = cdf[high] - cdf[low]
        width = 1 if width < 1e-5 else width
        out.append(edges[low] + (value - cdf[low]) / width * (edges[high] - edges[low]))
    return out


@pytest.mark.parametrize("bins", ["published", "centred"])
def test_importance_equals_its_definition(bins):
    rng = torch.Generator().manual_seed(0)
    t = (torch.rand(2, 3, 9, generator=rng, dtype=torch.float64) + 2).sort(-1).values
    w = torch.rand(2, 3, 8, generator=rng, dtype=torch.float64) ** 4
    found = importance_depths(t, w, 5, rng=None, bins=bins)
    u = [(k + 0.5) / 5 for k in range(5)]
    for n in range(2):
        for r in range(3):
            expected = naive_importance(t[n, r].tolist(), w[n, r].tolist(), u, bins == "published")
            assert found[n, r].tolist() == pytest.approx(expected)
    seeded = importance_depths(t.float(), w.float(), 5, rng=torch.Generator().manual_seed(1), bins=bins)
    u = torch.rand((6, 5), generator=torch.Generator().manual_seed(1)).view(2, 3, 5)
    expected = naive_importance(t[1, 2].tolist(), w[1, 2].tolist(), u[1, 2].tolist(), bins == "published")
    assert seeded[1, 2].tolist() == pytest.approx(expected, rel=1e-5)


def test_half_interval_bias_is_published_and_can_be_centred():
    """All weight on interval 5, [t_5, t_6]: published draws land half an interval too near."""
    t = torch.arange(12.0)[None, None]
    w = torch.zeros(1, 1, 11)
    w[..., 5] = 1000.0
    published = importance_depths(t, w, 64, rng=None)
    centred = importance_depths(t, w, 64, rng=None, bins="centred")
    assert centred.mean().item() == pytest.approx(5.5, abs=0.02)
    assert published.mean().item() == pytest.approx(5.0, abs=0.02)
    assert published.max() <= 9.5  # the last two midpoints are never reached


def test_one_ray_works_and_too_few_samples_do_not():
    assert importance_depths(torch.arange(4.0)[None, None], torch.ones(1, 1, 3), 6, rng=None).shape == (1, 1, 6)
    with pytest.raises(ValueError, match="at least 4 coarse samples a ray, got 3"):
        importance_depths(torch.arange(3.0)[None, None], torch.ones(1, 1, 2), 6, rng=None)
    with pytest.raises(ValueError, match="'left' is not one of published, centred"):
        importance_depths(torch.arange(4.0)[None, None], torch.ones(1, 1, 3), 6, rng=None, bins="left")
