"""The whole path in one command: python -m paper_result_analyses.pipeline pipeline=demo (or twin).

Data set -> pretraining (or the shipped generator) -> simulated rankings and reward (or the shipped ones) ->
fine-tunings -> measurements -> report. Every stage is a function of another module, called with its own config; what is
composed here is what `python -m ...` would compose from the same words. Run it again after a stop: finished stages are
skipped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_preprocessing.synthetic_heads.run import SyntheticHeadsConfig
from eg3d.checkpoints.manifest import resolve
from eg3d.file_hash import sha256_of
from eg3d.finetuning.config import FinetuneConfig
from eg3d.hydra_command import compose_config, hydra_command, log_to_console
from eg3d.progress import progress_bar, reaching
from eg3d.run_folder import as_plain, choose_device
from eg3d.training.config import TrainConfig
from paper_result_analyses.measure import before_after, image_change, pictures, reward_accuracy, trajectories
from paper_result_analyses.measure import twin_geometry as geometry
from paper_result_analyses.measure.before_after import BeforeAfterConfig
from paper_result_analyses.measure.image_change import ImageChangeConfig
from paper_result_analyses.measure.pictures import PicturesConfig
from paper_result_analyses.measure.tables import write_table
from paper_result_analyses.measure.twin_geometry import GeometryConfig
from paper_result_analyses.report import write_report
from paper_result_analyses.stages import Progress, Stage

ARMS = {"tuned": "sfield", "control": "control", "continuation": "continuation"}  # arm: run folder
MEASURES = ("geometry", "before_after", "image_change", "trajectories", "pictures")
NOT_DECIDING = ("device", "workers", "threads", "num_threads", "shows_progress")  # settings that leave results alone


@dataclass
class PipelineConfig:
    """What to run. A stage is told what would follow its own command (in quotes there); paths are added here."""

    out: str = "runs/pipeline"
    title: str = "Fine-tuning a small generator's geometry from simulated rankings"
    data: str = "data/heads64.zip"
    device: str = "auto"
    generator: str = "twin"  # networks to fine-tune: a file or manifest name; not read when pretraining has stages
    reward: str = "twin_reward"  # bundle folder or manifest name; not read when reward_training has words
    heads: str = ""  # after python -m dataset_preprocessing.synthetic_heads
    pretraining: dict[str, str] = field(
        default_factory=dict
    )  # by name, after python -m eg3d.train; each continues the last
    ranking: str = ""  # after python -m reward_model_training.rank
    reward_training: str = ""  # after python -m reward_model_training.train; empty = take `reward`
    finetuning: dict[str, str] = field(default_factory=dict)  # by arm (ARMS), after python -m eg3d.train_rlhf
    measures: list[str] = field(default_factory=lambda: list(MEASURES))
    redo: list[str] = field(default_factory=list)  # stages to do again from nothing; their run folders are deleted
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    before_after: BeforeAfterConfig = field(default_factory=BeforeAfterConfig)
    image_change: ImageChangeConfig = field(default_factory=ImageChangeConfig)
    pictures: PicturesConfig = field(default_factory=PicturesConfig)

    def validate(self) -> list[str]:
        faults = []
        for name, given, known in (
            ("finetuning", self.finetuning, tuple(ARMS)),
            ("measures", self.measures, MEASURES),
            ("redo", self.redo, stage_names(self)),
        ):
            unknown = [item for item in given if item not in known]
            if unknown:
                faults.append(f"{name}: {', '.join(unknown)} is not one of {', '.join(known)}")
        if not self.finetuning:
            faults.append("finetuning: nothing to fine-tune; give pipeline=demo or pipeline=twin")
        return faults


def stage_names(cfg: PipelineConfig) -> list[str]:
    """The stages that `cfg` runs, in order."""
    reward = ["ranking", "reward"] if cfg.reward_training else []
    return ["heads", *cfg.pretraining, *reward, *cfg.finetuning, *cfg.measures, "report"]


def run_pipeline(cfg: PipelineConfig) -> Path:
    """Do every stage of `cfg` that is not done yet; returns the path of report.html."""
    pipeline = Pipeline(cfg)
    pipeline.check()
    data = pipeline.heads()
    generator = pipeline.pretrain(data)
    reward = pipeline.reward(generator)
    runs = {arm: pipeline.finetune(arm, data, generator, reward) for arm in cfg.finetuning}
    networks = {before_after.START: generator} | {arm: run[0] for arm, run in runs.items()}
    for name in cfg.measures:
        pipeline.measure(name, networks, data=data, reward=reward, runs={arm: run[1] for arm, run in runs.items()})
    return pipeline.report()


class Pipeline:
    """The stages of one config. Each method runs or skips its stage and returns what later stages read."""

    def __init__(self, cfg: PipelineConfig) -> None:
        self.cfg, self.out = cfg, Path(cfg.out)
        self.progress = Progress(self.out, stage_names(cfg), cfg.redo)
        self.tables = self.out / "tables"

    def check(self) -> None:
        """Raise FileNotFoundError or ValueError, before any work, when shipped networks are missing or damaged."""
        if not self.cfg.pretraining:
            resolve(self.cfg.generator)
        if not self.cfg.reward_training:
            reward_folder(self.cfg.reward)

    def heads(self) -> Path:
        """The data set of synthetic heads; one that is there already is taken when it was made by the same recipe."""
        from dataset_preprocessing.synthetic_heads.run import make_heads

        words = [*shlex.split(self.cfg.heads), _word("out", self.cfg.data)]
        heads = compose_config("heads", SyntheticHeadsConfig, words)

        def work() -> list[Path]:
            if Path(heads.out).exists():
                check_recipe(heads)
                return [Path(heads.out)]
            with progress_bar("images", heads.num_images) as advance:
                return [make_heads(heads, advance=advance)]

        return self._run("heads", "dataset_preprocessing.synthetic_heads", words, heads, {}, work)[0]

    def pretrain(self, data: Path) -> Path:
        """The networks to fine-tune: the last of the pretraining stages, or the ones that the config names."""
        from eg3d.training.loop import train

        snapshot = None if self.cfg.pretraining else resolve(self.cfg.generator)
        for name, given in self.cfg.pretraining.items():
            folder = self.out / name
            words = [*shlex.split(given), _word("data", data), _word("out", folder), f"device={self.cfg.device}"]
            inputs = {"data": data}
            if snapshot is not None:
                words.append(_word("start", snapshot))
                inputs["start"] = snapshot
            stage_cfg = compose_config("train", TrainConfig, words)

            def work(stage_cfg: TrainConfig = stage_cfg) -> list[Path]:
                check_run_folder(stage_cfg)
                return [train(stage_cfg).snapshot]

            snapshot = self._run(name, "eg3d.train", words, stage_cfg, inputs, work, run_folder=folder)[0]
        assert snapshot is not None
        return snapshot

    def reward(self, generator: Path) -> Path:
        """Folder of the reward bundle: trained on simulated rankings, or the one that the config names."""
        if not self.cfg.reward_training:
            return reward_folder(self.cfg.reward)
        from reward_model_training.train import RewardTrainConfig, train

        rankings, scores = self._rank(generator)
        folder = self.out / "reward"
        paths = {"data.rankings": rankings, "data.generator": generator, "out": folder}
        paths["data.slab_dir"] = self.out / "slabs"
        words = [*shlex.split(self.cfg.reward_training), *(_word(key, path) for key, path in paths.items())]
        words.append(f"device={self.cfg.device}")
        reward_cfg = compose_config("reward", RewardTrainConfig, words)
        inputs = {"rankings": rankings, "generator": generator, "scores": scores}

        def work() -> list[Path]:
            train(reward_cfg)
            return [folder / "reward.safetensors", folder / "reward.yaml", folder / "final_metrics.csv"]

        self._run("reward", "reward_model_training.train", words, reward_cfg, inputs, work, run_folder=folder)
        return folder

    def _rank(self, generator: Path) -> tuple[Path, Path]:
        """Simulated rankings of `generator`'s seeds, and the noise-free scores behind them."""
        from reward_model_training.preferences.rankings import write_rankings
        from reward_model_training.preferences.simulated_annotator import SimulatedAnnotator
        from reward_model_training.preferences.simulated_rankings import rank_batches, score_seeds

        folder = self.out / "rankings"
        words = [*shlex.split(self.cfg.ranking), _word("generator", generator), _word("out", folder / "rankings.csv")]
        rank_cfg = self._rank_config(words)

        def work() -> list[Path]:
            with progress_bar("shapes scored (simulated)", rank_cfg.count) as advance:
                scores = score_seeds(rank_cfg, on_seed=reaching(advance))
            values = {seed: score.score for seed, score in scores.items()}
            annotator = SimulatedAnnotator(rank_cfg.annotator)
            rankings = rank_batches(values, annotator, batch_size=rank_cfg.batch_size, psi=rank_cfg.slab.psi)
            write_rankings(rank_cfg.out, rankings)
            return [folder / "rankings.csv", folder / "scores.csv"]

        inputs = {"generator": generator}
        rankings, scores = self._run(
            "ranking", "reward_model_training.rank", words, rank_cfg, inputs, work, run_folder=folder
        )
        return rankings, scores

    def finetune(self, arm: str, data: Path, generator: Path, reward: Path) -> tuple[Path, Path]:
        """Last snapshot and folder of one fine-tuning run."""
        from eg3d.finetuning.loop import finetune
        from eg3d.finetuning.rewards import reward_from

        folder = self.out / ARMS[arm]
        start = generator if self.cfg.pretraining else self.cfg.generator  # a name stays a name
        bundle = reward if self.cfg.reward_training else self.cfg.reward
        paths = {"data": data, "start": start, "reward.path": bundle, "out": folder}
        words = [*shlex.split(self.cfg.finetuning[arm]), *(_word(key, path) for key, path in paths.items())]
        words.append(f"device={self.cfg.device}")
        stage_cfg = compose_config("finetune", FinetuneConfig, words)
        inputs = {"data": data, "start": generator, "reward": reward / "reward.safetensors"}

        def work() -> list[Path]:
            check_run_folder(stage_cfg)
            model = reward_from(stage_cfg.reward, device=str(choose_device(stage_cfg.device)))
            run = finetune(stage_cfg, model)
            return [run.snapshot, *(path for path in [folder / "trajectories.csv"] if path.is_file())]

        return self._run(arm, "eg3d.train_rlhf", words, stage_cfg, inputs, work, run_folder=folder)[0], folder

    def measure(
        self, name: str, networks: Mapping[str, Path], *, data: Path, reward: Path, runs: Mapping[str, Path]
    ) -> None:
        """One measurement: networks, data set and reward in, tables out."""
        inputs: dict[str, Path] = dict(networks)
        settings = as_plain(getattr(self.cfg, name)) if hasattr(self.cfg, name) else {}
        if name == "geometry":
            inputs = {before_after.START: networks[before_after.START]}
            work = self._geometry(inputs, settings)
        elif name == "before_after":
            inputs["reward"] = reward / "reward.safetensors"
            settings["annotator"] = as_plain(self._annotator())
            work = self._before_after(networks, reward, inputs, settings)
        elif name == "image_change":
            inputs["data set"] = data
            work = self._image_change(networks, data, inputs, settings)
        elif name == "trajectories":
            inputs = {arm: folder / "trajectories.csv" for arm, folder in runs.items()}
            inputs = {arm: path for arm, path in inputs.items() if path.is_file()}
            work = self._trajectories(runs, inputs)
        else:
            work = self._pictures(networks, inputs, settings)
        self.progress.run(Stage(name, f"part of this pipeline: redo=[{name}]", settings, inputs, work))

    def report(self) -> Path:
        """Figures and report.html, always drawn again from the tables."""
        cfg, out = self.cfg, self.out
        command = "part of this pipeline, at every run"
        work = lambda: [write_report(out, title=cfg.title)]  # noqa: E731
        return self.progress.run(Stage("report", command, {}, {}, work, is_always_run=True))[0]

    def _geometry(self, inputs: Mapping[str, Path], settings: Mapping[str, Any]) -> Callable[[], list[Path]]:
        def work() -> list[Path]:
            table = geometry.twin_geometry(self._load(inputs)[before_after.START], self.cfg.geometry)
            return [self._table("twin_geometry.csv", table, geometry.COLUMNS, inputs, settings)]

        return work

    def _before_after(
        self, networks: Mapping[str, Path], reward: Path, inputs: Mapping[str, Path], settings: Mapping[str, Any]
    ) -> Callable[[], list[Path]]:
        def work() -> list[Path]:
            from reward_model_training.bundle import load_reward
            from reward_model_training.preferences.simulated_annotator import SimulatedAnnotator

            model = load_reward(reward, device=choose_device(self.cfg.device))
            judge, loaded = SimulatedAnnotator(self._annotator()), self._load(networks)
            with progress_bar("shapes judged (simulated)", len(loaded) * self.cfg.before_after.num_seeds) as advance:
                table = before_after.before_after(
                    loaded, model, judge, self.cfg.before_after, advance=lambda: advance(1)
                )
            accuracy = reward_accuracy.reward_accuracy(reward / "reward.yaml")
            card = {"reward card": reward / "reward.yaml"}
            return [
                self._table("before_after.csv", table, before_after.COLUMNS, inputs, settings),
                self._table(
                    "before_after_summary.csv",
                    before_after.summary(table),
                    before_after.SUMMARY_COLUMNS,
                    {"table": self.tables / "before_after.csv"},
                ),
                self._table("reward_accuracy.csv", accuracy, reward_accuracy.COLUMNS, card),
            ]

        return work

    def _image_change(
        self, networks: Mapping[str, Path], data: Path, inputs: Mapping[str, Path], settings: Mapping[str, Any]
    ) -> Callable[[], list[Path]]:
        def work() -> list[Path]:
            from eg3d.data import ImageDataset

            loaded = self._load(networks)
            with progress_bar("sets rendered", 2 * len(loaded)) as advance:
                pairs, sets = image_change.image_change(
                    loaded, ImageDataset(data), self.cfg.image_change, advance=lambda: advance(1)
                )
            return [
                self._table("image_pairs.csv", pairs, image_change.PAIR_COLUMNS, inputs, settings),
                self._table("image_sets.csv", sets, image_change.SET_COLUMNS, inputs, settings),
            ]

        return work

    def _trajectories(self, runs: Mapping[str, Path], inputs: Mapping[str, Path]) -> Callable[[], list[Path]]:
        def work() -> list[Path]:
            return [self._table("trajectories.csv", trajectories.trajectories(runs), trajectories.COLUMNS, inputs)]

        return work

    def _pictures(
        self, networks: Mapping[str, Path], inputs: Mapping[str, Path], settings: Mapping[str, Any]
    ) -> Callable[[], list[Path]]:
        def work() -> list[Path]:
            loaded = self._load(networks)
            with progress_bar("seeds drawn", len(loaded) * self.cfg.pictures.num_seeds) as advance:
                table = pictures.pictures(loaded, self.cfg.pictures, self.tables, advance=lambda: advance(1))
            written = self._table("pictures.csv", table, pictures.COLUMNS, inputs, settings)
            return [written, *(self.tables / file for file in table["file"])]

        return work

    def _run(
        self,
        name: str,
        module: str,
        words: Sequence[str],
        stage_cfg: Any,
        inputs: Mapping[str, Path],
        work: Callable[[], Sequence[Path]],
        *,
        run_folder: Path | None = None,
    ) -> list[Path]:
        settings = {key: value for key, value in as_plain(stage_cfg).items() if key not in NOT_DECIDING}
        command = f"python -m {module} {' '.join(words)}"
        return self.progress.run(Stage(name, command, settings, inputs, work, run_folder))

    def _load(self, networks: Mapping[str, Path]) -> dict[str, Any]:
        from eg3d.checkpoints.store import load_generator

        device = choose_device(self.cfg.device)
        return {arm: load_generator(path, device=device) for arm, path in networks.items()}

    def _table(
        self, name: str, table: Any, columns: Mapping[str, str], inputs: Mapping[str, Path], settings: Any = None
    ) -> Path:
        return write_table(self.tables / name, table, columns=columns, inputs=inputs, settings=settings)

    def _rank_config(self, words: Sequence[str]) -> Any:
        from reward_model_training.preferences.simulated_rankings import RankConfig

        return compose_config("rank", RankConfig, list(words))

    def _annotator(self) -> Any:
        """The simulated annotator that ranked, without its noise."""
        annotator = self._rank_config([*shlex.split(self.cfg.ranking), "generator=none"]).annotator
        return dataclasses.replace(annotator, temperature=0.0)


def reward_folder(path_or_name: str) -> Path:
    """Folder of a reward bundle, by path or by name in checkpoints/manifest.json."""
    path = Path(path_or_name)
    return path if path.is_dir() else resolve(path_or_name).parent


def check_run_folder(cfg: TrainConfig) -> None:
    """Refuse to continue a training run that was begun with other settings; raises ValueError naming them.

    Networks are compared by their contents, so that a name and a path of the same file are the same.
    """
    from omegaconf import OmegaConf

    path = Path(cfg.out) / "config.yaml"
    if not path.is_file():
        return
    began = _by_contents(OmegaConf.to_container(OmegaConf.load(path)))
    wanted = _by_contents(OmegaConf.to_container(OmegaConf.structured(cfg)))
    differing = [k for k in wanted if k in began and k not in NOT_DECIDING and began[k] != wanted[k]]
    if differing:
        raise ValueError(
            f"{cfg.out} holds a run with other settings ({', '.join(map(str, differing))}); "
            "give another out, or delete it"
        )


def _by_contents(settings: Any) -> dict[str, Any]:
    """Settings of a training run with SHA-256 sums where they name networks that can be found."""
    found = dict(settings)
    with contextlib.suppress(FileNotFoundError, ValueError):
        if found.get("start"):
            found["start"] = sha256_of(resolve(found["start"]))
        if found.get("reward"):
            weights = reward_folder(found["reward"]["path"]) / "reward.safetensors"
            found["reward"] = {**found["reward"], "path": sha256_of(weights)}
    return found


def check_recipe(cfg: SyntheticHeadsConfig) -> None:
    """Refuse a data set that is there already but was made by another recipe; raises ValueError naming the settings."""
    from dataset_preprocessing.archive import check_archive

    recipe = check_archive(cfg.out).recipe
    wanted = as_plain(cfg)
    differing = [key for key, value in recipe.items() if key in wanted and wanted[key] != value]
    if differing or not recipe:
        found = ", ".join(f"{key} {recipe[key]!r} instead of {wanted[key]!r}" for key in differing) or "no recipe"
        raise ValueError(f"data: {cfg.out} is another data set ({found}); give another data=PATH, or delete it")


def _word(key: str, value: str | Path) -> str:
    """key=value for a command line; values that its grammar would read otherwise are quoted."""
    text = str(value)
    is_simple = all(character.isalnum() or character in "/._-" for character in text)
    return f"{key}={text}" if is_simple else f"{key}='{text}'"


@hydra_command(config_name="pipeline", schema=PipelineConfig)
def main(cfg: PipelineConfig) -> None:
    """Do all stages of pipeline=demo or pipeline=twin and write a report; run it again and it continues."""
    log_to_console()
    report = run_pipeline(cfg)
    print(f"report: {report}")


if __name__ == "__main__":
    main()
