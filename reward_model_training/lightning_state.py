"""Exact resume of a Lightning run: when its state is written, and how it is written and read.

The state file (`last.ckpt`) holds weights, optimiser, loop counters, the best epoch and a checksum; it is replaced
atomically and read with tensors-only unpickling. Data order and anchors need no state: step and epoch name them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from eg3d.checkpoints.torch_files import load_plain
from eg3d.safe_write import atomic_path
from eg3d.stop_signals import HeldStops

ADVICE = "lower optimiser.lr"
AGAIN = "delete it to start again"


def read_state(path: str | Path) -> dict[str, Any]:
    """Training state as plain data. Raises ValueError (one line) if the file is damaged or holds code."""
    try:
        state = load_plain(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: unreadable training state ({error}); {AGAIN}") from None
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise ValueError(f"{path}: not a training state of this program; {AGAIN}")
    if state.pop("sha256", None) != checksum(state):
        raise ValueError(f"{path}: damaged training state (its checksum differs); {AGAIN}")
    return state


def checksum(state: Any) -> str:
    """SHA-256 of nested dictionaries and lists of tensors and plain values: the same before writing and when read."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {list(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            add([part for item in value.items() for part in item])
        elif isinstance(value, (list, tuple)):
            digest.update(f"{len(value)} parts".encode())
            for part in value:
                add(part)
        else:
            digest.update(repr(value).encode())

    add(state)
    return digest.hexdigest()


class AtomicCheckpoints(CheckpointIO):
    """Lightning's checkpoint files, written atomically and read as tensors and plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with atomic_path(path) as temporary:
            torch.save({**checkpoint, "sha256": checksum(checkpoint)}, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_state(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


class BestEpoch(Callback):
    """Keeps the weights of the epoch with the lowest monitored loss, and ends a run that gets no better.

    Its state names no file, so that a run folder can move, and no setting, so that `patience` may change.
    """

    def __init__(self, path: str | Path, *, monitor: str, patience: int, divergence: float) -> None:
        self.path, self.monitor, self.patience, self.divergence = Path(path), monitor, patience, divergence
        self.loss = self.best = math.inf  # of the last epoch and of the best one
        self.num_worse = 0  # epochs since the best one

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the epoch. Raises RuntimeError for a loss that is not finite."""
        self.loss = float(trainer.callback_metrics[self.monitor])
        if not math.isfinite(self.loss):
            raise RuntimeError(f"{self.monitor} is {self.loss} after epoch {trainer.current_epoch + 1}; {ADVICE}")
        self.num_worse += 1
        if self.loss < self.best:
            self.best, self.num_worse = self.loss, 0
            trainer.save_checkpoint(self.path, weights_only=True)
        trainer.should_stop = trainer.should_stop or bool(self.verdict())

    def verdict(self) -> str:
        """Why the run is over before its last epoch; empty while it is not."""
        if math.isfinite(self.loss) and self.loss > self.divergence:
            return f"it diverged: {self.monitor} {self.loss:.4g} is above {self.divergence:g}; {ADVICE}"
        if self.num_worse >= self.patience:
            return f"no {self.monitor} below {self.best:.4g} for {self.num_worse} epochs (patience {self.patience})"
        return ""

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "best": self.best, "num_worse": self.num_worse}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss, self.best = float(state_dict["loss"]), float(state_dict["best"])
        self.num_worse = int(state_dict["num_worse"])

    def read(self, path: str | Path) -> None:
        """Take over what the state of a run at `path` says. Raises ValueError for a state without it."""
        state = read_state(path)
        try:
            self.load_state_dict(state["callbacks"][self.state_key])
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: a training state without its best epoch ({error!r}); {AGAIN}") from None


class RunState(Callback):
    """Writes the state every `every_n_steps` steps (0 = never), after each epoch with its validation, and at a stop."""

    def __init__(self, path: str | Path, *, every_n_steps: int, stops: HeldStops) -> None:
        self.path, self.every_n_steps, self.stops = Path(path), every_n_steps, stops

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stops.install()  # Lightning has put its own handler of SIGTERM before them

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # The epoch's last batch is left to on_train_epoch_end: a state between it and the validation
        # would resume after the validation that the best epoch still needs.
        if trainer.global_step % trainer.num_training_batches == 0:
            return
        is_due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if is_due or self.stops.is_asked:
            trainer.save_checkpoint(self.path)
        self.stops.raise_if_asked()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)
        self.stops.raise_if_asked()
