"""Fine-tuning: the training loop with the geometry terms and the reward trajectories added."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from eg3d.checkpoints.manifest import resolve
from eg3d.checkpoints.ship import REWARD_FILES
from eg3d.checkpoints.store import load_triplane_generator
from eg3d.finetuning.config import FinetuneConfig
from eg3d.finetuning.objective import GeometryObjective, add_geometry_terms
from eg3d.finetuning.rewards import NAMED, Reward
from eg3d.finetuning.tracking import Trajectories
from eg3d.training.loop import Trainer, TrainingRun
from eg3d.training.objective import AdversarialObjective
from eg3d.training.phases import Phase
from eg3d.training.ranks import is_launched
from eg3d.training.recipe import adversarial_phases


def finetune(cfg: FinetuneConfig, reward: Reward) -> TrainingRun:
    """Fine-tune the networks `cfg.start` with `reward`, or continue the run in `cfg.out`.

    Raises ValueError when config, data set and networks do not fit together, or when `cfg.out` holds another run: of
    other settings, networks, data, code, or another reward.
    """
    if is_launched():
        raise ValueError("fine-tuning runs in one process; start it without torchrun")
    if isinstance(reward, nn.Module):
        reward.eval().requires_grad_(False)

    def phases(adversarial: AdversarialObjective) -> list[Phase]:
        generator, made = adversarial.generator, adversarial_phases(adversarial)
        device = str(next(generator.parameters()).device)
        frozen = load_triplane_generator(str(cfg.start), net="G_ema", device=device).eval().requires_grad_(False)
        add_geometry_terms(made, GeometryObjective(cfg, generator, frozen, reward, adversarial.stats), cfg)
        return made

    trainer = Trainer(
        cfg,
        phases=phases,
        tick_hooks=[_tracker(Trajectories(Path(cfg.out), cfg.tracking), reward)] if cfg.tracking.num_seeds > 0 else [],
        inputs=reward_inputs(cfg.reward),
        code=[str(cfg.reward["_target_"])],
    )
    return trainer.run()


def reward_inputs(source: Mapping[str, Any], prefix: str = "reward.") -> dict[str, Path | Sequence[Path]]:
    """The files that the settings of a reward name, by the names of those settings; other settings are left out.

    A bundle is its files, whether a setting names their folder, one of them, or an entry of the manifest.
    """
    found: dict[str, Path | Sequence[Path]] = {}
    for name, value in source.items():
        if name in NAMED or not isinstance(value, str) or not value:
            continue
        path = Path(value)
        if not path.exists():
            with contextlib.suppress(FileNotFoundError):  # no name in the manifest
                path = resolve(value)
        folder = path if path.is_dir() else path.parent
        is_bundle = (path.is_dir() or path.name in REWARD_FILES) and all((folder / f).is_file() for f in REWARD_FILES)
        if is_bundle:
            found[f"{prefix}{name}"] = [folder / file for file in REWARD_FILES]
        elif path.exists():
            found[f"{prefix}{name}"] = path
    return found


def _tracker(trajectories: Trajectories, reward: Reward) -> Callable[[Trainer], None]:
    def record(trainer: Trainer) -> None:
        counters = trainer.counters
        scores = trajectories.record(trainer.average, reward, tick=counters.tick, num_images=counters.num_images)
        trainer.stats.report("Reward/tracked_mean", float(scores.mean()))

    return record
