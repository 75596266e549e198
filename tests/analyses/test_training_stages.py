"""What the stages of the pipeline read decides whether they are done: every input counts by its contents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eg3d.file_hash import sha256_of_file_or_folder
from eg3d.finetuning.judge import BEST_SNAPSHOT
from eg3d.hydra_command import ConfigError, compose_config
from paper_result_analyses.pipeline_config import PipelineConfig, pipeline_schema, stage_names
from paper_result_analyses.stages import Stage, StageRunner, fingerprint_of
from paper_result_analyses.training_stages import (
    check_judges,
    fine_tune_all,
    first_round,
    kimg_of,
    make_data,
    make_reward,
    pretrain,
    pretrained,
)
from reward_model_training.bundle import CARD_FILE, WEIGHTS_FILE, load_reward
from reward_model_training.ensemble import EnsembleReward
from reward_model_training.stress import trained_kinds
from tests.analyses.tiny_run import save_tiny_networks

HEADS = "num_images=2 resolution=8 workers=1"
REWARD = "reward.path=overridden reward._target_=reward_model_training.bundle.load_reward"


class Captured:
    """In the place of a StageRunner: keeps the stages, does none of them."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.groups: list[list[str]] = []  # that may run at once

    def run(self, stage: Stage) -> list[Path]:
        self.stages[stage.name] = stage
        return [Path(f"{stage.name}.0"), Path(f"{stage.name}.1")]

    def run_at_once(self, stages: Sequence[Stage], at_once: int) -> list[list[Path]]:
        self.groups.append([stage.name for stage in stages])
        return [self.run(stage) for stage in stages]


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
    fine_tune_all(cfg, runner, files.data, generator, reward)  # type: ignore[arg-type]
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


def test_an_ensemble_is_a_stage_a_member_and_one_that_joins_them(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("reward_training='max_epochs=1'", "reward_seeds=[3,5]", "reward_bound=1")
    assert stage_names(files.pipeline(*words))[1:5] == ["ranking", "reward3", "reward5", "reward"]
    stages = stages_of(files, *words)
    assert [stages[name].settings["seed"] for name in ("reward3", "reward5")] == [3, 5]
    assert stages["reward3"].command.endswith("seed=3") and stages["reward"].settings["bound"] == 1.0
    folders = [files.folder / "run" / name for name in ("reward3", "reward5")]
    wanted = {f"{folder.name} {name}": folder / name for folder in folders for name in (WEIGHTS_FILE, CARD_FILE)}
    assert stages["reward"].inputs == wanted
    assert stages["tuned"].inputs["reward"] == files.folder / "run" / "reward" / WEIGHTS_FILE


def test_earlier_stages_are_ranked_along(files: Files) -> None:
    words = ("++pretraining.warm='batch=4'", "++pretraining.late='batch=4'", "ranked_stages=[warm]")
    cfg, runner = files.pipeline(*words, "reward_training='max_epochs=1'"), Captured()
    snapshots = pretrained(cfg, runner, files.data)  # type: ignore[arg-type]
    assert list(snapshots) == ["warm", "late"]
    make_reward(cfg, runner, snapshots["late"], [snapshots["warm"]])  # type: ignore[arg-type]
    for name, setting in (("ranking", "snapshots"), ("reward", "data.snapshots")):
        stage = runner.stages[name]
        assert stage.inputs["snapshot 0"] == snapshots["warm"] and stage.inputs["generator"] == snapshots["late"]
        assert f"{setting}=['warm.0']" in stage.command
    assert runner.stages["ranking"].settings["snapshots"] is None, "known by contents"


def test_what_a_first_round_makes_is_ranked_along(files: Files) -> None:
    """Generator -> ranking -> reward -> tuned generator -> the ranking and the reward that count."""
    words = ("reward_training='max_epochs=1'", "reward_seeds=[3,5]", f"first_round='batch=4 {REWARD}'")
    words = (*words, "first_reward='max_epochs=2'")
    cfg, runner = files.pipeline(*words), Captured()
    made = ["first_ranking", "first_reward", "first_tuned"]
    assert stage_names(cfg)[1:4] == made
    early = files.folder / "early.safetensors"
    early.write_text("early")
    reward, tuned = first_round(cfg, runner, files.data, files.start, [early])  # type: ignore[arg-type]
    make_reward(cfg, runner, files.start, [early, tuned], [reward])  # type: ignore[arg-type]
    stages, folder = runner.stages, files.folder / "run" / "first_round"
    assert list(stages) == [*made, "ranking", "reward3", "reward5", "reward"]
    assert stages["first_ranking"].inputs == {"generator": files.start, "snapshot 0": early}
    first, second = (stages[name].settings for name in ("first_ranking", "ranking"))
    assert first["first_seed"] == second["first_seed"] + second["count"], "none of the seeds that accuracies are of"
    assert stages["first_reward"].inputs["rankings"] == Path("first_ranking.0")
    assert stages["first_reward"].settings["seed"] == 3 and stages["first_reward"].run_folder == folder / "reward"
    assert stages["first_tuned"].inputs["reward"] == folder / "reward" / WEIGHTS_FILE
    assert stages["first_tuned"].inputs["start"] == files.start
    assert [stage.run_folder for stage in (stages["first_ranking"], stages["first_tuned"])] == [
        folder / "rankings",
        folder / "tuned",
    ]
    for name in ("ranking", "reward3", "reward5"):
        assert stages[name].inputs["snapshot 1"] == tuned == Path("first_tuned.0")
    assert stages["reward3"].inputs["rankings"] == Path("ranking.0")
    assert [stages[name].settings["max_epochs"] for name in ("first_reward", "reward3")] == [2, 1]
    assert stages["reward"].inputs[f"reward {WEIGHTS_FILE}"] == reward / WEIGHTS_FILE, "its first member"


def test_a_stage_continues_the_last_or_the_one_that_it_names(files: Files) -> None:
    stages = [f"++pretraining.{name}='batch=4'" for name in ("warm", "depth", "late", "later")]
    cfg, runner = files.pipeline(*stages, "++continues.late=warm"), Captured()
    snapshots = pretrained(cfg, runner, files.data)  # type: ignore[arg-type]
    starts = {name: stage.inputs.get("start") for name, stage in runner.stages.items() if name in snapshots}
    assert starts == {
        "warm": None,
        "depth": snapshots["warm"],
        "late": snapshots["warm"],
        "later": snapshots["late"],
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("++pretraining.warm='batch=4'", "++continues.warm=warm"), "continues.warm: warm is not a pretraining stage"),
        (("++continues.late=warm",), "continues.late: warm is not a pretraining stage before late"),
        (("reward_training='max_epochs=1'", "reward_seeds=[3]"), "reward_seeds: give two different seeds"),
        (("reward_seeds=[3,4]",), "and words for reward_training"),
        (("reward_bound=1",), "reward_bound: 1.0 must be 0 or more, and needs reward_seeds"),
        (("reward_training='max_epochs=1'", "ranked_stages=[warm]"), "ranked_stages: warm is not a stage before"),
        (("first_round='batch=4'",), "first_round: nothing is ranked without reward_training"),
        (("first_reward='batch=4'",), "first_reward: there is no first_round"),
    ],
)
def test_ensembles_and_ranked_stages_that_cannot_be(files: Files, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        files.pipeline(*words)


def test_an_ensemble_is_made_and_knows_its_accuracy(tmp_path: Path) -> None:
    """The stages from a generator to an ensemble, with two generators in the rankings, at toy size."""
    networks = save_tiny_networks(tmp_path / "tiny.safetensors")
    early = save_tiny_networks(tmp_path / "early.safetensors", seed=1)
    slab = "data.representation.resolution=16 data.representation.grid=exact data.storage=memory"
    anchors = "data.anchors.num_train=2 data.anchors.num_val=2 data.anchors.num_test=2"
    net = "model.backbone.f_maps=[2,4] model.backbone.num_groups=2 model.backbone.final_size_out=8"
    heads = "model.heads.trunk_hidden=[4,4] model.heads.trunk_out=4 model.heads.head_hidden=[3,3]"
    made = "data.made_pairs.triples_per_row=1 data.made_pairs.kinds=[bumps]"
    words = [
        f"out={tmp_path}/run", "device=cpu", f"generator={networks}", "++finetuning.tuned='batch=4'",
        "ranking='count=12 batch_size=3 slab.resolution=16 slab.grid=exact psi_range=[0.5,1.2]'",
        f"reward_training='{slab} {anchors} {net} {heads} {made} max_epochs=1 data.batch_size=4 num_threads=1'",
        "reward_seeds=[1,2]", "reward_bound=0.5",
    ]  # fmt: skip
    cfg = compose_config("pipeline", pipeline_schema(), words)
    (tmp_path / "run").mkdir()
    runner = StageRunner(tmp_path / "run", stage_names(cfg), [])
    reward = load_reward(make_reward(cfg, runner, networks, [early]))
    assert isinstance(reward, EnsembleReward) and reward.card.bound == 0.5
    assert [member.name for member in reward.card.members] == ["reward1", "reward2"]
    assert {row["split"] for row in reward.card.metrics} == {"val", "test"}
    assert trained_kinds(reward) == ("bumps",)
    again = StageRunner(tmp_path / "run", stage_names(cfg), [])
    before = (tmp_path / "run" / "reward" / CARD_FILE).stat().st_mtime_ns
    make_reward(cfg, again, networks, [early])
    assert (tmp_path / "run" / "reward" / CARD_FILE).stat().st_mtime_ns == before, "done stages are skipped"


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


JUDGE = "judge._target_=some.judge judge.path={folder}/other.bin"


def test_a_judge_is_of_every_arm_and_an_input(files: Files) -> None:
    words = ("++finetuning.control='batch=4 reward_term.weight=0'", f"judge='{JUDGE.format(folder=files.folder)}'")
    before = {name: fingerprint_of(stage) for name, stage in stages_of(files, *words).items()}
    files.other.write_text("changed")
    after = {name: fingerprint_of(stage) for name, stage in stages_of(files, *words).items()}
    assert set(before) == {"tuned", "control"} and all(after[arm] != before[arm] for arm in before)
    plain = stages_of(files, words[0])
    assert all(name not in stage.command for stage in plain.values() for name in ("judge.", "total_kimg"))


def test_the_seeds_of_a_judge_are_no_measures_seeds(files: Files) -> None:
    words = f"judge='{JUDGE.format(folder=files.folder)} judge.first_seed=200190'"
    with pytest.raises(ValueError, match=r"10 seeds of the judge of tuned are those of the measure before_after, 2001"):
        check_judges(files.pipeline(words))
    check_judges(files.pipeline(words.replace("200190", "350000")))
    check_judges(files.pipeline())
    with pytest.raises(ValueError, match="snapshot: best is what a judge likes best, and there is none"):
        check_judges(files.pipeline("snapshot=best"))
    with pytest.raises(ConfigError, match="snapshot: 'lats' is not one of last, best"):
        files.pipeline("snapshot=lats")


@pytest.mark.parametrize("order", [("tuned", "control"), ("control", "tuned")])
def test_arms_of_equal_length(files: Files, order: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The control ends where the snapshot of the tuned arm was taken, in whatever order the arms are named."""
    monkeypatch.chdir(files.folder)
    best = save_tiny_networks(files.folder / BEST_SNAPSHOT, extra={"num_images": 176})

    class Judged(Captured):
        def run(self, stage: Stage) -> list[Path]:
            return [*super().run(stage)[:1], best]

    arms = {"tuned": "++finetuning.tuned='batch=16'", "control": "++finetuning.control='batch=16 total_kimg=9'"}
    given = [f"out={files.folder}/run", f"data={files.data}", f"generator={files.start}", f"reward={files.bundle}"]
    words = [*given, *(arms[arm] for arm in order), "snapshot=best", "equal_length=true"]
    cfg, runner = compose_config("pipeline", pipeline_schema(), words), Judged()
    snapshots = fine_tune_all(cfg, runner, files.data, files.start, files.bundle)  # type: ignore[arg-type]
    assert list(snapshots) == list(order) and runner.groups == [["tuned"], ["control"]]
    assert snapshots["tuned"] == best and snapshots["control"] == Path("control.0")
    assert runner.stages["control"].settings["total_kimg"] == 0.176
    assert runner.stages["tuned"].settings["total_kimg"] == 25000
    with pytest.raises(ConfigError, match="equal_length: there is no arm tuned"):
        compose_config("pipeline", pipeline_schema(), [*given, arms["control"], "equal_length=true"])


def test_a_length_ends_after_its_images_and_no_step_later() -> None:
    for num_images in [*range(0, 30_000, 7), 2_068_176]:
        total = 1000 * kimg_of(num_images)
        assert num_images - 1e-6 < total <= num_images
