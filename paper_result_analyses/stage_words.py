"""Words of commands that a pipeline composes, and the stages that they are."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eg3d.run_folder import ACCEPT_CODE, as_plain
from paper_result_analyses.pipeline_config import PipelineConfig
from paper_result_analyses.stages import Stage, portable

NOT_DECIDING = ("device", "workers", "threads", "num_threads", "shows_progress")  # settings that leave results alone
OUTPUT_PATHS = ("out", "data.store_dir")  # settings that say where a stage writes; other paths are its inputs


def stage_of(
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


def words_of(given: str, paths: Mapping[str, str | Path], *, device: str = "") -> list[str]:
    """What follows a command: the words of the config, the paths, the device."""
    words = [*shlex.split(given), *(word(key, path) for key, path in paths.items())]
    return [*words, f"device={device}"] if device else words


def listed(key: str, paths: Sequence[Path]) -> list[str]:
    """key=[...] for a command line, or nothing."""
    texts = (str(path).replace("\\", "\\\\").replace("'", "\\'") for path in paths)
    quoted = ",".join("'" + text + "'" for text in texts)
    return [f"{key}=[{quoted}]"] if paths else []


def numbered(earlier: Sequence[Path]) -> dict[str, Path]:
    return {f"snapshot {number}": path for number, path in enumerate(earlier)}


def word(key: str, value: str | Path) -> str:
    """key=value for a command line; values that its grammar would read otherwise are quoted."""
    text = str(value)
    is_simple = all(character.isalnum() or character in "/._-" for character in text)
    return f"{key}={text}" if is_simple else f"{key}='{text}'"
