"""Train a reward model from rankings: python -m reward_model_training.train experiment=reward_sigma64_twin ..."""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eg3d.config_checks import one_of
from eg3d.hydra_command import hydra_command
from reward_model_training.data.dataset import DataConfig, Splits, make_splits
from reward_model_training.losses import LossConfig
from reward_model_training.models import ModelConfig
from reward_model_training.optimiser import OptimiserConfig
from reward_model_training.preferences.rankings import read_rankings

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from reward_model_training.bundle import Reward
    from reward_model_training.data.slab_store import SlabStore
    from reward_model_training.evaluate import Accuracy

MONITORS = {"pairs": "val/pairs_loss", "scalar": "val/scalar_loss"}
DIVERGENCE_THRESHOLD = 2.0  # published: a monitored loss above it ends the run
HARMLESS_WARNINGS = (
    "does not have many workers",
    "treespec",
    "Checkpoint directory",
    "smaller than the logging interval",
    "dataloader is not resumable",  # it is: PlannedBatches starts at the step that comes next
)
CENTRED_ROWS = 200  # training rows whose mean score is put at 0
# Settings that may change when a stopped run continues: they do not touch the numbers of a step.
FREE = (
    *("out", "centre_scores", "max_epochs", "patience", "device", "num_threads", "state_every_n_steps"),
    *("shows_progress", "data.storage", "data.slab_dir", "data.num_workers"),
)


@dataclass
class RewardTrainConfig:
    """One training run of a reward model; the defaults are the published density experiment."""

    out: str = "runs/reward"  # folder of the run; run again to continue
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    max_epochs: int = 10
    patience: int = 3  # epochs without a better monitored loss before stopping
    monitor: str = "pairs"  # validation loss that picks the best epoch: pairs (published) or scalar
    centre_scores: bool = True  # shift the scalar head so that its training scores have mean 0; False = published
    seed: int = 42  # initial weights, order of rows, anchors
    state_every_n_steps: int = 200  # steps between states inside an epoch; 0 = after each epoch only
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    num_threads: int = 0  # CPU threads; 0 = as torch chooses
    shows_progress: bool = True
    accept_code_change: bool = False  # continue although the code is no longer the one that the run began with

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = one_of("monitor", self.monitor, tuple(MONITORS))
        faults += self.data.missing_inputs("data.")
        for name in ("max_epochs", "patience"):
            if getattr(self, name) < 1:
                faults.append(f"{name}: must be at least 1, got {getattr(self, name)}")
        return faults


@dataclass(frozen=True)
class RewardRun:
    """What a finished run left."""

    folder: Path
    metrics_csv: Path
    table: list[Accuracy]


def train(cfg: RewardTrainConfig) -> RewardRun:
    """Train (or continue) in `cfg.out`, evaluate the best epoch and write the bundle there.

    Raises ValueError or FileNotFoundError (one line) for unusable inputs, or for a folder of another run.
    """
    import torch

    from eg3d.run_folder import RunFolder
    from reward_model_training.evaluate import open_store

    if cfg.num_threads:
        torch.set_num_threads(cfg.num_threads)
    rankings = read_rankings(cfg.data.rankings)
    splits = make_splits(rankings, cfg.data, seed=cfg.seed)
    cfg = replace(cfg, data=replace(cfg.data, slab=replace(cfg.data.slab, psi=splits.psi)))
    store = open_store(cfg.data, device=cfg.device)
    annotators = ", ".join(sorted({ranking.annotator for ranking in rankings}))
    with RunFolder.claim(cfg.out, cfg, seed=cfg.seed, inputs=_inputs(cfg.data), free=FREE) as run:
        _fit(cfg, splits, store, run.path)
        return _finish(cfg, splits, store, run.path, annotators)


def _inputs(data: DataConfig) -> dict[str, Path | None]:
    """The files behind a run, by setting. The scores lie beside the rankings where none are named."""
    from eg3d.checkpoints.manifest import resolve

    rankings = Path(data.rankings)
    scores = Path(data.scores) if data.scores else rankings.with_name("scores.csv")
    generator = resolve(data.generator)
    return {"data.rankings": rankings, "data.generator": generator, "data.scores": scores if scores.is_file() else None}


def _fit(cfg: RewardTrainConfig, splits: Splits, store: SlabStore, folder: Path) -> None:
    import torch

    from reward_model_training.data.datamodule import PreferenceData
    from reward_model_training.lightning_state import was_stopped_early
    from reward_model_training.models import build_model
    from reward_model_training.module import RewardModule

    state = folder / "last.ckpt"
    if state.is_file() and was_stopped_early(state):
        return
    torch.manual_seed(cfg.seed)
    module = RewardModule(build_model(cfg.model), cfg.loss, cfg.optimiser, seed=cfg.seed)
    data = PreferenceData(cfg.data, splits, store, seed=cfg.seed)
    with warnings.catch_warnings():
        for text in HARMLESS_WARNINGS:
            warnings.filterwarnings("ignore", f".*{text}.*")
        trainer = _trainer(cfg, folder)
        trainer.fit(module, datamodule=data, ckpt_path=str(state) if state.is_file() else None)
    if trainer.interrupted:
        raise KeyboardInterrupt


def _trainer(cfg: RewardTrainConfig, folder: Path) -> Trainer:
    from pytorch_lightning import Trainer
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

    from eg3d.run_folder import choose_device
    from reward_model_training.lightning_progress import StepsBar
    from reward_model_training.lightning_state import AtomicCheckpoints, RunState

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    monitor, device = MONITORS[cfg.monitor], choose_device(cfg.device)
    callbacks = [
        # Both at the end of the validation, so that the state written after the epoch knows their verdict.
        EarlyStopping(
            monitor,
            patience=cfg.patience,
            divergence_threshold=DIVERGENCE_THRESHOLD,
            check_on_train_epoch_end=False,
        ),
        ModelCheckpoint(
            folder,
            "best",
            monitor=monitor,
            save_weights_only=True,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        ),
        RunState(folder / "last.ckpt", every_n_steps=cfg.state_every_n_steps),
    ]
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
        enable_model_summary=False,
        enable_progress_bar=False,  # Lightning's own
    )


def _finish(cfg: RewardTrainConfig, splits: Splits, store: SlabStore, folder: Path, annotators: str) -> RewardRun:
    """Evaluate the best weights, write the table and the bundle."""
    from eg3d.checkpoints.store import load_state
    from eg3d.run_folder import choose_device
    from reward_model_training.bundle import Reward, RewardCard, save_reward
    from reward_model_training.evaluate import accuracy_table, read_scores, write_table
    from reward_model_training.lightning_state import read_state
    from reward_model_training.models import build_model

    model, best = build_model(cfg.model), read_state(folder / "best.ckpt")
    tensors = {name.removeprefix("model."): value for name, value in best["state_dict"].items()}
    load_state(model, tensors, str(folder / "best.ckpt"))
    card = RewardCard(model=cfg.model, slab=cfg.data.slab, **_provenance(cfg, splits, store, annotators))  # type: ignore[arg-type]
    card.training["best_epoch"] = int(best["epoch"])
    reward = Reward(model, card).to(choose_device(cfg.device))
    table = accuracy_table(
        reward,
        splits,
        store,
        seed=cfg.seed,
        scores=read_scores(cfg.data),
        items_at_once=cfg.optimiser.items_at_once,
    )
    card.metrics = [asdict(row) for row in table]
    if cfg.centre_scores:
        card.training["score_shift"] = centre_scores(reward, splits, store)
    metrics_csv = folder / "final_metrics.csv"
    write_table(metrics_csv, table)
    save_reward(folder, model, card)
    return RewardRun(folder, metrics_csv, table)


def centre_scores(reward: Reward, splits: Splits, store: SlabStore) -> float:
    """Shift the scalar head so that the mean score of training samples is 0; returns the shift, in score units.

    Rankings fix scores up to a constant only, and fine-tuning clips the score to an interval around 0: an arbitrary
    constant can put every sample outside, where the gradient is 0. Uses the first CENTRED_ROWS training rows.
    """
    import torch

    keys = dict.fromkeys(item for row in splits.rows["train"][:CENTRED_ROWS] for item in row.items)
    device = next(reward.parameters()).device
    with torch.no_grad():
        scores = [reward(store.slab(key)[None].float().to(device)) for key in keys]
        shift = -float(torch.cat(scores).mean())
        reward.model.scalar_rwd_head.output_layer.bias.add_(shift)
    return shift


def _provenance(cfg: RewardTrainConfig, splits: Splits, store: SlabStore, annotators: str) -> dict[str, dict[str, Any]]:
    """What a bundle says about its making: names and hashes, no paths of this machine."""
    from eg3d.file_hash import sha256_of
    from eg3d.run_folder import versions

    training = {name: asdict(getattr(cfg, name)) for name in ("loss", "optimiser")}
    training |= {name: getattr(cfg, name) for name in ("max_epochs", "patience", "monitor", "seed")}
    data = ("anchor_probability", "reduction", "proportion", "batch_size")
    training |= {name: getattr(cfg.data, name) for name in data}
    return {
        "generator": {"name": Path(cfg.data.generator).name, "sha256": store.source},
        "rankings": {
            "name": Path(cfg.data.rankings).name,
            "sha256": sha256_of(cfg.data.rankings),
            "annotator": annotators,
            **{f"num_{split}": len(rows) for split, rows in splits.rows.items()},
        },
        "training": {**training, "anchors": asdict(cfg.data.anchors), "versions": versions()},
    }


@hydra_command(config_name="reward", schema=RewardTrainConfig)
def main(cfg: RewardTrainConfig) -> None:
    """Train a reward model from rankings; run it again after a stop and it continues where it was."""
    from reward_model_training.evaluate import table_text

    run = train(cfg)
    print(f"{table_text(run.table)}\nreward:  {run.folder}\nmetrics: {run.metrics_csv}")


if __name__ == "__main__":
    main()
