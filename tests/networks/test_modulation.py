"""The fast forms of the modulated convolution against its definition, and the definition against its meaning."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from eg3d.networks.modulation import (
    Form,
    Modulation,
    demodulation,
    fastest_form,
    modulated_conv2d,
    modulated_conv2d_fast,
    modulated_conv2d_grouped,
    modulated_conv2d_pointwise,
    modulated_conv2d_shared,
)
from eg3d.networks.resampling import make_resample_filter

FILTER = make_resample_filter().double()
FORMS = [modulated_conv2d_shared, modulated_conv2d_grouped, modulated_conv2d_pointwise]
THREE_BY_THREE, ONE_BY_ONE = FORMS[:2], FORMS
KINDS = [("3x3", form) for form in THREE_BY_THREE] + [("up", form) for form in THREE_BY_THREE]
KINDS += [("1x1", form) for form in ONE_BY_ONE]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operands(kind: str, size: tuple[int, int, int, int, int], offset: str) -> tuple[list[Tensor], dict[str, Tensor]]:
    """x, w, s, and what is added: nothing, a bias, noise for all or for every sample, or bias and noise."""
    n, i, o, h, width = size
    k, up = (1 if kind == "1x1" else 3), (2 if kind == "up" else 1)
    added = {}
    if offset in ("bias", "both"):
        added["bias"] = random(1, o, 1, 1, seed=3).requires_grad_(True)
    if offset not in ("none", "bias"):
        added["noise"] = random(1 if offset == "const" else n, 1, up * h, up * width, seed=4).requires_grad_(True)
    inputs = [random(n, i, h, width), random(o, i, k, k, seed=1), 1 + random(n, i, seed=2)]
    return [t.requires_grad_(True) for t in inputs], added


def derivatives(form: Form, inputs: list[Tensor], m: Modulation) -> list[Tensor]:
    """The result, its gradients by everything that has one, and the gradients of their squares."""
    wanted = inputs + [term for term in (m.bias, m.noise) if term is not None]
    y = form(*inputs, m)
    first = torch.autograd.grad((y**3).sum(), wanted, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
    return [y, *first, *second]


@pytest.mark.parametrize("offset", ["none", "bias", "const", "random", "both"])
@pytest.mark.parametrize(("kind", "form"), KINDS, ids=lambda value: getattr(value, "__name__", value))
def test_fast_forms_equal_the_definition_to_second_order(kind: str, form: Form, offset: str) -> None:
    sizes = [(3, 4, 5, 6, 6), (1, 1, 1, 1, 1), (2, 3, 1, 3, 5), (2, 1, 4, 2, 7)]  # N, I, O, H, W
    for size, demodulate, gain in product(sizes, (True, False), (1.0, 1.5)):
        inputs, added = operands(kind, size, offset)
        m = Modulation(demodulate, FILTER if kind == "up" else None, gain, **added)
        for ours, expected in zip(derivatives(form, inputs, m), derivatives(modulated_conv2d, inputs, m), strict=True):
            # Styles of a single input fall out of a demodulated layer: their gradients are differences of large terms.
            atol = 5e-9 * (1 + float(expected.detach().abs().max()))
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=atol)


def test_the_definition_is_one_convolution_a_sample() -> None:
    """Written out by hand for one output pixel of the second sample."""
    x, w, s = random(2, 3, 5, 5), random(4, 3, 3, 3, seed=1), 1 + random(2, 3, seed=2)
    y = modulated_conv2d(x, w, s, Modulation(gain=2.0, bias=torch.full((1, 4, 1, 1), 0.25, dtype=torch.float64)))
    modulated = [[[[s[1, i] * w[3, i, a, b] for b in range(3)] for a in range(3)] for i in range(3)]]
    norm = sum(value**2 for i in range(3) for row in modulated[0][i] for value in row) ** 0.5
    terms = [modulated[0][i][a][b] * x[1, i, 1 + a, 2 + b] for i, a, b in product(range(3), repeat=3)]
    assert float(y[1, 3, 2, 3]) == pytest.approx(float(2 * sum(terms) / norm + 0.25), rel=1e-7)


def test_demodulated_outputs_of_white_noise_keep_unit_variance() -> None:
    w, s = random(6, 16, 3, 3), 1 + random(1, 16, seed=3)
    y = modulated_conv2d(random(1, 16, 128, 128, seed=4), w, s, Modulation())[..., 1:-1, 1:-1]
    assert torch.allclose(y.var((2, 3)), torch.ones(1, 6, dtype=torch.float64), atol=0.06)  # 4 deviations
    d = demodulation(w, s)
    power = torch.einsum("oikl,ni,no->no", w.square(), s.square(), d.square())
    torch.testing.assert_close(power, torch.ones_like(power), rtol=1e-6, atol=0)


def test_the_scale_of_styles_and_weights_falls_out() -> None:
    x, w, s = random(2, 4, 5, 5), random(3, 4, 3, 3, seed=1), 1 + random(2, 4, seed=2)
    torch.testing.assert_close(
        modulated_conv2d(x, 5 * w, -3 * s, Modulation()), -modulated_conv2d(x, w, s, Modulation()), rtol=1e-7, atol=0
    )


@pytest.mark.parametrize("form", FORMS)
def test_one_sample_stays_channels_last(form: Form) -> None:
    k = 1 if form is modulated_conv2d_pointwise else 3
    x = random(1, 4, 6, 6).to(memory_format=torch.channels_last)
    y = form(x, random(8, 4, k, k, seed=1), random(1, 4, seed=2), Modulation(bias=random(1, 8, 1, 1)))
    assert torch.empty_like(y).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("form", THREE_BY_THREE)
def test_float32_agrees_to_rounding(form: Form) -> None:
    x, w, s = random(2, 32, 16, 16).float(), random(24, 32, 3, 3).float(), 1 + random(2, 32).float()
    exact = modulated_conv2d(x.double(), w.double(), s.double(), Modulation())
    assert (form(x, w, s, Modulation()) - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize(("k", "form"), [*((3, form) for form in THREE_BY_THREE), *((1, form) for form in ONE_BY_ONE)])
def test_float16_stays_finite_for_huge_styles(k: int, form: Form) -> None:
    x, w = random(2, 8, 8, 8).half(), random(8, 8, k, k).float() * 100
    s = random(2, 8).float() * 1e4
    y = form(x, w, s, Modulation())
    reference = modulated_conv2d(x.double(), w.double(), s.double(), Modulation())
    assert y.dtype is torch.float16
    assert torch.isfinite(y).all()
    assert (y.double() - reference).abs().max() < 0.02 * reference.abs().max()  # 11-bit products over 72 taps


def test_one_rule_picks_the_form() -> None:
    wide, point, plain = torch.zeros(2, 2, 3, 3), torch.zeros(2, 2, 1, 1), Modulation()
    picked = {
        (name, device, is_training): fastest_form(
            torch.zeros(2, 2, 8, 8, device=device), w, plain, is_training=is_training
        ).__name__
        for name, w in (("3x3", wide), ("1x1", point))
        for device in ("cpu", "meta")
        for is_training in (False, True)
    }
    shared, grouped, pointwise = (form.__name__ for form in FORMS)
    assert picked == {
        ("3x3", "cpu", False): shared, ("3x3", "cpu", True): shared,
        ("3x3", "meta", False): grouped, ("3x3", "meta", True): shared,
        ("1x1", "cpu", False): pointwise, ("1x1", "cpu", True): pointwise,
        ("1x1", "meta", False): pointwise, ("1x1", "meta", True): shared,
    }  # fmt: skip
    x, s = random(2, 2, 4, 4).float(), torch.ones(2, 2)
    picked_here = modulated_conv2d_fast(x, point + 1, s, plain, is_training=True)
    assert torch.equal(picked_here, modulated_conv2d_pointwise(x, point + 1, s, plain))


def test_styles_of_one_sample_scale_the_smaller_of_weights_and_features() -> None:
    fixed, plain = torch.zeros(4, 4, 3, 3), Modulation()
    learnt, large, small = fixed.clone().requires_grad_(True), torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 5, 5)
    shared, grouped = modulated_conv2d_shared, modulated_conv2d_grouped
    assert fastest_form(large, learnt, plain, is_training=True) is grouped
    assert fastest_form(small, learnt, plain, is_training=True) is shared
    assert fastest_form(large, fixed, plain, is_training=True) is shared  # styles alone may want gradients
    with torch.no_grad():
        assert fastest_form(large, fixed, plain, is_training=False) is grouped
