"""Lightning data module: loaders of training and validation rows."""

from __future__ import annotations

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from reward_model_training.data.dataset import DataConfig, PlannedBatches, RankedSeeds, Splits, collate
from reward_model_training.data.representation_store import RepresentationStore


class PreferenceData(LightningDataModule):
    """Rows [anchor, winner, ..., loser] with their representations. Validation rows and their anchors never change."""

    def __init__(self, cfg: DataConfig, splits: Splits, store: RepresentationStore, *, seed: int) -> None:
        super().__init__()
        self.cfg, self.splits, self.store, self.seed = cfg, splits, store, seed

    def prepare_data(self) -> None:
        """Make the representations that are not stored yet, before any loader process starts."""
        self.store.fill(self.splits.keys("train") + self.splits.keys("val"))

    def train_dataloader(self) -> DataLoader:
        rows = RankedSeeds(self.splits, "train", self.store, self.cfg, seed=self.seed)
        batches = PlannedBatches(len(rows), self.cfg.batch_size, seed=self.seed, position=self._finished_steps)
        return DataLoader(rows, batch_sampler=batches, collate_fn=collate, num_workers=self.cfg.num_workers)

    def val_dataloader(self) -> DataLoader:
        rows = RankedSeeds(self.splits, "val", self.store, self.cfg, seed=self.seed)
        return DataLoader(
            rows,
            batch_size=self.cfg.eval_batch_size,
            sampler=[(0, row) for row in range(len(rows))],
            collate_fn=collate,
            num_workers=self.cfg.num_workers,
        )

    def _finished_steps(self) -> int:
        return self.trainer.global_step if self.trainer else 0
