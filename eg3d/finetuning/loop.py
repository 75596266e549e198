"""Fine-tuning: the training loop with the geometry terms and the reward trajectories added."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from eg3d.checkpoints.store import load_triplane_generator
from eg3d.finetuning.config import FinetuneConfig
from eg3d.finetuning.objective import GeometryObjective, add_geometry_terms
from eg3d.finetuning.rewards import Reward
from eg3d.finetuning.tracking import Trajectories
from eg3d.training.loop import Trainer, TrainingRun
from eg3d.training.ranks import is_launched


def finetune(cfg: FinetuneConfig, reward: Reward) -> TrainingRun:
    """Fine-tune the networks `cfg.start` with `reward`, or continue the run in `cfg.out`.

    Raises ValueError when config, data set and networks do not fit together.
    """
    if is_launched():
        raise ValueError("fine-tuning runs in one process; start it without torchrun")
    trainer = Trainer(cfg)
    if isinstance(reward, nn.Module):
        reward.eval().requires_grad_(False)
    frozen = (
        load_triplane_generator(str(cfg.start), net="G_ema", device=str(trainer.device)).eval().requires_grad_(False)
    )
    objective = GeometryObjective(cfg, trainer.generator, frozen, reward, trainer.stats)
    add_geometry_terms(trainer.phases, objective, cfg)
    if cfg.tracking.num_seeds > 0:
        trainer.tick_hooks.append(_tracker(Trajectories(trainer.folder, cfg.tracking), reward))
    return trainer.run()


def _tracker(trajectories: Trajectories, reward: Reward) -> Callable[[Trainer], None]:
    def record(trainer: Trainer) -> None:
        progress = trainer.progress
        scores = trajectories.record(trainer.average, reward, tick=progress.tick, num_images=progress.num_images)
        trainer.stats.report("Reward/tracked_mean", float(scores.mean()))

    return record
