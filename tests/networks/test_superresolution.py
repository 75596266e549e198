"""Super-resolution layouts at toy size; published sizes are checked by name in test_state_names.py."""

from dataclasses import replace

import pytest
import torch

from eg3d.networks.block_options import Precision
from eg3d.networks.superresolution import SUPERRESOLUTION_KINDS, SuperResolution

SMALL = {"2X": (8, 16), "4X": (8, 16), "8X": (8, 32), "8XDC": (8, 32)}  # input, output


def toy(name, *, num_low=4, **options):
    torch.manual_seed(0)
    source, size = SMALL[name]
    kind = replace(SUPERRESOLUTION_KINDS[name], img_resolution=size, input_resolution=source, channels=(7, 4))
    return SuperResolution(kind, feature_channels=5, w_dim=6, precision=Precision(num_low), **options)


def inputs(size, seed=0):
    rng = torch.Generator().manual_seed(seed)
    shapes = (2, 3, size, size), (2, 5, size, size), (2, 4, 6)
    return [torch.randn(shape, generator=rng, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("kind", list(SMALL))
def test_sizes_and_untouched_input(kind):
    rgb, features, ws = inputs(8)
    before = rgb.detach().clone()
    image, _ = toy(kind)(rgb, features, ws)
    assert image.shape == (2, 3, SMALL[kind][1], SMALL[kind][1])
    assert torch.equal(rgb, before)


@pytest.mark.parametrize("kind", list(SMALL))
def test_raw_image_carries_the_residual_only_in_no_up_layouts(kind):
    """Published 2X and 4X modules return image_raw with block0's colours added."""
    network = toy(kind)
    colours = []
    network.block0.torgb.register_forward_hook(lambda *args: colours.append(args[-1]))
    rgb, features, ws = inputs(8)
    _, raw = network(rgb, features, ws)
    if kind in ("2X", "4X"):
        torch.testing.assert_close(raw, rgb + colours[0])
        assert (raw - rgb).abs().max() > 1e-3
    else:
        assert raw is rgb


def test_raw_image_is_clean_after_a_resize():
    rgb, features, ws = inputs(6)
    image, raw = toy("2X")(rgb, features, ws)
    assert raw is rgb
    assert image.shape[-1] == 16


def test_larger_renderings_shrink_except_in_4x():
    rgb, features, ws = inputs(12)
    assert toy("2X")(rgb, features, ws)[0].shape[-1] == 16
    with pytest.raises(ValueError, match="takes renderings up to 8 pixels, got 12"):
        toy("4X")(rgb, features, ws)


def test_antialias_matters_only_when_shrinking():
    smooth, plain = toy("2X", antialias=True), toy("2X", antialias=False)
    small, large = inputs(6), inputs(13)
    torch.testing.assert_close(smooth(*small)[0], plain(*small)[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(smooth(*large)[0], plain(*large)[0], atol=1e-2)


def test_only_the_last_code_counts():
    rgb, features, ws = inputs(8)
    network = toy("8X")
    other = torch.cat([torch.zeros_like(ws[:, :-1]), ws[:, -1:]], dim=1)
    assert torch.equal(network(rgb, features, ws)[0], network(rgb, features, other)[0])


@pytest.mark.parametrize("training", [False, True])
def test_full_precision_gradients_reach_every_input(training):
    """The published 2X module raises an autograd error here (in-place addition)."""
    rgb, features, ws = inputs(8)
    image, raw = toy("2X", num_low=0).train(training)(rgb, features, ws)
    (image.sum() + raw.square().sum()).backward()
    assert all(t.grad is not None and t.grad.abs().max() > 0 for t in (rgb, features, ws))


def test_noise_none_gives_no_gradient_to_its_strength():
    network = toy("2X")
    network(*inputs(8))[0].sum().backward()
    assert network.block0.conv0.noise_strength.grad is None
    with pytest.raises(ValueError, match=r"needs a torch\.Generator"):
        network(*inputs(8), noise_mode="random")


def test_random_noise_draw_order():
    network, rng, reference = toy("8X"), torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    network(*inputs(8), noise_mode="random", rng=rng)
    for res in (16, 16, 32, 32):
        torch.randn(2, 1, res, res, generator=reference)
    assert torch.equal(torch.randn(3, generator=rng), torch.randn(3, generator=reference))


def test_clamp_follows_the_number_of_low_resolutions():
    assert toy("8X").block0.conv0.conv_clamp == 256.0
    assert toy("8X", num_low=1).block0.torgb.conv_clamp == 256.0  # any number stands for both blocks
    assert toy("8X", num_low=0).block0.torgb.conv_clamp is None


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="2X enlarges 2x: input 32 gives 64, but img_resolution is 128"):
        replace(SUPERRESOLUTION_KINDS["2X"], input_resolution=32)


def test_published_table():
    sizes = {k: (v.img_resolution, v.input_resolution, v.channels) for k, v in SUPERRESOLUTION_KINDS.items()}
    assert sizes == {
        "8XDC": (512, 128, (256, 128)),
        "8X": (512, 128, (128, 64)),
        "4X": (256, 128, (128, 64)),
        "2X": (128, 64, (128, 64)),
    }
