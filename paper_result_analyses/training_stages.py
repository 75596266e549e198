"""The stages that make what measures read: data set, networks, rankings, reward, fine-tuned networks.

Every stage is a function of another module, called with its own config; what is composed here is what `python -m ...`
would compose from the same words.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset_preprocessing.human_heads.run import MAKER, HeadsConfig
from eg3d.checkpoints.manifest import resolve
from eg3d.data_files import DataFiles
from eg3d.data_labels import read_table
from eg3d.finetuning.config import FinetuneConfig
from eg3d.hydra_command import compose_config
from eg3d.progress import progress_bar
from eg3d.run_folder import ACCEPT_CODE, as_plain, choose_device
from eg3d.training.config import TrainConfig
from paper_result_analyses.arms import RUN_FOLDERS, START
from paper_result_analyses.measure.context import Experiment
from paper_result_analyses.pipeline_config import PipelineConfig
from paper_result_analyses.stages import Stage, StageRunner, portable

NOT_DECIDING = ("device", "workers", "threads", "num_threads", "shows_progress")  # settings that leave results alone
OUTPUT_PATHS = ("out", "data.store_dir")  # settings that say where a stage writes; other paths are its inputs


def check_shipped(cfg: PipelineConfig) -> None:
    """Raise FileNotFoundError or ValueError, before any work, when shipped networks are missing or damaged."""
    if not cfg.pretraining:
        resolve(cfg.generator)
    if not cfg.reward_training:
        reward_folder(cfg.reward)


def make_experiment(cfg: PipelineConfig, runner: StageRunner) -> Experiment:
    """Do every stage of `cfg` that is not done yet, up to the fine-tunings."""
    data = make_data(cfg, runner)
    generator = pretrain(cfg, runner, data)
    reward = make_reward(cfg, runner, generator)
    snapshots = {arm: fine_tune(cfg, runner, arm, data, generator, reward) for arm in cfg.finetuning}
    return Experiment(
        networks={START: generator, **snapshots},
        runs={arm: run_folder(cfg, arm) for arm in cfg.finetuning},
        reward=reward,
        data=data,
        annotator=_annotator(cfg),
    )


def make_data(cfg: PipelineConfig, runner: StageRunner) -> Path:
    """The data set of synthetic heads; one that is there already is taken when it was made by the same recipe.

    Its recipe is looked at in every session: another set may have come to its place since the stage was done.
    """
    from dataset_preprocessing.archive import check_archive
    from dataset_preprocessing.human_heads.run import make_heads

    words = _words(cfg.heads, {"out": cfg.data})
    heads = compose_config("heads", HeadsConfig, words)

    def work() -> list[Path]:
        if Path(heads.out).exists():
            check_archive(heads.out)
            return [Path(heads.out)]
        with progress_bar("images", heads.num_images) as advance:
            return [make_heads(heads, advance=advance)]

    if Path(heads.out).exists():
        check_recipe(heads)
    stage = _stage(cfg, "heads", "dataset_preprocessing.human_heads", words, heads, {}, work, paths=("out",))
    runner.run(stage)
    return Path(heads.out)  # as it was given, in every session


def pretrain(cfg: PipelineConfig, runner: StageRunner, data: Path) -> Path:
    """The networks to fine-tune: the last of the pretraining stages, or the ones that the config names."""
    from eg3d.training.loop import train

    snapshot = None if cfg.pretraining else resolve(cfg.generator)
    for name, given in cfg.pretraining.items():
        folder, inputs = Path(cfg.out) / name, {"data": data}
        if snapshot is not None:
            inputs["start"] = snapshot
        paths = {**inputs, "out": folder}
        words = _words(given, paths, device=cfg.device)
        stage_cfg = compose_config("train", TrainConfig, words)
        if stage_cfg.start and "start" not in inputs:  # of the first stage, by its own words
            inputs["start"] = resolve(stage_cfg.start)

        def work(stage_cfg: TrainConfig = stage_cfg) -> list[Path]:
            return [train(stage_cfg).snapshot]

        stage = _stage(cfg, name, "eg3d.train", words, stage_cfg, inputs, work, paths=paths, run_folder=folder)
        snapshot = runner.run(stage)[0]
    assert snapshot is not None
    return snapshot


def make_reward(cfg: PipelineConfig, runner: StageRunner, generator: Path) -> Path:
    """Folder of the reward bundle: trained on simulated rankings, or the one that the config names."""
    if not cfg.reward_training:
        return reward_folder(cfg.reward)
    from reward_model_training.train import RewardTrainConfig, train

    rankings, scores = rank(cfg, runner, generator)
    folder = Path(cfg.out) / "reward"
    paths = {"data.rankings": rankings, "data.generator": generator, "out": folder}
    paths["data.store_dir"] = Path(cfg.out) / "representations"
    words = _words(cfg.reward_training, paths, device=cfg.device)
    reward_cfg = compose_config("reward", RewardTrainConfig, words)
    inputs = {"rankings": rankings, "generator": generator, "scores": Path(reward_cfg.data.scores or scores)}

    def work() -> list[Path]:
        train(reward_cfg)
        return [folder / "reward.safetensors", folder / "reward.yaml", folder / "final_metrics.csv"]

    module = "reward_model_training.train"
    runner.run(_stage(cfg, "reward", module, words, reward_cfg, inputs, work, paths=paths, run_folder=folder))
    return folder


def rank(cfg: PipelineConfig, runner: StageRunner, generator: Path) -> tuple[Path, Path]:
    """Simulated rankings of `generator`'s seeds, and the noise-free scores behind them."""
    from reward_model_training.preferences.rankings import write_rankings
    from reward_model_training.preferences.simulated_annotator import SimulatedAnnotator
    from reward_model_training.preferences.simulated_rankings import annotate_seeds, rank_batches

    folder = Path(cfg.out) / "rankings"
    paths = {"generator": generator, "out": folder / "rankings.csv"}
    words = _words(cfg.ranking, paths)
    rank_cfg = _rank_config(words)

    def work() -> list[Path]:
        with progress_bar("shapes scored (simulated)", rank_cfg.count) as advance:
            scores = annotate_seeds(rank_cfg, advance=advance)
        values = {seed: score.score for seed, score in scores.items()}
        annotator = SimulatedAnnotator(rank_cfg.annotator)
        rankings = rank_batches(values, annotator, batch_size=rank_cfg.batch_size, psi=rank_cfg.sample.psi)
        write_rankings(rank_cfg.out, rankings)
        return [folder / "rankings.csv", folder / "scores.csv"]

    module, inputs = "reward_model_training.rank", {"generator": generator}
    stage = _stage(cfg, "ranking", module, words, rank_cfg, inputs, work, paths=paths, run_folder=folder)
    rankings, scores = runner.run(stage)
    return rankings, scores


def fine_tune(cfg: PipelineConfig, runner: StageRunner, arm: str, data: Path, generator: Path, reward: Path) -> Path:
    """Last snapshot of one fine-tuning run."""
    from eg3d.finetuning.loop import finetune, reward_inputs
    from eg3d.finetuning.rewards import reward_from

    folder = run_folder(cfg, arm)
    start = generator if cfg.pretraining else cfg.generator  # a name stays a name
    bundle = reward if cfg.reward_training else cfg.reward
    paths = {"data": data, "start": start, "reward.path": bundle, "out": folder}
    words = _words(cfg.finetuning[arm], paths, device=cfg.device)
    stage_cfg = compose_config("finetune", FinetuneConfig, words)
    inputs = {"data": data, "start": generator}
    inputs |= {"reward": reward / "reward.safetensors", "reward card": reward / "reward.yaml"}
    others = {name: value for name, value in stage_cfg.reward.items() if name != "path"}
    for name, found in reward_inputs(others).items():
        inputs |= {f"{name} {path.name}": path for path in ([found] if isinstance(found, Path) else found)}

    def work() -> list[Path]:
        model = reward_from(stage_cfg.reward, device=str(choose_device(stage_cfg.device)))
        run = finetune(stage_cfg, model)
        return [run.snapshot, *(path for path in [folder / "trajectories.csv"] if path.is_file())]

    stage = _stage(cfg, arm, "eg3d.train_rlhf", words, stage_cfg, inputs, work, paths=paths, run_folder=folder)
    return runner.run(stage)[0]


def run_folder(cfg: PipelineConfig, arm: str) -> Path:
    """Folder of a fine-tuning run."""
    return Path(cfg.out) / RUN_FOLDERS[arm]


def reward_folder(path_or_name: str) -> Path:
    """Folder of a reward bundle, by path or by name in checkpoints/manifest.json."""
    path = Path(path_or_name)
    return path if path.is_dir() else resolve(path_or_name).parent


def check_recipe(cfg: HeadsConfig) -> None:
    """Refuse a data set that is there already but was made by another recipe; raises ValueError naming the settings."""
    table = read_table(DataFiles(cfg.out, what="data: ", hint="give another data=PATH"))
    recipe = {} if table is None else table.recipe
    wanted = {"maker": MAKER, **as_plain(cfg)}
    differing = [key for key, value in recipe.items() if key in wanted and wanted[key] != value]
    if differing or not recipe:
        found = ", ".join(f"{key} {recipe[key]!r} instead of {wanted[key]!r}" for key in differing) or "no recipe"
        raise ValueError(f"data: {cfg.out} is another data set ({found}); give another data=PATH, or delete it")


def _stage(
    cfg: PipelineConfig,
    name: str,
    module: str,
    words: Sequence[str],
    stage_cfg: Any,
    inputs: Mapping[str, Path],
    work: Callable[[], Sequence[Path]],
    *,
    paths: Sequence[str] | Mapping[str, Any],
    run_folder: Path | None = None,
) -> Stage:
    """A stage whose fingerprint knows its settings, but not where the pipeline's folder and the inputs are.

    `paths` names the settings that are paths: those of inputs are known by contents, the others by their place there.
    Leave to go on under changed code decides nothing.
    """
    settings = {key: value for key, value in as_plain(stage_cfg).items() if key not in NOT_DECIDING}
    if ACCEPT_CODE in settings:
        settings[ACCEPT_CODE] = False
    for key in paths:
        *parents, last = key.split(".")
        holder = settings
        for parent in parents:
            holder = holder[parent]
        holder[last] = portable(holder[last], Path(cfg.out)) if key in OUTPUT_PATHS else None
    return Stage(name, f"python -m {module} {' '.join(words)}", settings, inputs, work, run_folder)


def _words(given: str, paths: Mapping[str, str | Path], *, device: str = "") -> list[str]:
    """What follows a command: the words of the config, the paths, the device."""
    words = [*shlex.split(given), *(_word(key, path) for key, path in paths.items())]
    return [*words, f"device={device}"] if device else words


def _word(key: str, value: str | Path) -> str:
    """key=value for a command line; values that its grammar would read otherwise are quoted."""
    text = str(value)
    is_simple = all(character.isalnum() or character in "/._-" for character in text)
    return f"{key}={text}" if is_simple else f"{key}='{text}'"


def _rank_config(words: Sequence[str]) -> Any:
    from reward_model_training.preferences.simulated_rankings import RankConfig

    return compose_config("rank", RankConfig, list(words))


def _annotator(cfg: PipelineConfig) -> Any:
    """The simulated annotator that ranked, without its noise."""
    annotator = _rank_config([*shlex.split(cfg.ranking), "generator=none"]).annotator
    return dataclasses.replace(annotator, temperature=0.0)
