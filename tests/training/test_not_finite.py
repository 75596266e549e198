"""Runs whose numbers go wrong: told step by step, ended after some, and nothing good is written over."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import Run
from tiny import flat_overrides

from eg3d import train as command
from eg3d.checkpoints.store import load_generator
from eg3d.training.config import OptimConfig, TrainConfig
from eg3d.training.loop import Trainer
from eg3d.training.phases import MOST_SKIPPED


def test_absurd_rates_end_the_run_in_one_line(
    run: Run, train_config: Callable[..., TrainConfig], toy_networks: Path
) -> None:
    optim = OptimConfig(generator_lr=1e30, discriminator_lr=1e30)
    cfg = train_config(start=str(toy_networks), optim=optim, total_kimg=0.4, tick_kimg=0.2)
    result = run(command, *flat_overrides(cfg))
    assert result.code == 1
    assert f"not finite {MOST_SKIPPED} times in a row" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
    assert "not finite, the step is skipped" in result.out
    (snapshot,) = Path(cfg.out).glob("network-snapshot-*.safetensors")  # of the beginning, whole
    before, after = load_generator(toy_networks).state_dict(), load_generator(snapshot).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_networks_that_are_not_finite_are_not_written(train_config: Callable[..., TrainConfig]) -> None:
    cfg, before = train_config(total_kimg=0.012, tick_kimg=0.004, snapshot_ticks=1), {}

    def spoil(trainer: Trainer) -> None:
        if trainer.counters.tick == 2:
            before.update({path: path.read_bytes() for path in trainer.folder.glob("*.safetensors")})
            with torch.no_grad():
                trainer.average.backbone.mapping.w_avg[0] = math.nan

    with pytest.raises(RuntimeError, match=r"at 8 images backbone\.mapping\.w_avg of G_ema is not finite") as error:
        Trainer(cfg, tick_hooks=[spoil]).run()
    assert "\n" not in str(error.value)
    assert len(before) == 3
    assert {path: path.read_bytes() for path in Path(cfg.out).glob("*.safetensors")} == before
