"""One tiny path from data to report, run as a user would run it, stopped and run again."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from eg3d.hydra_command import ConfigError, compose_config
from paper_result_analyses.pipeline import PipelineConfig, check_run_folder, run_pipeline, stage_names
from paper_result_analyses.registry import FIGURES
from paper_result_analyses.stages import Progress, Stage
from tests.analyses.tiny_run import SIDE, save_tiny_networks, save_tiny_reward

SHORT = (
    "batch=4 total_kimg=0.008 tick_kimg=0.004 grid=[2,1] reward_term.micro_batch=4 consistency.resolution=8 "
    "consistency.grid=exact tracking.num_seeds=3 loss.blur_init_sigma=0"
)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    networks = save_tiny_networks(folder / "tiny.safetensors")
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
        "geometry.num_seeds=2",
        "geometry.grid_resolution=16",
        "before_after.num_seeds=3",
        "image_change.num_seeds=3",
        "pictures.num_seeds=2",
        "pictures.grid_resolution=16",
        "pictures.resolution=32",
    ]


@pytest.fixture(scope="module")
def report(overrides):
    return run_pipeline(compose_config("pipeline", PipelineConfig, overrides[1]))


def test_the_report_stands_alone(report):
    page = report.read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert "simulated annotator" in page and "synthetic heads" in page and "Not reproduced here" in page
    assert "python -m eg3d.train_rlhf" in page and "viewport" in page


def test_pictures_and_tables_lie_beside_it(report):
    assert {path.name for path in report.parent.glob("*.png")} == {figure.file for figure in FIGURES.values()}
    tables = {path.name for path in (report.parent / "tables").glob("*.csv")}
    assert tables == {
        "twin_geometry.csv", "before_after.csv", "before_after_summary.csv", "reward_accuracy.csv", "image_pairs.csv",
        "image_sets.csv", "trajectories.csv", "pictures.csv",
    }  # fmt: skip
    for name in tables:
        sidecar = json.loads((report.parent / "tables" / name).with_suffix(".json").read_text())
        assert sidecar["inputs"] and sidecar["command"]


def test_the_same_table_gives_the_same_figure(report, tmp_path):
    for figure in FIGURES.values():
        drawn = figure.draw(report.parent / "tables", tmp_path / figure.file)
        assert drawn.read_bytes() == (report.parent / figure.file).read_bytes()


def test_finished_stages_are_skipped_and_changed_ones_are_not(overrides, report, caplog):
    caplog.set_level("INFO")
    run_pipeline(compose_config("pipeline", PipelineConfig, overrides[1]))
    assert caplog.text.count("skipped") == 8 and "report: running" in caplog.text
    caplog.clear()
    run_pipeline(compose_config("pipeline", PipelineConfig, [*overrides[1], "geometry.num_seeds=1"]))
    assert caplog.text.count("skipped") == 7 and "geometry: running" in caplog.text
    changed = [*overrides[1], f"++finetuning.tuned='{SHORT} reward_lr=0.1'"]
    with pytest.raises(ValueError, match=r"redo=\[tuned\]"):
        run_pipeline(compose_config("pipeline", PipelineConfig, changed))


@pytest.mark.parametrize("name", ["demo", "twin"])
def test_the_pipelines_compose(name):
    cfg = compose_config("pipeline", PipelineConfig, [f"pipeline={name}"])
    assert list(cfg.finetuning)[:2] == ["tuned", "control"] and stage_names(cfg)[-1] == "report"
    from eg3d.finetuning.config import FinetuneConfig

    for words in cfg.finetuning.values():
        compose_config("finetune", FinetuneConfig, words.split())


def test_faults_are_one_line():
    with pytest.raises(ConfigError, match="measures: speed is not one of"):
        compose_config("pipeline", PipelineConfig, ["pipeline=demo", "measures=[speed]"])
    with pytest.raises(ConfigError, match="nothing to fine-tune"):
        compose_config("pipeline", PipelineConfig)


def test_missing_networks_are_named_before_any_work(tmp_path):
    words = [
        "pipeline=demo",
        f"out={tmp_path}/run",
        f"data={tmp_path}/heads.zip",
        f"generator={tmp_path}/none.safetensors",
    ]
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        run_pipeline(compose_config("pipeline", PipelineConfig, words))
    assert not (tmp_path / "heads.zip").exists()


def test_runs_begun_by_hand_are_taken_over_only_with_the_same_settings(tmp_path):
    from eg3d.run_folder import RunFolder
    from eg3d.training.config import TrainConfig

    original = save_tiny_networks(tmp_path / "a.safetensors")
    copy = tmp_path / "b.safetensors"
    copy.write_bytes(original.read_bytes())
    begun = TrainConfig(out=str(tmp_path / "run"), start=str(original))
    RunFolder.claim(begun.out, begun, seed=0).release()
    check_run_folder(replace(begun, start=str(copy), threads=3))
    with pytest.raises(ValueError, match=r"other settings \(batch\)"):
        check_run_folder(replace(begun, batch=1))


def test_a_stopped_stage_adds_up_its_sessions(tmp_path):
    attempts = []

    def work():
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("stopped")
        (tmp_path / "made").write_text("x")
        return [tmp_path / "made"]

    stage = Stage("one", "by hand", {"a": 1}, {}, work, tmp_path / "run")
    (tmp_path / "run").mkdir()
    progress = Progress(tmp_path, ["one"])
    with pytest.raises(RuntimeError, match="stopped"):
        progress.run(stage)
    progress.run(stage)
    record = json.loads((tmp_path / "stages" / "one.json").read_text())
    assert record["state"] == "done" and record["sessions"] == 2 and record["peak_memory_gb"] > 0
    assert progress.run(stage) == [tmp_path / "made"] and len(attempts) == 2
