"""The whole path in one command: python -m paper_result_analyses.pipeline pipeline=demo (or twin).

Data set -> pretraining (or the shipped generator) -> simulated rankings and reward (or the shipped ones) ->
fine-tunings (at once, where there is more than one core) -> measures -> report. Run it again after a stop: finished
stages are skipped.
"""

from __future__ import annotations

from pathlib import Path

from eg3d.folder_lock import FolderLock
from eg3d.hydra_command import hydra_command, log_to_console
from eg3d.safe_write import remove_leftovers
from paper_result_analyses.measure_stages import measure_stage
from paper_result_analyses.pipeline_config import PipelineConfig, pipeline_schema, stage_names
from paper_result_analyses.registry import MEASURES
from paper_result_analyses.report import write_report
from paper_result_analyses.stages import Stage, StageRunner
from paper_result_analyses.training_stages import at_once, check_judges, check_shipped, make_experiment


def run_pipeline(cfg: PipelineConfig) -> Path:
    """Do every stage of `cfg` that is not done yet; returns the path of report.html.

    Raises RuntimeError (one line) while another process works in the folder.
    """
    check_shipped(cfg)
    check_judges(cfg)
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(out)
    try:
        return _run_stages(cfg, out)
    finally:
        lock.release()


def _run_stages(cfg: PipelineConfig, out: Path) -> Path:
    tables = out / "tables"
    for folder in (out, tables, *tables.rglob("*/")):
        remove_leftovers(folder)
    runner = StageRunner(out, stage_names(cfg), cfg.redo)
    experiment = make_experiment(cfg, runner)
    measures = [measure_stage(MEASURES[name], cfg, experiment, tables) for name in cfg.measures]
    runner.run_at_once(measures, at_once(cfg, cfg.measures_at_once))
    return runner.run(report_stage(cfg))[0]


def report_stage(cfg: PipelineConfig) -> Stage:
    """Figures and report.html, always drawn again from the tables."""

    def work() -> list[Path]:
        return [write_report(cfg.out, title=cfg.title)]

    return Stage("report", "part of this pipeline, at every run", {}, {}, work, is_always_run=True)


@hydra_command(config_name="pipeline", schema=pipeline_schema())
def main(cfg: PipelineConfig) -> None:
    """Do all stages of pipeline=demo or pipeline=twin and write a report; run it again and it continues."""
    log_to_console()
    report = run_pipeline(cfg)
    print(f"report: {report}")


if __name__ == "__main__":
    main()
