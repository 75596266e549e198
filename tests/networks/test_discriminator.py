"""Dual discriminator at toy size."""

import math

import pytest
import torch
import torch.nn.functional as F

from eg3d.networks.discriminator import (
    DiscriminatorConfig,
    DualDiscriminator,
    minibatch_std,
    resize_raw,
)
from eg3d.networks.resampling import make_resample_filter

TOY = {"img_resolution": 16, "channel_base": 128, "channel_max": 16}


def toy(**options):
    torch.manual_seed(0)
    return DualDiscriminator(DiscriminatorConfig(**TOY | options))


def batch(n=4, size=16, raw=8, dtype=torch.float32):
    rng = torch.Generator().manual_seed(1)
    image, image_raw, c = (torch.randn(s, generator=rng) for s in ((n, 3, size, size), (n, 3, raw, raw), (n, 25)))
    return {"image": image.to(dtype), "image_raw": image_raw.to(dtype)}, c.to(dtype)


def naive_minibatch_std(x, group):
    n = x.shape[0]
    group = min(group, n)
    columns = n // group
    out = torch.zeros(n, 1, *x.shape[2:], dtype=x.dtype)
    for m in range(columns):
        members = [i for i in range(n) if i % columns == m]
        mean = sum(x[i] for i in members) / group
        std = (sum((x[i] - mean) ** 2 for i in members) / group + 1e-8).sqrt()
        for i in members:
            out[i] = std.mean()
    return torch.cat([x, out], dim=1)


@pytest.mark.parametrize(("n", "group"), [(8, 4), (4, 4), (2, 4), (6, 3), (1, 4), (4, 1)])
def test_minibatch_std_equals_definition(n, group):
    x = torch.randn(n, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(minibatch_std(x, group), naive_minibatch_std(x, group))


def test_minibatch_std_refuses_a_ragged_batch():
    with pytest.raises(ValueError, match="multiple of the minibatch-std group 4, got 6"):
        minibatch_std(torch.zeros(6, 1, 4, 4), 4)


def test_logits_shape_and_inputs():
    img, c = batch()
    logits = toy()(img, c)
    assert logits.shape == (4, 1)
    changed = img | {"image_raw": img["image_raw"] + 1}
    assert not torch.allclose(toy()(changed, c), logits)
    with pytest.raises(ValueError, match=r"image must be \[N, 3, 16, 16\], got \[4, 3, 8, 8\]"):
        toy()(img | {"image": img["image_raw"]}, c)


def test_logits_project_on_the_mapped_label():
    network = toy()
    img, c = batch()
    logits, cmap = network(img, c), network.mapping(None, c)
    seen = []
    network.b4.register_forward_hook(lambda *args: seen.append(args[-1]))
    network(img, c)
    torch.testing.assert_close(logits, (seen[0] * cmap).sum(1, keepdim=True) / math.sqrt(16))


def test_label_mapping_has_eight_layers_by_default():
    assert toy().mapping.num_layers == 8


def test_single_and_unconditional_variants():
    img, c = batch()
    single = toy(dual_discrimination=False)
    assert single.b16.fromrgb.weight.shape[1] == 3
    assert torch.equal(single(img, c), single(img | {"image_raw": None}, c))
    assert toy(c_dim=0)(img, None).shape == (4, 1)


@pytest.mark.parametrize("options", [{}, {"num_fp16_res": 0}])
def test_gradient_penalty_has_parameter_gradients(options):
    network = toy(**options).double()
    img, c = batch(dtype=torch.float64)
    image, raw = (img[k].requires_grad_() for k in ("image", "image_raw"))
    logits = network(img, c)
    grads = torch.autograd.grad(logits.sum(), [image, raw], create_graph=True)
    sum(g.square().sum() for g in grads).backward()
    for name in ("b16.fromrgb", "b16.conv1", "b16.skip", "b8.conv0", "b4.conv", "mapping.fc0"):
        g = network.get_parameter(f"{name}.weight").grad
        assert torch.isfinite(g).all(), name
        assert g.abs().max() > 0, name


def test_gradient_penalty_matches_finite_differences():
    """d/dw of |dD/dx|^2 along one random direction of all weights."""
    network = toy(num_fp16_res=0).double()
    img, c = batch(dtype=torch.float64)
    img["image"].requires_grad_()

    def penalty(create_graph=False):
        (g,) = torch.autograd.grad(network(img, c).sum(), img["image"], create_graph=create_graph)
        return g.square().sum()

    parameters = list(network.parameters())
    grads = torch.autograd.grad(penalty(create_graph=True), parameters, allow_unused=True)
    rng = torch.Generator().manual_seed(2)
    directions = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(grads, directions, strict=True) if g is not None)
    values, h = [], 1e-7  # small enough that no leaky ReLU changes side
    for sign in (1, -1):
        for p, d in zip(parameters, directions, strict=True):
            p.data += sign * h * d
        values.append(penalty().item())
        for p, d in zip(parameters, directions, strict=True):
            p.data -= sign * h * d
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(slope.item(), rel=1e-4)


def test_label_noise_leaves_the_callers_labels_alone():
    """The published code corrupts labels in place, so noise piles up between passes; ours must not."""
    network = toy(disc_c_noise=0.5)
    img, c = batch()
    before = c.clone()
    noisy = network(img, c, rng=torch.Generator().manual_seed(0))
    assert torch.equal(c, before)
    expected = c + torch.randn(4, 25, generator=torch.Generator().manual_seed(0)) * c.std(0) * 0.5
    torch.testing.assert_close(noisy, toy()(img, expected))
    with pytest.raises(ValueError, match=r"disc_c_noise > 0 needs a torch\.Generator"):
        network(img, c)


@pytest.mark.parametrize(("k", "frozen"), [(0, []), (1, ["fromrgb"]), (4, ["fromrgb", "conv0", "conv1", "skip"])])
def test_freeze_keeps_names_and_drops_parameters(k, frozen):
    free, network = toy(), toy(freeze_layers=k)
    assert set(network.state_dict()) == set(free.state_dict())
    missing = {n for n, _ in free.named_parameters()} - {n for n, _ in network.named_parameters()}
    assert missing == {n for n, _ in free.named_parameters() if n.split(".")[:2] in [["b16", f] for f in frozen]}


def test_frozen_count_runs_on_into_the_second_block():
    names = {n for n, _ in toy(freeze_layers=5).named_parameters()}
    assert "b8.conv0.weight" not in names
    assert "b8.conv1.weight" in names


def test_clamp_only_with_low_precision_levels():
    assert toy().b16.conv0.conv_clamp == 256.0
    assert toy().b16.skip.conv_clamp is None
    assert toy(num_fp16_res=0).b16.conv0.conv_clamp is None


def test_bf16_logits_stay_close():
    img, c = batch()
    exact, rough = toy()(img, c), toy(precision="bf16")(img, c)
    assert rough.dtype is torch.float32
    assert (exact - rough).abs().max() < 0.05 * exact.abs().max() + 0.05  # 8-bit mantissa
    assert torch.equal(toy(precision="fp16")(img, c), exact)  # fp16 runs as fp32 off CUDA


def test_faults_are_reported_together():
    faults = DiscriminatorConfig(img_resolution=48, precision="fp8", mbstd_group_size=0).validate()
    assert len(faults) == 3
    with pytest.raises(ValueError, match=r"power of two.*precision"):
        toy(img_resolution=48, precision="fp8")


def test_resize_modes():
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    smooth, plain = resize_raw(x, 8), resize_raw(x, 8, mode="none")
    torch.testing.assert_close(smooth, F.interpolate(x, size=8, mode="bilinear", antialias=True))
    torch.testing.assert_close(plain, F.interpolate(x, size=8, mode="bilinear"))
    assert resize_raw(x, 8, mode="classic").shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="resize mode: 'box' is not one of antialiased, classic, none"):
        resize_raw(x, 8, mode="box")


def test_classic_resize_equals_its_steps():
    f = make_resample_filter()
    x = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    up = F.conv_transpose2d(x, (4 * f).expand(2, 1, 4, 4), stride=2, padding=1, groups=2)
    middle = F.interpolate(up, size=10, mode="bilinear")
    expected = F.conv2d(middle, f.expand(2, 1, 4, 4), stride=2, groups=2)
    torch.testing.assert_close(resize_raw(x, 4, mode="classic"), expected)


def test_enlarging_with_antialias_is_plain_bilinear():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize_raw(x, 32), resize_raw(x, 32, mode="none"), rtol=0, atol=1e-6)
