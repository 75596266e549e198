"""Exact resume of a Lightning run: when its state is written, and how it is written and read.

The state file (`last.ckpt`) holds weights, optimiser, loop counters and early stopping; it is replaced atomically
and read with tensors-only unpickling. Data order and anchors need no state: they are named by step and epoch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer

from eg3d.safe_write import atomic_path


def read_state(path: str | Path) -> dict[str, Any]:
    """Training state as plain data. Raises ValueError (one line) if the file is damaged or holds code."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, all with the same answer
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: unreadable training state ({reason}); delete it to start again") from None
    if not isinstance(state, dict) or "state_dict" not in state:
        raise ValueError(f"{path}: not a training state of this program; delete it to start again")
    return state


class AtomicCheckpoints(CheckpointIO):
    """Lightning's checkpoint files, written atomically and read as tensors and plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_state(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


class RunState(Callback):
    """Writes the state every `every_n_steps` steps (0 = never) and after each epoch with its validation."""

    def __init__(self, path: str | Path, *, every_n_steps: int) -> None:
        self.path, self.every_n_steps = Path(path), every_n_steps
        self.is_finished = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # The epoch's last batch is left to on_train_epoch_end: a state between it and the validation
        # would resume after the validation that early stopping still needs.
        is_last = trainer.global_step % trainer.num_training_batches == 0
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and not is_last:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.is_finished = trainer.should_stop
        trainer.save_checkpoint(self.path)

    def state_dict(self) -> dict[str, Any]:
        return {"is_finished": self.is_finished}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.is_finished = bool(state_dict["is_finished"])


def was_stopped_early(path: str | Path) -> bool:
    """Whether the run that wrote this state had ended by early stopping, so that no epoch is to follow."""
    return bool(read_state(path).get("callbacks", {}).get("RunState", {}).get("is_finished", False))
