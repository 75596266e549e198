"""What the stages of the pipeline read decides whether they are done: every input counts by its contents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eg3d.file_hash import sha256_of_file_or_folder
from eg3d.hydra_command import compose_config
from paper_result_analyses.pipeline_config import PipelineConfig, pipeline_schema
from paper_result_analyses.stages import Stage, StageRunner, fingerprint_of
from paper_result_analyses.training_stages import fine_tune, make_data, make_reward, pretrain
from reward_model_training.bundle import CARD_FILE, WEIGHTS_FILE

HEADS = "num_images=2 resolution=8 workers=1"
REWARD = "reward.path=overridden reward._target_=reward_model_training.bundle.load_reward"


class Captured:
    """In the place of a StageRunner: keeps the stages, does none of them."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}

    def run(self, stage: Stage) -> list[Path]:
        self.stages[stage.name] = stage
        return [Path(f"{stage.name}.0"), Path(f"{stage.name}.1")]


class Files:
    """Made-up inputs: nothing reads them but the hash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.start, self.other = (folder / name for name in ("heads.zip", "start.safetensors", "other.bin"))
        self.scores, self.bundle = folder / "other_scores.csv", folder / "bundle"
        self.bundle.mkdir()
        self.bundle_files = [self.bundle / WEIGHTS_FILE, self.bundle / CARD_FILE]
        for path in (self.data, self.start, self.other, self.scores, *self.bundle_files):
            path.write_text(path.name)

    def pipeline(self, *words: str) -> PipelineConfig:
        given = [f"out={self.folder}/run", f"data={self.data}", f"generator={self.start}", f"reward={self.bundle}"]
        return compose_config("pipeline", pipeline_schema(), [*given, "++finetuning.tuned='batch=4'", *words])


def stages_of(files: Files, *words: str) -> dict[str, Stage]:
    """All stages that train, with the inputs that they would have."""
    cfg, runner = files.pipeline(*words), Captured()
    generator = pretrain(cfg, runner, files.data)  # type: ignore[arg-type]
    reward = make_reward(cfg, runner, generator)  # type: ignore[arg-type]
    for arm in cfg.finetuning:
        fine_tune(cfg, runner, arm, files.data, generator, reward)  # type: ignore[arg-type]
    return runner.stages


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


CASES: dict[str, tuple[str, tuple[str, ...], Callable[[Files], list[Path]]]] = {
    "fine-tuning": (
        "tuned",
        (f"++finetuning.tuned='batch=4 {REWARD}'",),
        lambda files: [files.data, files.start, *files.bundle_files],
    ),
    "the control": (
        "control",
        (f"++finetuning.control='batch=4 {REWARD} reward_term.weight=0'",),
        lambda files: [files.data, files.start, *files.bundle_files],
    ),
    "another file of a reward": (
        "tuned",
        ("++finetuning.tuned='batch=4 reward._target_=some.function reward.extra={folder}/other.bin'",),
        lambda files: [files.data, files.start, files.other],
    ),
    "the first pretraining": (
        "warm",
        ("++pretraining.warm='batch=4 start={folder}/start.safetensors'",),
        lambda files: [files.data, files.start],
    ),
    "ranking": ("ranking", ("reward_training='max_epochs=1'",), lambda files: [files.start]),
    "scores of the reward's own words": (
        "reward",
        ("reward_training='data.scores={folder}/other_scores.csv'",),
        lambda files: [files.start, files.scores],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_changed_input_is_another_stage(files: Files, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, words, inputs = CASES[case]
    monkeypatch.chdir(files.folder)  # where the outputs of the captured stages are
    for made in ("warm.0", "ranking.0", "ranking.1"):
        Path(made).write_text("made")
    stages = stages_of(files, *(word.replace("{folder}", str(files.folder)) for word in words))
    before = fingerprint_of(stages[name])
    assert fingerprint_of(stages[name]) == before
    for path in inputs(files):
        kept = path.read_text()
        path.write_text("changed")
        assert fingerprint_of(stages[name]) != before, path.name
        path.write_text(kept)


def test_paths_that_the_pipeline_sets_are_known_by_contents(files: Files) -> None:
    """A setting that a fingerprint leaves out (None) for being an input is among the inputs, or what it holds is."""
    for name, stage in stages_of(files, "reward_training='max_epochs=1'").items():
        for setting in ("data", "start", "generator", "data.rankings", "data.generator", "reward.path"):
            value: Any = stage.settings
            for key in setting.split("."):
                value = value.get(key, "no such setting") if isinstance(value, dict) else "no such setting"
            if value is None:
                assert setting.split(".")[-1].replace("path", "reward") in stage.inputs, (name, setting)


def test_leave_to_go_on_under_other_code_is_no_other_stage(files: Files) -> None:
    one, other = (
        stages_of(files, f"++finetuning.tuned='batch=4{word}'")["tuned"] for word in ("", " accept_code_change=true")
    )
    assert fingerprint_of(one) == fingerprint_of(other)


@pytest.mark.parametrize("name", ["heads.zip", "heads"])
def test_a_data_set_that_came_in_place_of_the_stages_own_is_refused(tmp_path: Path, name: str) -> None:
    """Zip or folder: what lies there in the next session is asked for its recipe, though the stage is done."""
    from dataset_preprocessing.human_heads.run import HeadsConfig, make_heads

    data = tmp_path / name
    words = [f"out={tmp_path}/run", f"data={data}", f"heads='{HEADS}'", "++finetuning.tuned='batch=4'"]
    cfg = compose_config("pipeline", pipeline_schema(), words)
    runner = StageRunner(tmp_path / "run", ["heads"])
    assert make_data(cfg, runner) == data
    make_data(cfg, runner)  # the same one: skipped
    data.rename(tmp_path / "before")
    make_heads(HeadsConfig(out=str(data), num_images=2, resolution=8, workers=1, seed=1))
    with pytest.raises(ValueError, match="seed 1 instead of 0"):
        make_data(cfg, runner)


def test_a_folder_of_images_is_an_input(tmp_path: Path) -> None:
    data = tmp_path / "heads"
    data.mkdir()
    (data / "dataset.json").write_text("{}")
    stage = Stage("tuned", "by hand", {}, {"data": data}, list)
    before = fingerprint_of(stage)
    (data / "dataset.json").write_text("[]")
    assert fingerprint_of(stage) != before and len(sha256_of_file_or_folder(data)) == 64
