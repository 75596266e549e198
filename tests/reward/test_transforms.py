"""Transforms: what a network is shown of a representation."""

from __future__ import annotations

import pytest
import torch

from eg3d.config_checks import faults_of
from reward_model_training.data.transforms import (
    TRANSFORMS,
    NormaliseSigmaSelfConfig,
    normalise_sigma_self,
    to_network_axes,
    to_network_input,
    upper_end,
)


def test_normalisation_spans_the_range_is_scale_free_and_defines_the_constant_slab() -> None:
    torch.manual_seed(5)
    x = torch.randn(3, 4, 5, 6)
    x[1] = 7.0
    x.requires_grad_()
    scaled = normalise_sigma_self(x)
    for sample in (0, 2):
        assert scaled[sample].min() == 0 and scaled[sample].max().item() == pytest.approx(100.0)
    assert (scaled[1] == 0).all()
    assert torch.allclose(normalise_sigma_self(3 * x + 2), scaled, atol=1e-3)
    (grad,) = torch.autograd.grad(scaled.square().sum(), x)
    assert torch.isfinite(grad).all() and (grad[1] == 0).all()
    assert (normalise_sigma_self(x, low=-1.0, high=1.0)[1] == -1).all()


def test_network_axes_are_z_y_x() -> None:
    x = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    y = to_network_axes(x)
    assert y.shape == (2, 1, 5, 4, 3) and y[1, 0, 4, 2, 1] == x[1, 1, 2, 4]


def test_bad_shapes_get_one_line() -> None:
    with pytest.raises(ValueError, match="x must be"):
        normalise_sigma_self(torch.zeros(2, 3, 4))


def test_the_table_applies_a_transform_by_its_name_and_says_its_range() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    cfg = NormaliseSigmaSelfConfig(low=-1.0, high=3.0)
    made = to_network_input(x.half(), cfg)
    assert made.dtype == torch.float32 and made.shape == (2, 1, 5, 4, 3)
    assert made.max().item() == pytest.approx(upper_end(cfg)) and made.min().item() == pytest.approx(-1.0)
    (grad,) = torch.autograd.grad(to_network_input(x, cfg)[0].sum(), x)
    assert grad[0].abs().sum() > 0 and grad[1].abs().sum() == 0
    assert {name: entry.config().name for name, entry in TRANSFORMS.items()} == {name: name for name in TRANSFORMS}


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"low": 100.0}, "low below high"), ({"high": float("inf")}, "finite"), ({"name": "x"}, "name")],
)
def test_faults_of_a_transform(changes: dict, word: str) -> None:
    (fault,) = faults_of(NormaliseSigmaSelfConfig(**changes))
    assert word in fault
