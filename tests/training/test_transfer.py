"""Beginning from other networks, frozen layers, reduced precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import toy_draw

from eg3d.checkpoints.store import load_discriminator, load_generator
from eg3d.training.config import TrainConfig
from eg3d.training.loop import Trainer, train
from eg3d.training.transfer import transfer

Make = Callable[..., TrainConfig]


def test_networks_of_this_config_take_over_what_fits(
    train_config: Make, toy_networks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another mapping depth, another decoder and frozen layers: the rest is the file's, and the log says so."""
    base = train_config()
    generator = dataclasses.replace(base.generator, mapping_layers=3, decoder_hidden=6)
    discriminator = dataclasses.replace(base.discriminator, freeze_layers=3)
    cfg = train_config(
        start=str(toy_networks), start_config="own", generator=generator, discriminator=discriminator, seed=7
    )
    with caplog.at_level("INFO"):
        trainer = Trainer(cfg)
    assert (trainer.generator.cfg, trainer.discriminator.cfg) == (generator, discriminator)
    for net, network in (("G", trainer.generator), ("G_ema", trainer.average)):
        found = load_generator(toy_networks, net=net).state_dict()
        new = {k for k, v in network.state_dict().items() if k not in found or not torch.equal(v, found[k])}
        assert {name.split(".")[-2] for name in new} == {"fc2", "0", "2"}  # mapping.fc2, decoder.net.0, decoder.net.2
        assert len(new) == 2 + 3
    wanted = load_discriminator(toy_networks).state_dict()
    assert all(torch.equal(v, wanted[k]) for k, v in trainer.discriminator.state_dict().items())
    assert any("5 new (backbone.mapping.fc2.weight" in line for line in caplog.messages)


def test_frozen_layers_do_not_learn(train_config: Make, toy_networks: Path) -> None:
    discriminator = dataclasses.replace(train_config().discriminator, freeze_layers=3)
    cfg = train_config(start=str(toy_networks), start_config="own", discriminator=discriminator, total_kimg=0.008)
    learnt = load_discriminator(train(cfg).snapshot)
    before = load_discriminator(toy_networks).state_dict()
    same = {name for name, value in learnt.state_dict().items() if torch.equal(value, before[name])}
    layers = {f"b16.{name}.{kind}" for name in ("fromrgb", "conv0", "conv1") for kind in ("weight", "bias")}
    assert {name for name in same if "filter" not in name} == layers


def test_nothing_that_fits() -> None:
    with pytest.raises(ValueError, match=r"start: nothing in a\.pkl, D has the name and shape"):
        transfer(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2), "a.pkl, D")


@pytest.mark.parametrize(("precision", "is_same"), [("fp16", True), ("bf16", False)])
def test_reduced_precision_trains_on_a_cpu(train_config: Make, precision: str, is_same: bool) -> None:
    """fp16 blocks run in fp32 off CUDA; bf16 ones do not, and every gradient stays finite and near."""
    base = train_config()

    def step(kind: str) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        generator = dataclasses.replace(base.generator, num_fp16_res=1, sr_num_fp16_res=4, precision=kind)
        discriminator = dataclasses.replace(base.discriminator, num_fp16_res=1, precision=kind)
        trainer = Trainer(train_config(generator=generator, discriminator=discriminator))
        norms = {}
        for phase in trainer.phases:
            phase.step(toy_draw(trainer), micro_batch=2, num_images=0)
            norms |= {f"{phase.name}/{name}": norm for name, norm in phase.norms.items()}
        return norms, trainer.generator.state_dict()

    (full, weights), (low, low_weights) = step("fp32"), step(precision)
    assert all(torch.isfinite(value).all() for value in low_weights.values())
    assert all(torch.equal(value, low_weights[name]) for name, value in weights.items()) is is_same
    for name, norm in full.items():
        assert low[name] == pytest.approx(norm, rel=1e-9 if is_same else 0.2), name  # bf16 has 8 bits
