"""The project's progress bar around the training steps of a Lightning run."""

from __future__ import annotations

import contextlib
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from eg3d.progress import Advance, ignore, progress_bar


class StepsBar(Callback):
    """Counts training steps up to `max_epochs` epochs; early stopping ends it before."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._advance: Advance = ignore

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        self._advance = self._open.enter_context(progress_bar("training steps", total))
        self._advance(trainer.global_step)  # of the run that this one continues

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._advance()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._open.close()
