"""Names, shapes and counts of the published configurations, built without memory on the meta device."""

import csv
from pathlib import Path

import pytest
import torch

from eg3d.networks.block_options import Channels, Precision
from eg3d.networks.discriminator import DiscriminatorConfig, DualDiscriminator
from eg3d.networks.mapping import MappingNetwork
from eg3d.networks.superresolution import SUPERRESOLUTION_KINDS, SuperResolution
from eg3d.networks.synthesis import Backbone, SynthesisNetwork

TABLE = Path(__file__).parent / "state_dict_ffhq512-128.tsv"


def published(net, prefix=""):
    """{name without prefix: (kind, shape, dtype)} of one network in the table."""
    with TABLE.open() as file:
        rows = [r for r in csv.DictReader(file, delimiter="\t") if r["net"] == net and r["name"].startswith(prefix)]
    shape = lambda text: () if text == "scalar" else tuple(int(n) for n in text.split("x"))  # noqa: E731
    return {r["name"][len(prefix) :]: (r["kind"], shape(r["shape"]), r["dtype"]) for r in rows}


def built(module):
    entries = {n: ("param", tuple(p.shape), str(p.dtype)[6:]) for n, p in module.named_parameters()}
    return entries | {n: ("buffer", tuple(b.shape), str(b.dtype)[6:]) for n, b in module.named_buffers()}


def count(module):
    return sum(p.numel() for p in module.parameters()), sum(b.numel() for b in module.buffers())


@pytest.fixture(autouse=True)
def meta_device():
    with torch.device("meta"):
        yield


def backbone(layers=2):
    synthesis = SynthesisNetwork(512, 256, 96, channels=Channels(), precision=Precision())
    return Backbone(synthesis, MappingNetwork(512, 25, 512, synthesis.num_ws, num_layers=layers))


def superresolution(name):
    kind = SUPERRESOLUTION_KINDS[name]
    return SuperResolution(kind, feature_channels=32, w_dim=512, precision=Precision(4))


def test_discriminator_table():
    network = DualDiscriminator(DiscriminatorConfig())
    assert built(network) == published("D")
    assert count(network) == (31_359_744, 496)


def test_backbone_table():
    assert built(backbone()) == published("G", "backbone.")


def test_superresolution_table():
    assert built(superresolution("8XDC")) == published("G", "superresolution.")


@pytest.mark.parametrize(("size", "parameters", "tensors"), [(128, 30_766_592, 74), (256, 31_241_216, 83)])
def test_smaller_discriminators(size, parameters, tensors):
    network = DualDiscriminator(DiscriminatorConfig(img_resolution=size))
    assert (count(network)[0], len(network.state_dict())) == (parameters, tensors)


def test_backbone_counts():
    network = backbone()
    assert count(network.mapping)[0] == 800_768
    assert count(backbone(8).mapping)[0] == 800_768 + 6 * 262_656
    assert count(network.synthesis)[0] == 28_207_533
    blocks = {4: 2_942_561, 8: 5_556_834, 64: 5_556_834, 128: 2_319_970, 256: 717_666}
    assert {res: count(getattr(network.synthesis, f"b{res}"))[0] for res in blocks} == blocks


@pytest.mark.parametrize(
    ("kind", "parameters", "buffers", "tensors"),
    [
        ("8XDC", 1_649_578, 831_049, 177),
        ("8X", 574_954, 831_065, 178),
        ("4X", 574_954, 339_545, 178),
        ("2X", 574_954, 216_665, 178),
    ],
)
def test_generator_totals(kind, parameters, buffers, tensors):
    """Whole-generator counts less the label deviation (1 buffer of 25) and the decoder (4 tensors)."""
    networks = backbone(), superresolution(kind)
    assert count(networks[1])[0] == parameters
    assert sum(count(n)[1] for n in networks) == buffers - 25
    assert sum(len(n.state_dict()) for n in networks) == tensors - 5
