"""Fine-tuning: the training loop with the geometry terms, the reward trajectories and a judge added."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from eg3d.checkpoints.manifest import resolve
from eg3d.checkpoints.ship import REWARD_FILES
from eg3d.finetuning.config import FREE_OF_FINETUNING, FinetuneConfig, JudgeConfig
from eg3d.finetuning.judge import RunJudge
from eg3d.finetuning.objective import GeometryObjective, add_geometry_terms
from eg3d.finetuning.rewards import NAMED, Reward
from eg3d.finetuning.tracking import TRAJECTORIES, Trajectories
from eg3d.finetuning.weighting import Weights
from eg3d.training.loop import Hooks, Trainer, TrainingRun
from eg3d.training.objective import AdversarialObjective
from eg3d.training.phases import Phase
from eg3d.training.ranks import is_launched
from eg3d.training.recipe import adversarial_phases
from eg3d.training.start import loaded_generator


def finetune(
    cfg: FinetuneConfig, reward: Reward, *, judge: Reward | None = None, given: Collection[str] = ()
) -> TrainingRun:
    """Fine-tune the networks `cfg.start` with `reward`, or continue the run in `cfg.out`; `given` as Trainer takes it.

    judge: the one that `cfg.judge` names (see judge_from). The run it returns says in `ended` why the judge ended it,
    and in `best` where the networks lie that it liked best. Raises ValueError when config, data set and networks do
    not fit together, or when `cfg.out` holds another run: of other settings, networks, data, code, reward or judge.
    """
    if is_launched():
        raise ValueError("fine-tuning runs in one process; start it without torchrun")
    named = JudgeConfig.callable_in(cfg.judge)
    if named and judge is None:
        raise ValueError("judge: the config names one and none was given; load it with judge_from(cfg, device=...)")
    if isinstance(reward, nn.Module):
        reward.eval().requires_grad_(False)

    def phases(adversarial: AdversarialObjective) -> list[Phase]:
        generator, made = adversarial.generator, adversarial_phases(adversarial)
        frozen = loaded_generator(cfg, "G_ema").to(next(generator.parameters()).device).eval().requires_grad_(False)
        objective = GeometryObjective(cfg, generator, frozen, reward, adversarial.stats, adversarial.counters, weights)
        average = adversarial.style_average
        average.is_per_pass = cfg.reward_term.average_moves == "published"
        add_geometry_terms(made, objective, cfg, average)
        return made

    weights, run_judge = Weights(cfg), None if judge is None else RunJudge(cfg, judge, reward)
    trainer = Trainer(
        cfg,
        phases=phases,
        hooks=Hooks(tick=[_observer(cfg, reward, run_judge)], state=[run_judge.settle] if run_judge else []),
        kept=weights.kept() | ({"judge": run_judge.history} if run_judge else {}),
        inputs=reward_inputs(cfg.reward) | reward_inputs(named, "judge."),
        code=[str(source["_target_"]) for source in (cfg.reward, named) if source.get("_target_")],
        free=FREE_OF_FINETUNING,
        given=given,
    )
    run = trainer.run()
    return run if run_judge is None else dataclasses.replace(run, best=run_judge.best_snapshot())


def reward_inputs(source: Mapping[str, Any], prefix: str = "reward.") -> dict[str, Path | Sequence[Path]]:
    """The files that the settings of a reward name, by the names of those settings; other settings are left out."""
    texts = {name: value for name, value in source.items() if isinstance(value, str) and value and name not in NAMED}
    named = {f"{prefix}{name}": _named_files(value) for name, value in texts.items()}
    return {name: files for name, files in named.items() if files is not None}


def _named_files(value: str) -> Path | list[Path] | None:
    """What a text names: the files of a bundle (by folder, one of them, or the manifest), any other path, or None."""
    path = Path(value)
    if not path.exists():
        with contextlib.suppress(FileNotFoundError):  # no name in the manifest
            path = resolve(value)
    folder = path if path.is_dir() else path.parent
    files = [folder / name for name in REWARD_FILES]
    if (path.is_dir() or path in files) and all(file.is_file() for file in files):
        return files
    return path if path.exists() else None


def _observer(cfg: FinetuneConfig, reward: Reward, judge: RunJudge | None) -> Callable[[Trainer], None]:
    """What is done at every tick: the reward scores its tracked seeds, then the judge looks."""
    trajectories = Trajectories(Path(cfg.out) / TRAJECTORIES, cfg.tracking, {"score": reward})

    def observe(trainer: Trainer) -> None:
        counters, tracked = trainer.counters, None
        if cfg.tracking.num_seeds > 0:
            found = trajectories.record(trainer.average, tick=counters.tick, num_images=counters.num_images)
            tracked = found["score"]
            trainer.stats.report("Reward/tracked_mean", float(tracked.mean()))
        if judge is not None:
            judge.look(trainer, tracked)

    return observe
