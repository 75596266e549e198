"""The stages that make what measures read: data set, networks, rankings, reward, fine-tuned networks.

Every stage is a function of another module, called with its own config; what is composed here is what `python -m ...`
would compose from the same words.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset_preprocessing.human_heads.run import MAKER, HeadsConfig
from eg3d.checkpoints.manifest import resolve
from eg3d.data_files import DataFiles
from eg3d.data_labels import read_table
from eg3d.finetuning.config import FinetuneConfig, JudgeConfig
from eg3d.hydra_command import compose_config
from eg3d.progress import progress_bar
from eg3d.run_folder import as_plain, choose_device
from eg3d.training.config import TrainConfig
from paper_result_analyses.arms import RUN_FOLDERS, START, TUNED
from paper_result_analyses.measure.context import RUN_FILES, Experiment
from paper_result_analyses.pipeline_config import (
    FIRST_RANKING,
    FIRST_REWARD,
    FIRST_ROUND,
    FIRST_TUNED,
    PipelineConfig,
)
from paper_result_analyses.stage_words import listed, numbered, stage_of, words_of
from paper_result_analyses.stages import Stage, StageRunner

log = logging.getLogger(__name__)


def check_shipped(cfg: PipelineConfig) -> None:
    """Raise FileNotFoundError or ValueError, before any work, when shipped networks are missing or damaged."""
    if not cfg.pretraining:
        resolve(cfg.generator)
    if not cfg.reward_training:
        reward_folder(cfg.reward)


def make_experiment(cfg: PipelineConfig, runner: StageRunner) -> Experiment:
    """Do every stage of `cfg` that is not done yet, up to the fine-tunings."""
    data = make_data(cfg, runner)
    snapshots = pretrained(cfg, runner, data)
    *_, generator = snapshots.values()
    earlier, first = [snapshots[name] for name in cfg.ranked_stages], []
    if cfg.first_round:
        first_reward, tuned = first_round(cfg, runner, data, generator, earlier)
        earlier, first = [*earlier, tuned], [first_reward]
    reward = make_reward(cfg, runner, generator, earlier, first)
    snapshots = fine_tune_all(cfg, runner, data, generator, reward)
    return Experiment(
        networks={START: generator, **snapshots},
        runs={arm: run_folder(cfg, arm) for arm in cfg.finetuning},
        reward=reward,
        data=data,
        annotator=_annotator(cfg),
    )


def make_data(cfg: PipelineConfig, runner: StageRunner) -> Path:
    """The data set of portraits; one that is there already is taken when it was made by the same recipe.

    Its recipe is looked at in every session: another set may have come to its place since the stage was done.
    """
    from dataset_preprocessing.archive import check_archive
    from dataset_preprocessing.human_heads.run import make_heads

    words = words_of(cfg.heads, {"out": cfg.data})
    heads = compose_config("heads", HeadsConfig, words)

    def work() -> list[Path]:
        if Path(heads.out).exists():
            check_archive(heads.out)
            return [Path(heads.out)]
        with progress_bar("images", heads.num_images) as advance:
            return [make_heads(heads, advance=advance)]

    if Path(heads.out).exists():
        check_recipe(heads)
    stage = stage_of(cfg, "heads", "dataset_preprocessing.human_heads", words, heads, {}, work, paths=("out",))
    runner.run(stage)
    return Path(heads.out)  # as it was given, in every session


def pretrain(cfg: PipelineConfig, runner: StageRunner, data: Path) -> Path:
    """The networks to fine-tune: the last of the pretraining stages, or the ones that the config names."""
    return list(pretrained(cfg, runner, data).values())[-1]


def pretrained(cfg: PipelineConfig, runner: StageRunner, data: Path) -> dict[str, Path]:
    """The networks of every pretraining stage by its name, in order; without any, those that the config names."""
    from eg3d.training.loop import train

    snapshots = {} if cfg.pretraining else {"generator": resolve(cfg.generator)}
    before = ""
    for name, given in cfg.pretraining.items():
        folder, inputs = Path(cfg.out) / name, {"data": data}
        if before:
            inputs["start"] = snapshots[cfg.continues.get(name, before)]
        paths = {**inputs, "out": folder}
        words = words_of(given, paths, device=cfg.device)
        stage_cfg = compose_config("train", TrainConfig, words)
        if stage_cfg.start and "start" not in inputs:  # of the first stage, by its own words
            inputs["start"] = resolve(stage_cfg.start)

        def work(stage_cfg: TrainConfig = stage_cfg) -> list[Path]:
            return [train(stage_cfg).snapshot]

        stage = stage_of(cfg, name, "eg3d.train", words, stage_cfg, inputs, work, paths=paths, run_folder=folder)
        snapshots[name] = runner.run(stage)[0]
        before = name
    return snapshots


def make_reward(
    cfg: PipelineConfig,
    runner: StageRunner,
    generator: Path,
    earlier: Sequence[Path] = (),
    first: Sequence[Path] = (),
) -> Path:
    """Folder of the reward bundle: trained on simulated rankings, or the one that the config names.

    earlier: further generators whose shapes are ranked as well. first: rewards of a first round, for the ensemble.
    """
    if not cfg.reward_training:
        return reward_folder(cfg.reward)
    inputs = _ranked(cfg, runner, generator, earlier)
    if not cfg.reward_seeds:
        folder, _ = _train_reward(cfg, runner, "reward", inputs, earlier)
        return folder
    trained = [_train_reward(cfg, runner, f"reward{seed}", inputs, earlier, seed=seed) for seed in cfg.reward_seeds]
    return _join_rewards(cfg, runner, [*first, *(folder for folder, _ in trained)], trained[0][1])


def first_round(
    cfg: PipelineConfig, runner: StageRunner, data: Path, generator: Path, earlier: Sequence[Path]
) -> tuple[Path, Path]:
    """A first reward, of the shapes so far, and the networks that it makes of `generator`: they are ranked as well.

    A reward has never seen what its own tuning leads to. One that ranked it, overdone, can tell where it goes wrong.
    """
    inputs = _ranked(cfg, runner, generator, earlier, name=FIRST_RANKING, folder=f"{FIRST_ROUND}/rankings")
    seed = cfg.reward_seeds[0] if cfg.reward_seeds else None
    words, folder_of_reward = cfg.first_reward or cfg.reward_training, f"{FIRST_ROUND}/reward"
    reward, _ = _train_reward(
        cfg, runner, FIRST_REWARD, inputs, earlier, seed=seed, folder=folder_of_reward, given=words
    )
    folder = Path(cfg.out) / FIRST_ROUND / "tuned"
    paths = {"data": data, "start": generator, "reward.path": reward, "out": folder}
    told = words_of(cfg.first_round, paths, device=cfg.device)
    inputs = {"data": data, "start": generator}
    return reward, runner.run(_fine_tuning(cfg, FIRST_TUNED, told, paths, inputs, reward))[0]


def _ranked(
    cfg: PipelineConfig,
    runner: StageRunner,
    generator: Path,
    earlier: Sequence[Path],
    *,
    name: str = "ranking",
    folder: str = "rankings",
) -> dict[str, Path]:
    """What a reward is trained on, by input name, ranked first where it is not yet."""
    rankings, scores = rank(cfg, runner, generator, earlier, name=name, folder=folder)
    return {"rankings": rankings, "generator": generator, "scores": scores} | numbered(earlier)


def _train_reward(
    cfg: PipelineConfig,
    runner: StageRunner,
    name: str,
    inputs: Mapping[str, Path],
    earlier: Sequence[Path],
    *,
    seed: int | None = None,
    folder: str = "",
    given: str = "",
) -> tuple[Path, Any]:
    """Folder and config of one trained reward; folder and words are those of the stage and the pipeline, or `given`."""
    from reward_model_training.train import RewardTrainConfig, train

    out = Path(cfg.out) / (folder or name)
    paths = {"data.rankings": inputs["rankings"], "data.generator": inputs["generator"], "out": out}
    paths["data.store_dir"] = Path(cfg.out) / "representations"
    words = [*words_of(given or cfg.reward_training, paths, device=cfg.device), *listed("data.snapshots", earlier)]
    words += [] if seed is None else [f"seed={seed}"]
    reward_cfg = compose_config("reward", RewardTrainConfig, words)
    inputs = {**inputs, "scores": Path(reward_cfg.data.scores or inputs["scores"])}

    def work() -> list[Path]:
        train(reward_cfg)
        return [out / "reward.safetensors", out / "reward.yaml", out / "final_metrics.csv"]

    module, taken = "reward_model_training.train", [*paths, *(["data.snapshots"] if earlier else [])]
    runner.run(stage_of(cfg, name, module, words, reward_cfg, inputs, work, paths=taken, run_folder=out))
    return out, reward_cfg


def _join_rewards(cfg: PipelineConfig, runner: StageRunner, members: Sequence[Path], trained: Any) -> Path:
    """Folder of the ensemble of trained rewards. trained: config of the first, whose splits say its accuracy."""
    from reward_model_training.ensemble import EnsembleConfig, assemble
    from reward_model_training.evaluate import EvaluateConfig, evaluate

    folder = Path(cfg.out) / "reward"
    words = words_of(f"bound={cfg.reward_bound}", {"out": folder}) + listed("members", members)
    ensemble_cfg = compose_config("reward_ensemble", EnsembleConfig, words)
    files = ("reward.safetensors", "reward.yaml")
    inputs = {f"{member.name} {file}": member / file for member in members for file in files}

    def work() -> list[Path]:
        assemble(ensemble_cfg)
        table = folder / "final_metrics.csv"
        at_once, device = trained.optimiser.items_at_once, trained.device
        evaluate(EvaluateConfig(str(folder), trained.data, trained.seed, at_once, str(table), True, device))
        return [*(folder / file for file in files), table]

    module = "reward_model_training.ensemble"
    paths = ["out", "members"]
    runner.run(stage_of(cfg, "reward", module, words, ensemble_cfg, inputs, work, paths=paths, run_folder=folder))
    return folder


def rank(
    cfg: PipelineConfig,
    runner: StageRunner,
    generator: Path,
    earlier: Sequence[Path] = (),
    *,
    name: str = "ranking",
    folder: str = "rankings",
) -> tuple[Path, Path]:
    """Simulated rankings of the seeds of `generator` and of `earlier` ones, and the noise-free scores behind them."""
    from reward_model_training.preferences.rankings import write_rankings
    from reward_model_training.preferences.simulated_rankings import annotate_seeds, rankings_of

    out = Path(cfg.out) / folder
    paths = {"generator": generator, "out": out / "rankings.csv"}
    words = [*words_of(cfg.ranking, paths), *listed("snapshots", earlier)]
    rank_cfg = _rank_config(words)
    if name == FIRST_RANKING:  # other seeds, so that what it teaches is not asked of it afterwards
        words.append(f"first_seed={rank_cfg.first_seed + rank_cfg.count}")
        rank_cfg = _rank_config(words)

    def work() -> list[Path]:
        with progress_bar("shapes scored (simulated)", rank_cfg.count) as advance:
            scores = annotate_seeds(rank_cfg, advance=advance)
        write_rankings(rank_cfg.out, rankings_of(rank_cfg, scores))
        return [out / "rankings.csv", out / "scores.csv"]

    module, inputs = "reward_model_training.rank", {"generator": generator} | numbered(earlier)
    taken = [*paths, *(["snapshots"] if earlier else [])]
    stage = stage_of(cfg, name, module, words, rank_cfg, inputs, work, paths=taken, run_folder=out)
    rankings, scores = runner.run(stage)
    return rankings, scores


def fine_tune_all(
    cfg: PipelineConfig, runner: StageRunner, data: Path, generator: Path, reward: Path
) -> dict[str, Path]:
    """Snapshots of all arms, in the order of the config: the last, or of the tuned arm what `cfg.snapshot` says.

    With `cfg.equal_length` the tuned run is the first to be done, and the control and the others get the length of its
    snapshot (`total_kimg`): a run that its judge ended, or whose best networks are taken, is compared with runs that
    saw as many images. Without it every arm has the length of its own words. Arms that do not wait for another one run
    at once, as `cfg.arms_at_once` says.
    """
    from eg3d.finetuning.judge import images_of

    arms = list(cfg.finetuning)
    groups = [[TUNED], [arm for arm in arms if arm != TUNED]] if cfg.equal_length else [arms]
    snapshots: dict[str, Path] = {}
    num_images = None
    for group in groups:
        stages = [fine_tuning(cfg, arm, data, generator, reward, num_images=num_images) for arm in group]
        made = runner.run_at_once(stages, at_once(cfg, cfg.arms_at_once))
        snapshots |= {arm: _kept_snapshot(cfg, arm, files) for arm, files in zip(group, made, strict=True)}
        if cfg.equal_length and group == [TUNED]:
            num_images = images_of(snapshots[TUNED])
            log.info("the other arms end after %d images, as the snapshot of the tuned arm", num_images)
    return {arm: snapshots[arm] for arm in arms}


def at_once(cfg: PipelineConfig, told: int) -> int:
    """As StageRunner takes it: unless told otherwise as many as there are cores, but one where a GPU does the work."""
    return told or (0 if choose_device(cfg.device).type == "cpu" else 1)


def fine_tuning(
    cfg: PipelineConfig, arm: str, data: Path, generator: Path, reward: Path, *, num_images: int | None = None
) -> Stage:
    """The stage of one fine-tuning run. num_images: where the run ends, instead of the length in its words."""
    start = generator if cfg.pretraining else cfg.generator  # a name stays a name
    bundle = reward if cfg.reward_training else cfg.reward
    paths = {"data": data, "start": start, "reward.path": bundle, "out": run_folder(cfg, arm)}
    words = _finetune_words(cfg, arm, paths, num_images=num_images)
    return _fine_tuning(cfg, arm, words, paths, {"data": data, "start": generator}, reward)


def _fine_tuning(
    cfg: PipelineConfig,
    name: str,
    words: Sequence[str],
    paths: Mapping[str, str | Path],
    inputs: dict[str, Path],
    reward: Path,
) -> Stage:
    """The stage of a fine-tuning run. words: with the settings of `paths`; inputs: its files but the reward's."""
    from eg3d.finetuning.loop import reward_inputs

    stage_cfg = compose_config("finetune", FinetuneConfig, words)
    inputs |= {"reward": reward / "reward.safetensors", "reward card": reward / "reward.yaml"}
    others = {name: value for name, value in stage_cfg.reward.items() if name != "path"}
    judge_files = reward_inputs(JudgeConfig.callable_in(stage_cfg.judge), "judge.")
    for file, found in (reward_inputs(others) | judge_files).items():
        inputs |= {f"{file} {path.name}": path for path in ([found] if isinstance(found, Path) else found)}
    work = functools.partial(_fine_tuned, stage_cfg)
    folder = Path(paths["out"])
    return stage_of(cfg, name, "eg3d.train_rlhf", words, stage_cfg, inputs, work, paths=paths, run_folder=folder)


def _fine_tuned(cfg: FinetuneConfig) -> list[Path]:
    """Fine-tune, and return the last snapshot, the best one where there is one, and what measures read."""
    from eg3d.finetuning.judge import judge_from
    from eg3d.finetuning.loop import finetune
    from eg3d.finetuning.rewards import reward_from

    device = str(choose_device(cfg.device))
    model, judge = reward_from(cfg.reward, device=device), judge_from(cfg, device=device)
    run = finetune(cfg, model, judge=judge)
    best = [] if run.best is None else [run.best]
    return [run.snapshot, *best, *(path for name in RUN_FILES if (path := Path(cfg.out) / name).is_file())]


def _kept_snapshot(cfg: PipelineConfig, arm: str, files: Sequence[Path]) -> Path:
    """The one of the files of an arm that all that comes after it reads."""
    from eg3d.finetuning.judge import BEST_SNAPSHOT

    if cfg.snapshot == "last" or arm != TUNED:
        return files[0]
    best = [path for path in files[1:] if path.name == BEST_SNAPSHOT]
    if not best:
        raise RuntimeError(
            f"snapshot: {run_folder(cfg, arm)} has no {BEST_SNAPSHOT} of its judge; give redo=[{arm}], or snapshot=last"
        )
    return best[0]


def check_judges(cfg: PipelineConfig) -> None:
    """Raise ValueError, before any work, for a judge whose seeds a measure uses, or that snapshot=best lacks."""
    nowhere: dict[str, str | Path] = dict.fromkeys(("data", "start", "out"), "none")
    for arm in cfg.finetuning:
        table = compose_config("finetune", FinetuneConfig, _finetune_words(cfg, arm, nowhere)).judge
        if not JudgeConfig.callable_in(table):
            if arm == TUNED and cfg.snapshot == "best":
                raise ValueError("snapshot: best is what a judge likes best, and there is none; give judge=...")
            continue
        judged = set(JudgeConfig.of(table).all_seeds())
        for name in cfg.measures:
            own = cfg.of_measure(name)
            first, count = getattr(own, "first_seed", None), getattr(own, "num_seeds", 0)
            both = [] if first is None else [seed for seed in range(first, first + count) if seed in judged]
            if both:
                raise ValueError(
                    f"judge.first_seed: {len(both)} seeds of the judge of {arm} are those of the measure {name}, "
                    f"{both[0]} to {both[-1]}; give the judge seeds of its own"
                )


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


def _finetune_words(
    cfg: PipelineConfig, arm: str, paths: Mapping[str, str | Path], *, num_images: int | None = None
) -> list[str]:
    """What follows the command of an arm."""
    length = "" if num_images is None else f"total_kimg={kimg_of(num_images)!r}"
    return words_of(f"{cfg.finetuning[arm]} {cfg.judge} {length}", paths, device=cfg.device)


def kimg_of(num_images: int) -> float:
    """The length, in thousands of images, at which a run ends after so many and no step later."""
    kimg = num_images / 1000
    return kimg if 1000 * kimg <= num_images else math.nextafter(kimg, 0)


def _rank_config(words: Sequence[str]) -> Any:
    from reward_model_training.preferences.simulated_rankings import RankConfig

    return compose_config("rank", RankConfig, list(words))


def _annotator(cfg: PipelineConfig) -> Any:
    """The simulated annotator that ranked, without its noise."""
    annotator = _rank_config([*shlex.split(cfg.ranking), "generator=none"]).annotator
    return dataclasses.replace(annotator, temperature=0.0)
