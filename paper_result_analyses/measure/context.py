"""What the run of a measure reads: the inputs that it declared, loaded on first use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eg3d.run_folder import as_plain
from paper_result_analyses.arms import START
from paper_result_analyses.measure.protocol import Input

if TYPE_CHECKING:
    import torch

    from eg3d.data import ImageDataset
    from eg3d.generators.protocol import Generator
    from reward_model_training.bundle import BundledReward
    from reward_model_training.preferences.annotators.protocol import Annotator, AnnotatorConfig

RUN_FILES = ("trajectories.csv", "judge.csv")  # of a fine-tuning run: what measures may read there


@dataclass(frozen=True)
class Experiment:
    """Files of an experiment that measures read."""

    networks: Mapping[str, Path]  # by arm, START among them
    runs: Mapping[str, Path]  # folders of the fine-tuning runs, by arm
    reward: Path  # folder of a bundle
    data: Path
    annotator: AnnotatorConfig  # simulated, without noise

    def files(self, inputs: Collection[Input]) -> dict[str, Path]:
        """The files behind `inputs`, by what they are."""
        found: dict[str, Path] = {}
        if Input.NETWORKS in inputs:
            found |= self.networks
        if Input.START in inputs:
            found[START] = self.networks[START]
        if Input.REWARD in inputs:
            found |= {"reward": self.reward / "reward.safetensors", "reward card": self.reward / "reward.yaml"}
        if Input.DATA in inputs:
            found["data set"] = self.data
        if Input.RUNS in inputs:
            found |= {f"{arm} {path.name}": path for name in RUN_FILES for arm, path in self.run_files(name).items()}
        return found

    def settings(self, inputs: Collection[Input]) -> dict[str, Any]:
        """The settings behind `inputs`, as plain data."""
        return {"annotator": as_plain(self.annotator)} if Input.ANNOTATOR in inputs else {}

    def run_files(self, name: str) -> dict[str, Path]:
        """A file of every run that has it, by arm."""
        return {arm: folder / name for arm, folder in self.runs.items() if (folder / name).is_file()}


class Context:
    """Handed to `run` of a measure. Reading an input that the measure did not declare is a RuntimeError, since a change
    of that input would go unnoticed."""

    def __init__(
        self, cfg: Any, experiment: Experiment, inputs: Collection[Input], *, folder: Path, device: torch.device
    ) -> None:
        """cfg: the measure's own config, or None. folder: of the tables; files that belong to one go there."""
        self.cfg, self.folder, self.device = cfg, folder, device
        self._experiment, self._inputs = experiment, inputs

    @cached_property
    def networks(self) -> dict[str, Generator]:
        """Generators by arm, START first."""
        self._check(Input.NETWORKS)
        return {arm: self._generator(path) for arm, path in self._experiment.networks.items()}

    @cached_property
    def start(self) -> Generator:
        """The generator before fine-tuning."""
        self._check(Input.START)
        return self._generator(self._experiment.networks[START])

    @cached_property
    def reward(self) -> BundledReward:
        """The reward of the experiment."""
        from reward_model_training.bundle import load_reward

        return load_reward(self.reward_folder, device=self.device)

    @property
    def reward_folder(self) -> Path:
        """Folder of the reward's bundle."""
        self._check(Input.REWARD)
        return self._experiment.reward

    @cached_property
    def annotator(self) -> Annotator:
        """The simulated annotator that ranked, without noise."""
        from reward_model_training.preferences.annotators.registry import annotator_from

        self._check(Input.ANNOTATOR)
        return annotator_from(self._experiment.annotator)

    @cached_property
    def dataset(self) -> ImageDataset:
        """Images and cameras that the generator learnt from."""
        from eg3d.data import ImageDataset

        self._check(Input.DATA)
        return ImageDataset(self._experiment.data)

    def run_files(self, name: str) -> dict[str, Path]:
        """A file of RUN_FILES, of every fine-tuning run that has it, by arm."""
        self._check(Input.RUNS)
        if name not in RUN_FILES:
            raise RuntimeError(f"{name} is not among the files of a run that measures read; add it to RUN_FILES")
        return self._experiment.run_files(name)

    def _generator(self, path: Path) -> Generator:
        from eg3d.checkpoints.store import load_generator

        return load_generator(path, device=self.device)

    def _check(self, wanted: Input) -> None:
        if wanted not in self._inputs:
            raise RuntimeError(f"a measure reads its {wanted.value} without saying so; add Input.{wanted.name}")
