"""Every figure's formula against an independent library, and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from scipy.spatial import cKDTree

from eg3d.metrics import ppl
from eg3d.metrics.fid import Moments, frechet_distance, moments
from eg3d.metrics.inception_score import inception_score
from eg3d.metrics.kid import kernel_distance, squared_mmd
from eg3d.metrics.precision_recall import precision_recall
from eg3d.metrics.random_convolutions import random_features, standardised


def features(seed, n, f=12, shift=0.0, scale=1.0):
    rng = np.random.RandomState(seed)
    mixed = rng.standard_normal((n, f)) @ rng.standard_normal((f, f))
    return torch.from_numpy((scale * mixed + shift).astype(np.float32))


def test_moments_are_those_of_numpy():
    x = features(0, 9000, 5)
    found = moments(x)
    np.testing.assert_allclose(found.mean, x.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.double().numpy().T, bias=True), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="N of 2 or more"):
        moments(x[:1])


@pytest.mark.parametrize("n", [200, 7])  # 7 images of 12 features: singular covariances
def test_fid_equals_torchmetrics_and_scipy(n):
    from torchmetrics.image.fid import _compute_fid

    first, second = moments(features(1, n)), moments(features(2, n, shift=0.5, scale=1.3))
    found = frechet_distance(first, second)
    theirs = _compute_fid(first.mean, first.covariance, second.mean, second.covariance)
    assert found == pytest.approx(float(theirs), rel=1e-5)
    root = scipy.linalg.sqrtm((first.covariance @ second.covariance).numpy()).real
    difference = first.mean - second.mean
    scipys = difference @ difference + torch.trace(first.covariance + second.covariance) - 2 * np.trace(root)
    assert found == pytest.approx(float(scipys), rel=1e-4 if n < 12 else 1e-9)


def test_fid_of_gaussians_has_a_closed_form():
    def gaussian(mean, variances):
        return Moments(torch.tensor(mean).double(), torch.diag(torch.tensor(variances).double()), 10)

    found = frechet_distance(gaussian([0.0, 1.0], [4.0, 9.0]), gaussian([3.0, 1.0], [1.0, 25.0]))
    assert found == pytest.approx(9 + (2 - 1) ** 2 + (3 - 5) ** 2)
    x = moments(features(3, 50))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9 * float(x.covariance.trace()))
    with pytest.raises(ValueError, match="cannot be compared"):
        frechet_distance(x, gaussian([0.0, 1.0], [1.0, 1.0]))


def test_kid_equals_torchmetrics_and_sets_of_one_kind_are_alike():
    from torchmetrics.image.kid import poly_mmd

    x, y = features(4, 60), features(4, 120, shift=0.4)[60:]
    assert squared_mmd(x, y) == pytest.approx(float(poly_mmd(x.double(), y.double())), rel=1e-9)
    assert kernel_distance(x, y, subset_size=60, num_subsets=3).mean == pytest.approx(squared_mmd(x, y), rel=1e-9)
    rng = torch.Generator().manual_seed(2)
    first, second = torch.randn(300, 8, generator=rng), torch.randn(300, 8, generator=rng)
    same, moved, far = (kernel_distance(first, second + shift) for shift in (0, 0.5, 1.0))
    assert abs(same.mean) < 0.1 < moved.mean < far.mean
    assert kernel_distance(first, second, seed=1) == kernel_distance(first, second, seed=1) != same
    with pytest.raises(ValueError, match="two images in each set"):
        kernel_distance(first[:1], second)


def test_inception_score_equals_torchmetrics_and_scipy():
    from torchmetrics.image.inception import InceptionScore

    logits = features(5, 40, 6)
    probabilities = logits.softmax(1)
    metric = InceptionScore(feature=torch.nn.Identity(), splits=1)
    metric.features.append(logits.double())
    assert inception_score(probabilities, num_splits=1)[0] == pytest.approx(float(metric.compute()[0]), rel=1e-6)
    parts = np.split(probabilities.double().numpy(), 4)
    scores = [math.exp(np.mean([scipy.stats.entropy(row, part.mean(0)) for row in part])) for part in parts]
    assert inception_score(probabilities, num_splits=4) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-6)


def test_inception_score_limits():
    assert inception_score(torch.full((20, 5), 0.2)) == pytest.approx((1, 0))
    assert inception_score(torch.eye(5).repeat(20, 1)) == pytest.approx((5, 0))
    with pytest.raises(ValueError, match="10 \\(splits\\) or more"):
        inception_score(torch.full((9, 5), 0.2))


@pytest.mark.parametrize("block", [10_000, 17])
def test_precision_and_recall_equal_nearest_neighbours_of_scipy(block):
    real, fake = features(6, 80, 4), features(6, 150, 4, shift=1.0)[80:]

    def share(manifold, probes, k=3):
        manifold, probes = manifold.half().double().numpy(), probes.half().double().numpy()
        radii = cKDTree(manifold).query(manifold, k=k + 1)[0][:, -1]
        distances = np.linalg.norm(probes[:, None] - manifold[None], axis=-1)
        return float((distances <= radii).any(1).mean())

    found = precision_recall(real, fake, k=3, block=block)
    assert found == pytest.approx((share(real, fake), share(fake, real)))
    assert min(found) > 0 and max(found) < 1
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 1000) == (0, 0)
    with pytest.raises(ValueError, match="more images than that"):
        precision_recall(real, fake[:3])


def test_path_length_of_a_linear_generator_is_that_of_its_map():
    """Images that are a linear map of w move by epsilon times the map of the path; the ends cancel the epsilon."""
    rng = np.random.RandomState(7)
    ws = torch.from_numpy(rng.standard_normal((40, 1, 6)))
    A = torch.from_numpy(rng.standard_normal((6, 9)))
    start, step = ppl.step_ends(ws)
    assert start.shape == (20, 1, 6)
    distances = ((start @ A - step @ A) ** 2).sum((1, 2)).numpy() / ppl.EPSILON**2
    expected = (((ws[0::2] - ws[1::2]) @ A) ** 2).sum((1, 2)).numpy()
    np.testing.assert_allclose(distances, expected, rtol=1e-6)
    low, high = np.sort(expected)[[0, -1]]
    kept = expected[(expected >= low) & (expected <= high)]
    assert ppl.path_length(distances) == pytest.approx(kept.mean(), rel=1e-6)


def test_path_length_drops_outliers_and_images_shrink_by_whole_blocks():
    values = np.arange(1000.0)
    assert ppl.path_length(values) == pytest.approx(np.arange(9, 991).mean())
    assert ppl.path_length(np.append(values, 1e9)) < 1000
    with pytest.raises(ValueError, match="at least one path"):
        ppl.path_length(np.array([]))
    images = torch.rand(1, 3, 512, 512)
    assert torch.allclose(ppl.shrunk(images)[0, 0, 3, 5], images[0, 0, 6:8, 10:12].mean())
    assert ppl.shrunk(images[..., :300, :300]).shape[-1] == 300


def test_random_features_are_fixed():
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = random_features(images)
    assert found.shape == (3, 704) and torch.isfinite(found).all()
    assert torch.equal(found, random_features(images))
    assert torch.allclose(random_features(images[1:2]), found[1:2], atol=1e-5)
    assert random_features(images[:0]).shape == (0, 704)
    first = features(8, 300, 8)
    assert torch.allclose(standardised(first, first).std(0), torch.ones(8), atol=1e-4)
    with pytest.raises(ValueError, match="uint8"):
        random_features(images.float())
