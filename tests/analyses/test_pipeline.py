"""One tiny path from data to report, run as a user would run it, stopped and run again."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

import pandas as pd
import pytest

from dataset_preprocessing.human_heads.codes import NUM_CODES
from eg3d.folder_lock import FolderLock
from eg3d.hydra_command import ConfigError, compose_config, help_text
from paper_result_analyses.figures.drawing import canvas, save
from paper_result_analyses.measure.protocol import Figure, Finding, Input, Measure, Section, Table
from paper_result_analyses.measure.tables import Tables
from paper_result_analyses.pipeline import main, run_pipeline
from paper_result_analyses.pipeline_config import pipeline_schema, stage_names
from paper_result_analyses.registry import MEASURES, figures, register
from tests.analyses.tiny_run import SIDE, save_tiny_networks, save_tiny_reward

SHORT = (
    "batch=4 total_kimg=0.008 tick_kimg=0.004 grid=[2,1] reward_term.micro_batch=4 consistency.resolution=8 "
    "consistency.grid=exact tracking.num_seeds=3 loss.blur_init_sigma=0"
)
JUDGE = "judge._target_=reward_model_training.preferences.simulated_judge.load judge.resolution=16 judge.num_seeds=3"


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    networks = save_tiny_networks(folder / "tiny.safetensors", z_dim=NUM_CODES)  # measure truth: the code of a head
    reward = save_tiny_reward(folder / "reward")
    return folder, [
        f"out={folder}/run",
        f"data={folder}/heads.zip",
        "device=cpu",
        f"generator={networks}",
        f"reward={reward}",
        f"heads='num_images=8 resolution={SIDE} workers=1'",
        f"++finetuning.tuned='{SHORT}'",
        f"++finetuning.control='{SHORT} reward_term.weight=0'",
        f"judge='{JUDGE}'",
        "snapshot=best",
        "equal_length=true",
        "geometry.num_seeds=2",
        "geometry.grid_resolution=16",
        "truncation.num_seeds=2",
        "truncation.psis=[1.0,0.5]",
        "truncation.slab.resolution=16",
        "before_after.num_seeds=3",
        "image_change.num_seeds=3",
        "pictures.num_seeds=2",
        "pictures.grid_resolution=16",
        "pictures.resolution=32",
        "reward_stress.num_seeds=3",
        "reward_stress.kinds=[bumps,holes]",
        "reward_stress.ties=[mirror]",
        "truth.num_seeds=2",
        "truth.resolution=16",
        "truth.grid_resolution=16",
    ]


@pytest.fixture(scope="module")
def report(overrides):
    return run_pipeline(compose_config("pipeline", pipeline_schema(), overrides[1]))


@pytest.fixture
def settled(overrides, report):
    """The finished run, whatever a test before this one did again with other settings."""
    return run_pipeline(compose_config("pipeline", pipeline_schema(), overrides[1]))


def test_the_report_stands_alone(report):
    page = report.read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert "simulated annotator" in page and "portraits of a head model" in page and "Not reproduced here" in page
    assert "python -m eg3d.train_rlhf" in page and "viewport" in page


def test_pictures_and_tables_lie_beside_it(report):
    assert {path.name for path in report.parent.glob("*.png")} == {
        "figure1_tuned.png", "figure2_control.png", "figure3_preferences.png", "figure4_rewards.png",
        "figure5_scores.png", "figure6_trajectories.png", "figure7_stress.png", "figure8_judged.png",
        "figure9_truth.png",
    }  # fmt: skip
    tables = {path.name for path in (report.parent / "tables").glob("*.csv")}
    assert tables == {
        "twin_geometry.csv", "before_after.csv", "before_after_summary.csv", "before_after_arms.csv",
        "reward_accuracy.csv", "image_pairs.csv", "image_sets.csv", "image_arms.csv", "trajectories.csv",
        "pictures.csv", "reward_stress.csv", "reward_stress_scores.csv", "judged.csv", "before_after_faults.csv",
        "truncation.csv", "truncation_seeds.csv",
        "truth.csv", "truth_summary.csv",
    }  # fmt: skip
    for name in tables:
        sidecar = json.loads((report.parent / "tables" / name).with_suffix(".json").read_text())
        assert sidecar["inputs"] and sidecar["command"]


def test_the_same_table_gives_the_same_figure(report, tmp_path):
    for number, measure, figure in figures():
        name = f"figure{number}_{figure.name}.png"
        drawn = figure.draw(Tables(report.parent / "tables", measure.tables), tmp_path / name)
        assert drawn.read_bytes() == (report.parent / name).read_bytes()


def test_finished_stages_are_skipped_and_changed_ones_are_not(overrides, report, caplog):
    caplog.set_level("INFO")
    run_pipeline(compose_config("pipeline", pipeline_schema(), overrides[1]))
    assert caplog.text.count("skipped") == 13 and "report: running" in caplog.text
    caplog.clear()
    run_pipeline(compose_config("pipeline", pipeline_schema(), [*overrides[1], "geometry.num_seeds=1"]))
    assert caplog.text.count("skipped") == 12 and "geometry: running" in caplog.text
    changed = [*overrides[1], f"++finetuning.tuned='{SHORT} reward_lr=0.1'"]
    with pytest.raises(ValueError, match=r"redo=\[tuned\]"):
        run_pipeline(compose_config("pipeline", pipeline_schema(), changed))


@pytest.mark.parametrize("name", ["demo", "shipped", "twin"])
def test_the_pipelines_compose(name):
    cfg = compose_config("pipeline", pipeline_schema(), [f"pipeline={name}"])
    assert list(cfg.finetuning)[:2] == ["tuned", "control"] and stage_names(cfg)[-1] == "report"
    from eg3d.finetuning.config import FinetuneConfig
    from eg3d.training.config import TrainConfig

    for words in cfg.finetuning.values():
        compose_config("finetune", FinetuneConfig, words.split())
    for words in cfg.pretraining.values():
        assert compose_config("train", TrainConfig, words.split()).data == cfg.data


@pytest.mark.parametrize("name", ["demo", "shipped", "twin"])
def test_the_pipelines_make_the_portraits_that_the_twin_learnt_from(name):
    """The demo makes fewer, of other heads, from the same cameras."""
    from dataset_preprocessing.human_heads.run import HeadsConfig
    from eg3d.checkpoints.manifest import read_manifest

    cfg = compose_config("pipeline", pipeline_schema(), [f"pipeline={name}"])
    heads = vars(compose_config("heads", HeadsConfig, cfg.heads.split()))
    recipe = read_manifest()["twin_warm"]["data"]["recipe"]
    differing = {key for key, value in recipe.items() if key in heads and heads[key] != value}
    assert differing == ({"num_images", "seed", "depths"} if name == "demo" else set())


def test_faults_are_one_line():
    with pytest.raises(ConfigError, match="measures: speed is not one of"):
        compose_config("pipeline", pipeline_schema(), ["pipeline=demo", "measures=[speed]"])
    with pytest.raises(ConfigError, match="two are called geometry"):
        compose_config("pipeline", pipeline_schema(), ["pipeline=demo", "measures=[geometry,geometry]"])
    with pytest.raises(ConfigError, match="two are called tuned"):
        compose_config("pipeline", pipeline_schema(), ["pipeline=twin", "+pretraining.tuned=x"])
    with pytest.raises(ConfigError, match="nothing to fine-tune"):
        compose_config("pipeline", pipeline_schema())


def test_missing_networks_are_named_before_any_work(tmp_path):
    words = [
        "pipeline=demo",
        f"out={tmp_path}/run",
        f"data={tmp_path}/heads.zip",
        f"generator={tmp_path}/none.safetensors",
    ]
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        run_pipeline(compose_config("pipeline", pipeline_schema(), words))
    assert not (tmp_path / "heads.zip").exists()


def test_a_second_pipeline_in_the_folder_is_refused(overrides, settled):
    lock = FolderLock(settled.parent)
    try:
        with pytest.raises(RuntimeError, match=r"another process.*is at work there"):
            run_pipeline(compose_config("pipeline", pipeline_schema(), overrides[1]))
    finally:
        lock.release()


def test_the_folder_of_a_run_can_be_moved(overrides, settled, tmp_path, caplog):
    """What lies inside the folder is known by its place there, so that nothing is done again but the report."""
    import shutil

    caplog.set_level("INFO")
    folder = tmp_path / "moved"
    shutil.copytree(settled.parent, folder)
    run_pipeline(compose_config("pipeline", pipeline_schema(), [*overrides[1], f"out={folder}"]))
    assert caplog.text.count("skipped") == 13
    records = [json.loads(path.read_text()) for path in (folder / "stages").glob("*.json")]
    outputs = {record["stage"]: record["outputs"] for record in records}
    assert outputs["geometry"] == ["tables/twin_geometry.csv"] and outputs["report"] == ["report.html"]


def test_a_pipeline_with_relative_paths_goes_on(overrides, settled, caplog, monkeypatch):
    """A data set outside the run's folder, named as the pipelines name theirs."""
    caplog.set_level("INFO")
    monkeypatch.chdir(overrides[0])
    words = [*overrides[1], "out=run", "data=heads.zip"]
    for _ in range(2):
        run_pipeline(compose_config("pipeline", pipeline_schema(), words))
    assert caplog.text.count("skipped") == 26


def test_a_deleted_table_or_picture_is_made_again(overrides, settled, caplog):
    caplog.set_level("INFO")
    picture = next((settled.parent / "tables" / "pictures").glob("tuned*.png"))
    before = picture.read_bytes()
    picture.unlink()
    (settled.parent / "tables" / "trajectories.csv").unlink()
    run_pipeline(compose_config("pipeline", pipeline_schema(), overrides[1]))
    assert caplog.text.count("skipped") == 11 and picture.read_bytes() == before


def test_temporary_files_of_a_killed_run_are_removed(overrides, settled):
    left = [settled.parent / ".report-abcd1234.html", settled.parent / "tables" / ".before_after-0a1b2c3d.csv",
            settled.parent / "stages" / ".geometry-w59g72rl.json",
            settled.parent / "tables" / "pictures" / ".start_200000_render_+0.00-12345678.png"]  # fmt: skip
    for path in left:
        path.write_text("")
    run_pipeline(compose_config("pipeline", pipeline_schema(), overrides[1]))
    assert [path for path in left if path.exists()] == []


def test_damage_is_one_line_that_names_the_file(overrides, settled):
    """As a user sees it: exit code 1, one line on stderr."""
    import subprocess
    import sys

    def fails(path, text):
        kept = path.read_bytes()
        path.write_text(text)
        command = [sys.executable, "-m", "paper_result_analyses.pipeline", *overrides[1]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        path.write_bytes(kept)
        lines = done.stderr.splitlines()
        assert done.returncode == 1 and len(lines) == 1 and str(path) in lines[0], done.stderr

    fails(settled.parent / "tables" / "before_after.csv", "arm,seed\nstart,1\n")
    fails(settled.parent / "stages" / "geometry.json", "")


@dataclass
class ToyConfig:
    """Settings of a measure that only this test knows."""

    gain: float = 2.0

    def validate(self):
        return [] if self.gain > 0 else [f"gain: must be above 0, got {self.gain}"]


@pytest.fixture
def toy():
    """A measure of two inputs with a table, a figure, a finding and a section, registered like any other."""

    def run(context):
        assert set(context.networks) == {"start", "tuned", "control"}
        with pytest.raises(RuntimeError, match="add Input\\.DATA"):
            context.dataset.labels  # noqa: B018
        scores = {arm: context.cfg.gain * G.num_ws for arm, G in context.networks.items()}
        return {"toy_table": pd.DataFrame({"arm": scores.keys(), "score": scores.values()})}

    def draw(tables, out):
        figure, axes = canvas(2, 2)
        axes[0, 0].bar(tables["toy_table"]["arm"], tables["toy_table"]["score"])
        return save(figure, out)

    def findings(tables):
        return [Finding("toy: score of the start", "above 1", f"{tables['toy_table']['score'][0]:g}", "1", True)]

    measure = Measure(
        name="toy",
        Config=ToyConfig,
        inputs=(Input.NETWORKS, Input.ANNOTATOR),
        tables=(Table("toy_table", {"arm": "network", "score": "no unit"}),),
        run=run,
        figures=(Figure("toys", "A toy.", ("toy_table",), draw), Figure("x", "Not there.", ("toy_table",), draw, "no")),
        findings=findings,
        sections=lambda tables: [Section("Toys & games", [("In words.", tables["toy_table"])])],
    )
    register(measure)
    yield measure
    MEASURES.pop("toy")


def test_a_new_measure_is_configured_run_and_reported(overrides, settled, toy, caplog):
    """Nothing but `register` knows of it: its settings are fields of the command, its numbers are in the report."""
    caplog.set_level("INFO")
    names = [name for name in MEASURES if name != "pictures"]
    words = [*overrides[1], f"out={settled.parent}", "toy.gain=3", f"measures=[{','.join(names)}]"]
    cfg = compose_config("pipeline", pipeline_schema(), words)
    assert cfg.toy.gain == 3 and "toy:\n  gain: 2.0" in help_text(main, "pipeline", pipeline_schema())
    page = run_pipeline(cfg).read_text(encoding="utf-8")
    assert caplog.text.count("skipped") == 12 and "toy: running" in caplog.text
    assert "toy: score of the start" in page and "Toys &amp; games" in page and "A toy." in page
    assert "Not there." not in page and (settled.parent / "figure10_toys.png").is_file()
    sidecar = json.loads((settled.parent / "tables" / "toy_table.json").read_text())
    assert sidecar["settings"]["gain"] == 3 and sidecar["settings"]["annotator"]["temperature"] == 0
    assert set(sidecar["inputs"]) == {"start", "tuned", "control"} and sidecar["columns"]["score"] == "no unit"
    caplog.clear()
    run_pipeline(cfg)
    assert "toy: done before" in caplog.text
    with pytest.raises(ConfigError, match=r"toy\.gain: must be above 0"):
        compose_config("pipeline", pipeline_schema(), [*words, "toy.gain=-1"])
    with pytest.raises(ConfigError, match=r"toy\.gian: no such key.*did you mean 'gain'"):
        compose_config("pipeline", pipeline_schema(), [*words, "toy.gian=1"])


def test_names_of_measures_tables_and_figures_are_taken_once(toy):
    with pytest.raises(ValueError, match="another measure has measure 'toy', table 'toy_table', figure 'toys'"):
        register(toy)
    register(replace(toy, name="redo", Config=None, tables=(), figures=()))
    try:
        with pytest.raises(ValueError, match="the pipeline's own settings: redo"):
            pipeline_schema()
    finally:
        MEASURES.pop("redo")
