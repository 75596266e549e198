"""Mapping network: truncation, running mean, conditioning."""

import pytest
import torch

from eg3d.networks.mapping import MappingNetwork


@pytest.fixture
def network():
    torch.manual_seed(0)
    m = MappingNetwork(8, 25, 16, 6, num_layers=2)
    m.w_avg.normal_()
    return m


def inputs(n=4):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(n, 8, generator=rng), torch.randn(n, 25, generator=rng)


def test_shape_and_broadcast(network):
    ws = network(*inputs())
    assert ws.shape == (4, 6, 16)
    assert torch.equal(ws[:, 0], ws[:, 5])


def test_scale_of_z_does_not_matter(network):
    z, c = inputs()
    torch.testing.assert_close(network(z, c), network(z * 7, c), rtol=1e-5, atol=1e-5)


def test_psi_zero_gives_the_mean_code(network):
    assert torch.equal(network(*inputs(), truncation_psi=0.0), network.w_avg.expand(4, 6, 16))


@pytest.mark.parametrize(("cutoff", "touched"), [(None, 6), (2, 2), (0, 0), (14, 6)])
def test_truncation_moves_only_the_first_layers(network, cutoff, touched):
    full = network(*inputs())
    cut = network(*inputs(), truncation_psi=0.5, truncation_cutoff=cutoff)
    torch.testing.assert_close(cut[:, :touched], network.w_avg + 0.5 * (full - network.w_avg)[:, :touched])
    assert torch.equal(cut[:, touched:], full[:, touched:])


def test_bad_cutoff_and_bad_shapes_are_one_clear_line(network):
    z, c = inputs()
    with pytest.raises(ValueError, match="truncation_cutoff must be None"):
        network(z, c, truncation_psi=0.5, truncation_cutoff=-3)
    with pytest.raises(ValueError, match=r"z must be \[N, 8\], got \[4, 7\]"):
        network(z[:, :7], c)
    with pytest.raises(ValueError, match=r"c must be \[N, 25\], got None"):
        network(z, None)
    with pytest.raises(ValueError, match="one batch size, got 4 and 1"):
        network(z, c[:1])


def test_running_mean_moves_only_on_request(network):
    before = network.w_avg.clone()
    ws = network(*inputs())
    assert torch.equal(network.w_avg, before)
    network(*inputs(), update_emas=True, truncation_psi=0.3)
    expected = before * 0.998 + ws[:, 0].mean(0) * 0.002  # before truncation
    torch.testing.assert_close(network.w_avg, expected)
    assert not network.w_avg.requires_grad


def test_zero_label_still_maps(network):
    z, c = inputs()
    network.embed.bias.data.normal_()
    assert torch.isfinite(network(z, torch.zeros_like(c))).all()


def test_label_only_and_latent_only_networks():
    c = torch.randn(3, 25)
    label_only = MappingNetwork(0, 25, 16, None, num_layers=8)
    assert label_only(None, c).shape == (3, 16)
    assert "w_avg" not in label_only.state_dict()
    latent_only = MappingNetwork(8, 0, 16, 2)
    assert latent_only(torch.randn(3, 8), None).shape == (3, 2, 16)
    assert not any(name.startswith("embed") for name in latent_only.state_dict())
    with pytest.raises(ValueError, match="z_dim or c_dim above 0"):
        MappingNetwork(0, 0, 16, None)


def test_float64_latents_are_accepted(network):
    z, c = inputs()
    assert torch.equal(network(z.double(), c.double()), network(z, c))
