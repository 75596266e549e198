"""The bar around training steps: it counts every step once, however often the run was stopped."""

from __future__ import annotations

import contextlib

import pytest

from reward_model_training import lightning_progress
from reward_model_training.lightning_state import RunState
from reward_model_training.train import train


class Stopped(RuntimeError):
    """Ends a run in the middle."""


def test_the_bar_counts_on_after_a_stop(reward_config, monkeypatch):
    bars = []

    @contextlib.contextmanager
    def recorded(title, total):
        bar = {"total": total, "counts": [], "is_closed": False}
        bars.append(bar)
        try:
            yield lambda count=1: bar["counts"].append(count)
        finally:
            bar["is_closed"] = True

    def stop(self, trainer, *_):
        if trainer.global_step == 5:
            raise Stopped

    monkeypatch.setattr(lightning_progress, "progress_bar", recorded)
    config = reward_config(shows_progress=True, state_every_n_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(RunState, "on_train_batch_start", stop)
        with pytest.raises(Stopped):
            train(config)
    train(config)
    first, second = bars
    assert first["is_closed"] and second["is_closed"]
    assert first["total"] == second["total"] == 12  # 3 epochs of 4 steps
    assert first["counts"] == [0, 1, 1, 1, 1, 1]
    assert second["counts"] == [5, *[1] * 7]
