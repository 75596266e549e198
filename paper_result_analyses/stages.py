"""Stages that can be stopped and run again: each leaves a record of what it read, what it made and what it cost.

Stages that need nothing of one another may run at once, each in a process of its own, with its share of the threads.

A record is `<folder>/stages/<name>.json`. A stage is skipped when its record says done, its settings and the SHA-256 of
its inputs are the same as now, and all its outputs are there. Outputs inside the folder are recorded relative to it, so
that the folder can be moved.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from eg3d.file_hash import sha256_of_file_or_folder
from eg3d.progress import duration
from eg3d.run_folder import code_version, command_line
from eg3d.safe_write import remove_leftovers, write_json
from paper_result_analyses.stage_processes import Job, run_at_once

log = logging.getLogger(__name__)
SAMPLE_SECONDS = 0.25  # between looks at the memory
HEARTBEAT_SECONDS = 5.0  # between writes of the record while a stage runs
_KEYS: dict[str, type | tuple[type, ...]] = {
    "stage": str, "position": int, "state": str, "fingerprint": str, "command": str, "pipeline_command": str,
    "code_version": str, "sessions": int, "outputs": list, "seconds": (int, float), "peak_memory_gb": (int, float),
}  # fmt: skip
_REMEDY = "delete it, and its stage is done again"


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline."""

    name: str
    command: str  # the same step by hand
    settings: Mapping[str, Any]  # plain data that decides the outputs
    inputs: Mapping[str, Path]  # files and folders that decide the outputs
    work: Callable[[], Sequence[Path]]  # does it and returns the outputs; pickled where stages run at once
    run_folder: Path | None = None  # of a stage that continues by itself after a stop
    is_always_run: bool = False  # cheap, and to be done last every time


class StageRunner:
    """Runs stages in order, says where it is, and keeps the records in `folder`."""

    def __init__(self, folder: str | Path, names: Sequence[str], redo: Sequence[str] = ()) -> None:
        """Temporary files that a killed run left in `folder`/stages are removed."""
        self.folder, self.names, self.redo = Path(folder), names, redo
        self.started, self.threads = time.monotonic(), torch.get_num_threads()
        remove_leftovers(self.folder / "stages")

    def run(self, stage: Stage) -> list[Path]:
        """Do `stage`, or skip it; returns its outputs. ValueError if its folder holds a run of other settings."""
        task = self._task(stage)
        if task is None:
            return self._recorded(stage)
        self._say(stage, task.beginning)
        done = task()
        self._say(stage, done.ending)
        return done.outputs

    def run_at_once(self, stages: Sequence[Stage], at_once: int = 0) -> list[list[Path]]:
        """Do stages that need nothing of one another, or skip them; returns the outputs of each.

        at_once: how many run at the same time, the next as soon as one has ended; 0 = as many as there are threads.
        All have the same share of the threads, whatever was done before: a pipeline that was stopped goes on as it
        would have.
        """
        at_once = min(at_once or self.threads, len(stages))
        if at_once <= 1:
            return [self.run(stage) for stage in stages]
        tasks = {stage.name: task for stage in stages if (task := self._task(stage)) is not None}
        done = self._run_tasks(tasks, at_once, max(1, self.threads // at_once))
        return [done[stage.name].outputs if stage.name in done else self._recorded(stage) for stage in stages]

    def _run_tasks(self, tasks: Mapping[str, _Task], at_once: int, threads: int) -> dict[str, _Done]:
        jobs = []
        for name, task in tasks.items():
            beside = [other for other in tasks if other != name]
            jobs.append(Job(name, replace(task, beside=beside), threads))

        def began(name: str) -> None:
            shown = f", {at_once} at once, threads: {threads}" if len(jobs) > 1 else f", threads: {threads}"
            self._say(tasks[name].stage, f"{tasks[name].beginning}{shown}")

        def ended(name: str, found: _Done | BaseException) -> None:
            self._say(tasks[name].stage, "failed" if isinstance(found, BaseException) else found.ending)

        return run_at_once(jobs, began=began, ended=ended, most=at_once)

    def _task(self, stage: Stage) -> _Task | None:
        """What is to be done of a stage, or None when it is done, which is said."""
        path, fingerprint = self._path(stage), fingerprint_of(stage)
        if stage.name in self.redo:
            _forget(stage, path)
        record = read_record(path) if path.is_file() else None
        if record and not stage.is_always_run and self._is_done(record, fingerprint):
            log.info(
                "%s: done before in %s, skipped (redo=[%s] does it again)",
                self._label(stage),
                duration(record["seconds"]),
                stage.name,
            )
            return None
        if record and record["fingerprint"] != fingerprint and stage.run_folder and stage.run_folder.exists():
            raise ValueError(
                f"{stage.run_folder} holds a run of other settings or inputs; give redo=[{stage.name}] to delete it "
                "and start anew, or another out"
            )
        is_same = record is not None and record["fingerprint"] == fingerprint and not stage.is_always_run
        position, earlier = list(self.names).index(stage.name), record if is_same else None
        return _Task(stage, self.folder, path, fingerprint, position, earlier, os.getpid())

    def _is_done(self, record: Mapping[str, Any], fingerprint: str) -> bool:
        is_same = record["state"] == "done" and record["fingerprint"] == fingerprint
        return is_same and all(map(os.path.exists, self._outputs(record)))  # of any name, a damaged one too

    def _outputs(self, record: Mapping[str, Any]) -> list[Path]:
        return [self.folder / file for file in record["outputs"]]

    def _recorded(self, stage: Stage) -> list[Path]:
        return self._outputs(read_record(self._path(stage)))

    def _path(self, stage: Stage) -> Path:
        return self.folder / "stages" / f"{stage.name}.json"

    def _label(self, stage: Stage) -> str:
        return f"[{list(self.names).index(stage.name) + 1}/{len(self.names)}] {stage.name}"

    def _say(self, stage: Stage, what: str) -> None:
        log.info("%s: %s  (elapsed %s)", self._label(stage), what, duration(time.monotonic() - self.started))


@dataclass(frozen=True)
class _Done:
    """A stage that is done."""

    outputs: list[Path]
    seconds: float
    peak_gb: float

    @property
    def ending(self) -> str:
        return f"done in {duration(self.seconds)}, peak {self.peak_gb:.2f} GB"


@dataclass(frozen=True)
class _Task:
    """A stage that is to be done, in this process or in another one."""

    stage: Stage
    folder: Path
    path: Path  # of the record
    fingerprint: str
    position: int
    earlier: Mapping[str, Any] | None  # the record of the sessions before
    pid: int  # of the pipeline
    beside: Sequence[str] = ()  # stages that may run at the same time

    @property
    def beginning(self) -> str:
        return "running" if self.earlier is None else "continuing"

    def __call__(self) -> _Done:
        """Do it, and keep its record."""
        before = self.earlier or {"seconds": 0.0, "sessions": 0, "peak_memory_gb": 0.0}
        record = {
            "stage": self.stage.name,
            "position": self.position,
            "state": "begun",
            "fingerprint": self.fingerprint,
            "command": self.stage.command,
            "pipeline_command": command_line(),
            "code_version": code_version(),
            "sessions": before["sessions"] + 1,
            "settings": dict(self.stage.settings),
            "outputs": [],
        }
        if self.beside:
            record["beside"] = list(self.beside)
        how = {"seconds": before["seconds"], "peak_gb": before["peak_memory_gb"], "pid": self.pid}
        with Meter(self.path, record, **how) as meter:
            outputs = [Path(file) for file in self.stage.work()]
        missing = [str(file) for file in outputs if not file.exists()]
        if missing:
            raise RuntimeError(f"stage {self.stage.name} ended without {', '.join(missing)}")
        meter.write(state="done", outputs=[portable(file, self.folder) for file in outputs])
        return _Done(outputs, meter.seconds, meter.peak_gb)


class Meter:
    """Time and memory of a stage, kept in its record while it runs, so that a kill loses seconds at most.

    Memory is the resident memory of the pipeline and its children together: of stages that run at once, it is of all.
    """

    def __init__(self, path: Path, record: dict[str, Any], *, seconds: float, peak_gb: float, pid: int) -> None:
        """`pid` is the process of the pipeline, this one or its parent."""
        self.path, self.record, self.peak_gb, self.pid = path, record, peak_gb, pid
        self._earlier, self._started = seconds, time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def seconds(self) -> float:
        return self._earlier + time.monotonic() - self._started

    def write(self, **changes: Any) -> None:
        """Write the record with the time and memory so far."""
        self.record |= {"seconds": self.seconds, "peak_memory_gb": self.peak_gb} | changes
        write_json(self.path, self.record)

    def __enter__(self) -> Meter:
        self._look()
        self.write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self.write()

    def _watch(self) -> None:
        written = time.monotonic()
        while not self._stop.wait(SAMPLE_SECONDS):
            self._look()
            if time.monotonic() - written > HEARTBEAT_SECONDS:
                self.write()
                written = time.monotonic()

    def _look(self) -> None:
        process, total = psutil.Process(self.pid), 0
        for one in [process, *process.children(recursive=True)]:
            try:
                total += one.memory_info().rss
            except psutil.Error:  # a child that just ended
                continue
        self.peak_gb = max(self.peak_gb, total / 2**30)


def fingerprint_of(stage: Stage) -> str:
    """SHA-256 of what decides the outputs: settings, and the contents of the inputs."""
    hashes = {name: sha256_of_file_or_folder(path) for name, path in stage.inputs.items()}
    content = {"settings": stage.settings, "inputs": hashes}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def portable(path: str | Path, folder: Path) -> str:
    """A path relative to `folder` if it lies there, else absolute."""
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return str(absolute.relative_to(base) if absolute.is_relative_to(base) else absolute)


def read_record(path: Path) -> dict[str, Any]:
    """The record of a stage. Raises ValueError (one line that names the file) if it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged record of a stage ({error}); {_REMEDY}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: damaged record of a stage (not a JSON object); {_REMEDY}")
    wrong = [key for key, kinds in _KEYS.items() if not isinstance(record.get(key), kinds)]
    wrong += [key for key, value in record.items() if isinstance(value, float) and not math.isfinite(value)]
    if "outputs" not in wrong and not all(isinstance(file, str) for file in record["outputs"]):
        wrong.append("outputs")
    if wrong:
        raise ValueError(
            f"{path}: damaged record of a stage (missing or of another kind: {', '.join(wrong)}); {_REMEDY}"
        )
    return record


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of all stages in a folder of records, in order; files that a kill left half written are passed over.

    Raises ValueError (one line that names the file) for a damaged one.
    """
    records = [read_record(path) for path in folder.glob("*.json") if not path.name.startswith(".")]
    return sorted(records, key=lambda record: record["position"])


def _forget(stage: Stage, path: Path) -> None:
    """Remove the record of a stage, and its run folder, so that it starts from nothing."""
    path.unlink(missing_ok=True)
    if stage.run_folder and stage.run_folder.exists():
        log.info("redo: deleting %s", stage.run_folder)
        shutil.rmtree(stage.run_folder)
