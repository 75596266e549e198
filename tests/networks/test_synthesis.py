"""Synthesis network and backbone at toy size."""

import pytest
import torch

from eg3d.networks import modulation
from eg3d.networks.block_options import Channels, Precision
from eg3d.networks.mapping import MappingNetwork
from eg3d.networks.synthesis import Backbone, SynthesisNetwork


def toy(*precision, **options):
    torch.manual_seed(0)
    network = SynthesisNetwork(16, 32, 6, channels=Channels(256, 16), precision=Precision(*precision, **options))
    for name, p in network.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.3)
        elif name.endswith("bias") and "affine" not in name:
            p.data.normal_(0, 0.1)
    return network


def codes(network, n=2):
    return torch.randn(n, network.num_ws, 16, generator=torch.Generator().manual_seed(1))


def test_number_of_codes():
    assert toy().num_ws == 8  # blocks 4, 8, 16, 32
    synthesis = SynthesisNetwork(16, 64, 48, channels=Channels(64, 4), precision=Precision())
    assert Backbone(synthesis, MappingNetwork(8, 25, 16, synthesis.num_ws)).num_ws == 10


def test_each_torgb_shares_its_code_with_the_next_conv0():
    """Changing code k must change exactly the layers that read it: 2j+1 is torgb of block j and conv0 of j+1."""
    network = toy()
    ws = codes(network)
    seen = {}
    hooks = [
        m.affine.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
        for name, m in network.named_modules()
        if hasattr(m, "affine")
    ]
    network(ws)
    for hook in hooks:
        hook.remove()
    order = ["b4.conv1", "b4.torgb"]
    for res in (8, 16, 32):
        order += [f"b{res}.conv0", f"b{res}.conv1", f"b{res}.torgb"]
    indices = [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7]
    for name, index in zip(order, indices, strict=True):
        assert torch.equal(seen[name], ws[:, index]), name


@pytest.mark.parametrize("noise_mode", ["const", "none", "random"])
@pytest.mark.parametrize("training", [False, True])
def test_any_form_of_modulated_convolution_gives_the_same_images(noise_mode, training, monkeypatch):
    network = toy().train(training).double()
    ws = codes(network).double()

    def images():
        return network(ws, noise_mode=noise_mode, rng=torch.Generator().manual_seed(5))

    picked = images()
    for form in (modulation.modulated_conv2d, modulation.modulated_conv2d_shared, modulation.modulated_conv2d_grouped):
        monkeypatch.setattr(modulation, "fastest_form", lambda *args, form=form, **options: form)
        torch.testing.assert_close(images(), picked, rtol=1e-9, atol=1e-9)


def test_batch_items_are_independent():
    network = toy()
    ws = codes(network, 3)
    torch.testing.assert_close(network(ws)[1:2], network(ws[1:2]), rtol=1e-4, atol=1e-4)


def test_random_noise_needs_a_generator_and_replays():
    network = toy()
    ws = codes(network)
    with pytest.raises(ValueError, match=r'noise_mode "random" needs a torch.Generator'):
        network(ws, noise_mode="random")
    one, two = (network(ws, noise_mode="random", rng=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, network(ws, noise_mode="random", rng=torch.Generator().manual_seed(4)))


def test_random_noise_is_drawn_layer_by_layer():
    """One normal draw [N, 1, R, R] per layer: the generator ends where those draws end."""
    network, rng, reference = toy(), torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    network(codes(network), noise_mode="random", rng=rng)
    for res in (4, 8, 8, 16, 16, 32, 32):
        torch.randn(2, 1, res, res, generator=reference)
    assert torch.equal(torch.randn(4, generator=rng), torch.randn(4, generator=reference))


def test_noise_modes_coincide_without_strength():
    network = toy()
    for name, p in network.named_parameters():
        if name.endswith("noise_strength"):
            p.data.zero_()
    ws = codes(network)
    torch.testing.assert_close(network(ws, noise_mode="const"), network(ws, noise_mode="none"))
    with pytest.raises(ValueError, match="noise_mode: 'off' is not one of const, none, random"):
        network(ws, noise_mode="off")


def test_every_parameter_gets_a_gradient():
    network = toy()
    network(codes(network)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_second_derivatives_exist():
    network = toy().double()
    ws = codes(network).double().requires_grad_()
    (g,) = torch.autograd.grad(network(ws).square().mean(), ws, create_graph=True)
    g.square().sum().backward()
    assert torch.isfinite(network.b32.conv0.weight.grad).all()
    assert network.b32.conv0.weight.grad.abs().max() > 0


def test_clamp_bounds_features_and_colours():
    network = toy(1, clamp=0.01)
    seen = []
    network.b32.conv1.register_forward_hook(lambda *args: seen.append(args[-1]))
    network(codes(network))
    assert seen[0].abs().max() <= 0.01


def test_low_precision_blocks():
    full, low = toy(), toy(2, "bf16")
    dtypes = {}
    for res in (4, 8, 16, 32):
        block = getattr(low, f"b{res}")
        block.conv1.register_forward_hook(lambda *args, res=res: dtypes.__setitem__(res, args[-1].dtype))
    ws = codes(full)
    exact, rough = full(ws), low(ws)
    assert dtypes == {4: torch.float32, 8: torch.float32, 16: torch.bfloat16, 32: torch.bfloat16}
    assert rough.dtype is torch.float32
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()  # 8-bit mantissa through four layers
    assert torch.equal(toy(2, "fp16")(ws), exact)  # fp16 runs as fp32 off CUDA


def test_bad_arguments_are_one_clear_line():
    with pytest.raises(ValueError, match="power of two, at least 4, got 48"):
        SynthesisNetwork(16, 48, 3, channels=Channels(), precision=Precision())
    with pytest.raises(ValueError, match=r"ws must be \[N, 8, 16\], got \[2, 7, 16\]"):
        toy()(codes(toy())[:, :7])


def test_a_seed_gives_the_weights_it_always_gave():
    """The order of random draws, written down: networks of older runs and tests start from it."""
    torch.manual_seed(7)
    network = SynthesisNetwork(4, 8, 3, channels=Channels(16, 3), precision=Precision())
    mapping = MappingNetwork(5, 0, 4, network.num_ws, num_layers=1)
    torch.manual_seed(7)
    shapes = {"b4.const": (3, 4, 4)}
    for layer, (inputs, outputs, side) in {"b4.conv1": (3, 3, 4), "b4.torgb": (3, 3, 0), "b8.conv0": (3, 2, 8),
                                           "b8.conv1": (2, 2, 8), "b8.torgb": (2, 3, 0)}.items():  # fmt: skip
        k = 3 if side else 1
        shapes |= {f"{layer}.affine.weight": (inputs, 4), f"{layer}.weight": (outputs, inputs, k, k)}
        shapes |= {f"{layer}.noise_const": (side, side)} if side else {}
    state = network.state_dict()
    for name, shape in shapes.items():
        assert torch.equal(state[name], torch.randn(shape)), name
    assert torch.equal(mapping.fc0.weight, torch.randn(4, 5) / 0.01)
