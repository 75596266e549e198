"""A measure as a stage: declared inputs decide whether it is done, its tables are written with where they come from."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eg3d.run_folder import as_plain, choose_device
from paper_result_analyses.measure.context import Context, Experiment
from paper_result_analyses.measure.protocol import Measure
from paper_result_analyses.pipeline_config import PipelineConfig
from paper_result_analyses.stages import Stage
from reward_model_training.tables import write_table


def measure_stage(measure: Measure, cfg: PipelineConfig, experiment: Experiment, tables: Path) -> Stage:
    """The stage that runs `measure` and writes its tables into the folder `tables`."""
    own = cfg.of_measure(measure.name)
    settings = (as_plain(own) if own is not None else {}) | experiment.settings(measure.inputs)
    inputs = experiment.files(measure.inputs)

    work = functools.partial(_measured, measure, own, experiment, tables, cfg.device, inputs, settings)
    return Stage(measure.name, f"part of this pipeline: redo=[{measure.name}]", settings, inputs, work)


def _measured(
    measure: Measure,
    own: Any,
    experiment: Experiment,
    folder: Path,
    device: str,
    inputs: Mapping[str, Path],
    settings: Mapping[str, Any],
) -> list[Path]:
    """Run a measure, and write its tables into `folder`; in another process, where several run at once."""
    found = measure.run(Context(own, experiment, measure.inputs, folder=folder, device=choose_device(device)))
    wanted = {table.name for table in measure.tables}
    if set(found) != wanted:
        raise RuntimeError(f"measure {measure.name}: declares tables {sorted(wanted)}, made {sorted(found)}")
    written: list[Path] = []
    for table in measure.tables:
        made, path = found[table.name], folder / f"{table.name}.csv"
        written.append(write_table(path, made, columns=table.columns, inputs=inputs, settings=settings))
        if table.file_column:
            written += [folder / file for file in made[table.file_column]]
    return written
