"""The epochs of a reward training: Lightning's trainer with the callbacks that make it exact and stoppable."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from eg3d.run_folder import choose_device
from eg3d.stop_signals import HeldStops
from reward_model_training.data.datamodule import PreferenceData
from reward_model_training.lightning_progress import StepsBar
from reward_model_training.lightning_state import AtomicCheckpoints, BestEpoch, RunState, read_state
from reward_model_training.models import build_model
from reward_model_training.module import RewardModule

if TYPE_CHECKING:
    from reward_model_training.data.dataset import Splits
    from reward_model_training.data.representation_store import RepresentationStore
    from reward_model_training.train import RewardTrainConfig

STATE_FILE, BEST_FILE = "last.ckpt", "best.ckpt"
MONITORS = {"pairs": "val/pairs_loss", "scalar": "val/scalar_loss"}
DIVERGENCE_THRESHOLD = 2.0  # published: a monitored loss above it ends the run
HARMLESS_WARNINGS = (
    "does not have many workers",
    "treespec",
    "Checkpoint directory",
    "smaller than the logging interval",
    "dataloader is not resumable",  # it is: PlannedBatches starts at the step that comes next
)


def fit(cfg: RewardTrainConfig, splits: Splits, store: RepresentationStore, folder: Path) -> str:
    """Train, or continue the run in `folder`, and leave its state and best weights there; returns how it ended.

    Raises RuntimeError when losses are not finite, Stopped at a signal, with the state of the last step on disk.
    """
    state = folder / STATE_FILE
    best = BestEpoch(
        folder / BEST_FILE, monitor=MONITORS[cfg.monitor], patience=cfg.patience, divergence=DIVERGENCE_THRESHOLD
    )
    if state.is_file():
        best.read(state)
    if not best.verdict():
        torch.manual_seed(cfg.seed)
        module = RewardModule(build_model(cfg.model), cfg.transform, cfg.loss, cfg.optimiser, seed=cfg.seed)
        data = PreferenceData(cfg.data, splits, store, seed=cfg.seed)
        data.prepare_data()  # long, and outside the block, so that a stop need not wait for it
        with warnings.catch_warnings(), HeldStops() as stops:
            for text in HARMLESS_WARNINGS:
                warnings.filterwarnings("ignore", f".*{text}.*")
            trainer = _trainer(cfg, folder, best, stops)
            trainer.fit(module, datamodule=data, ckpt_path=str(state) if state.is_file() else None)
    num_epochs = int(read_state(state)["epoch"]) + 1
    verdict = best.verdict()
    return f"stopped after epoch {num_epochs} of {cfg.max_epochs}: {verdict}" if verdict else f"{num_epochs} finished"


def _trainer(cfg: RewardTrainConfig, folder: Path, best: BestEpoch, stops: HeldStops) -> Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    device = choose_device(cfg.device)
    # BestEpoch before RunState: the state written after an epoch knows what was said of it.
    callbacks = [best, RunState(folder / STATE_FILE, every_n_steps=cfg.state_every_n_steps, stops=stops)]
    if cfg.shows_progress:
        callbacks.append(StepsBar())
    return Trainer(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        max_epochs=cfg.max_epochs,
        logger=[CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard", version="")],
        callbacks=callbacks,
        plugins=[AtomicCheckpoints()],
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_checkpointing=False,  # Lightning's own, as the next two
        enable_model_summary=False,
        enable_progress_bar=False,
    )
