"""Running a measurement over many samples, in this process or in one process a device, and keeping what it gave.

A cached result lies in one .safetensors file whose metadata holds its full key; it is used only if that is the same.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import logging
import multiprocessing
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from eg3d.child_processes import worker_pool
from eg3d.metrics.measurements import Measurement, Rows
from eg3d.progress import Advance, ignore
from eg3d.safe_write import atomic_path
from eg3d.threads import limit_threads

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2


def measured(
    measurement: Measurement,
    count: int,
    *,
    devices: Sequence[torch.device],
    cache: str | Path | None = None,
    advance: Advance = ignore,
) -> Rows:
    """Rows of the first `count` samples of a measurement, from the cache where they are there.

    The result does not depend on the number of devices. `advance(count)` after every `count` samples.
    """
    if cache is None:
        return collect(measurement, count, devices=devices, advance=advance)
    key = cache_key(measurement, count, devices[0])
    path = cache_path(cache, key)
    found = read_cached(path, key)
    if found is not None:
        log.info("cached: %s", path)
        advance(count)
        return found
    rows = collect(measurement, count, devices=devices, advance=advance)
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in rows.items()}, temporary, metadata={"key": key})
    return rows


def cache_key(measurement: Measurement, count: int, device: torch.device) -> str:
    """Everything that changes the rows of a measurement, as JSON text."""
    return json.dumps({"samples": count, **measurement.identity(device)}, sort_keys=True)


def cache_path(folder: str | Path, key: str) -> Path:
    """Where the rows of a key (JSON text) are kept: kind and the SHA-256 of the whole key."""
    kind = re.sub(r"\W+", "_", str(json.loads(key).get("kind", "rows")))
    return Path(folder) / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"


def read_cached(path: Path, key: str) -> Rows | None:
    """Rows of a cache file if it is there, whole, and made for exactly this key."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except SafetensorError:
        log.warning("%s is damaged; measuring again", path)
        return None


@torch.no_grad()
def collect(measurement: Measurement, count: int, *, devices: Sequence[torch.device], advance: Advance) -> Rows:
    """Rows of the first `count` samples, in their order; more than one device means one process each."""
    groups = [range(start, min(start + measurement.group, count)) for start in range(0, count, measurement.group)]
    if not groups:
        raise ValueError("nothing to measure: 0 samples were asked for")
    if len(devices) == 1:
        return _joined([_measured_groups(measurement, groups, devices[0], advance)], 1)
    shards = [groups[rank :: len(devices)] for rank in range(len(devices))]
    context = multiprocessing.get_context("spawn")
    shared = _Shared(context.Value("q", 0), context.Event())
    threads = max(1, torch.get_num_threads() // len(devices))
    with worker_pool(len(devices), prepare=_join_work, arguments=(shared, threads)) as pool:
        work = zip(shards, devices, strict=True)
        futures = [pool.submit(_shard, measurement, shard, str(device)) for shard, device in work if shard]
        _watch(futures, shared, advance)
        results = [[_as_tensors(rows) for rows in future.result()] for future in futures]
    return _joined(results, len(devices))


class _Shared(NamedTuple):
    """What the processes of one collection know of each other."""

    done: Any  # samples measured so far, a counter with a lock
    stop: Any  # an event: one of them has failed


_work: _Shared | None = None  # set in worker processes only


def _join_work(shared: _Shared, threads: int) -> None:
    global _work
    _work = shared
    limit_threads(threads)


@torch.no_grad()
def _shard(measurement: Measurement, groups: Sequence[range], device: str) -> list[dict[str, np.ndarray]]:
    """Rows of some groups, as arrays: tensors would travel through shared memory, one open file each."""

    def advance(count: int = 1, /) -> None:
        assert _work is not None
        if _work.stop.is_set():
            raise RuntimeError("stopped, because another process failed")
        with _work.done.get_lock():
            _work.done.value += count

    found = _measured_groups(measurement, groups, torch.device(device), advance)
    return [{name: tensor.numpy() for name, tensor in rows.items()} for rows in found]


def _as_tensors(rows: dict[str, np.ndarray]) -> Rows:
    return {name: torch.from_numpy(array) for name, array in rows.items()}


def _measured_groups(
    measurement: Measurement, groups: Sequence[range], device: torch.device, advance: Advance
) -> list[Rows]:
    session = measurement.open(device)
    rows = []
    for samples in groups:
        rows.append(session(samples))
        advance(len(samples))
    return rows


def _joined(shards: Sequence[list[Rows]], num_shards: int) -> Rows:
    """One table from the groups that each of `num_shards` processes measured in turn."""
    total = sum(len(shard) for shard in shards)
    in_order = [shards[index % num_shards][index // num_shards] for index in range(total)]
    return {name: torch.cat([rows[name] for rows in in_order]) for name in in_order[0]}


def _watch(futures: Sequence[concurrent.futures.Future[Any]], shared: _Shared, advance: Advance) -> None:
    """Pass on the workers' progress until all are done. Raises the first failure after telling the others to stop."""
    seen = 0
    while True:
        is_over = all(future.done() for future in futures)
        now = shared.done.value
        advance(now - seen)
        seen = now
        failed = [error for future in futures if future.done() and (error := future.exception()) is not None]
        if failed:
            shared.stop.set()
            raise failed[0]
        if is_over:
            return
        time.sleep(POLL_SECONDS)
