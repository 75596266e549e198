"""Running statistics of a training run: collected every step, written once a tick to stats.jsonl and TensorBoard."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eg3d.safe_write import naming_disk_faults, write_text
from eg3d.training.ranks import Ranks

Collected = dict[str, dict[str, float]]  # by name: num, mean, std; nonfinite where values were not finite


class Stats:
    """Mean and deviation of named values since the last tick."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor | float]] = {}

    def report(self, name: str, value: Tensor | float) -> None:
        """Add one value; a tensor is a scalar or has one element, and is read only when the tick ends."""
        self._values.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)

    def collect(self, ranks: Ranks | None = None) -> Collected:
        """{name: {num, mean, std}} of what was reported, by all processes together, and a clean slate.

        They are of the finite values; `nonfinite` says how many were not, where there were any.
        """
        values, self._values = self._tensors(), {}
        if ranks is not None and ranks.size > 1:
            return _over_ranks(values, ranks)
        return {name: _collected(v[v.isfinite()], int((~v.isfinite()).sum())) for name, v in values.items()}

    def pending(self, ranks: Ranks) -> dict[str, Tensor]:
        """What was reported since the last tick, by name: [processes, K] float64, the same in every process."""
        values = self._tensors()
        if not values:
            return {}
        rows = ranks.gather(torch.cat(list(values.values())).to(ranks.device)).cpu()
        return dict(zip(values, rows.split([len(v) for v in values.values()], dim=1), strict=True))

    def restore(self, pending: dict[str, Tensor], ranks: Ranks) -> None:
        """Go on from `pending` [processes, K]: each process has its own again; of another number, the first has all."""
        is_same = all(len(rows) == ranks.size for rows in pending.values())
        for name, rows in pending.items():
            mine = rows[ranks.rank] if is_same else rows.flatten() if ranks.is_first else rows.new_empty(0)
            self._values[name] = list(mine.tolist())

    def _tensors(self) -> dict[str, Tensor]:
        return {name: torch.tensor([float(x) for x in v], dtype=torch.float64) for name, v in self._values.items()}


def _collected(values: Tensor, nonfinite: int) -> dict[str, float]:
    """Statistics of finite values [K], float64."""
    mean, std = (float(values.mean()), float(values.std(unbiased=False))) if len(values) else (math.nan, math.nan)
    return {"num": len(values), "mean": mean, "std": std} | ({"nonfinite": nonfinite} if nonfinite else {})


def _over_ranks(values: dict[str, Tensor], ranks: Ranks) -> Collected:
    """Statistics of the values of all processes, which must have reported the same names in the same order."""
    sums = []
    for v in values.values():
        kept = v[v.isfinite()]
        sums.append(torch.stack([v.new_tensor(len(kept)), kept.sum(), kept.square().sum(), v.new_tensor(len(v))]))
    if not sums:
        return {}
    total = ranks.sum(torch.stack(sums).to(ranks.device)).cpu()
    collected: Collected = {}
    for name, (num, first, second, count) in zip(values, total.tolist(), strict=True):
        mean = first / num if num else math.nan
        std = max(second / num - mean**2, 0.0) ** 0.5 if num else math.nan
        collected[name] = {"num": int(num), "mean": mean, "std": std}
        collected[name] |= {"nonfinite": int(count - num)} if count > num else {}
    return collected


class StatsWriter:
    """stats.jsonl and TensorBoard events of one run folder.

    A run that continues from `num_images` gets no double lines: later ones are dropped. -1 is a run that has no state.
    """

    def __init__(self, folder: Path, *, num_images: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / "stats.jsonl"
        self._drop_later_lines(num_images)
        self._events = SummaryWriter(str(folder), purge_step=num_images + 1 if num_images > 0 else None)

    def write(self, collected: Collected, *, num_images: int) -> None:
        """One line a tick; the mean of no finite value is written as null. Steps of TensorBoard are images shown."""
        line: dict[str, Any] = {name: {k: finite(v) for k, v in stat.items()} for name, stat in collected.items()}
        line |= {"num_images": num_images, "timestamp": time.time()}
        with naming_disk_faults(self._path):
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
            for name, stat in collected.items():
                self._events.add_scalar(name, stat["mean"], global_step=num_images)
            self._events.flush()

    def close(self) -> None:
        self._events.close()

    def _drop_later_lines(self, num_images: int) -> None:
        if not self._path.exists():
            return
        lines = self._path.read_bytes().splitlines()
        kept = [line.decode("utf-8") for line in lines if -1 < _images_of(line) <= num_images]
        write_text(self._path, "".join(f"{line}\n" for line in kept))


def _images_of(line: bytes) -> int:
    """`num_images` of a line of stats.jsonl; -1 for a line that a stop cut short, or that is damaged."""
    try:
        return int(json.loads(line.decode("utf-8"))["num_images"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return -1


def finite(value: float) -> float | None:
    """The value, or None where it is NaN or infinite (JSON has neither)."""
    return value if value == value and abs(value) != float("inf") else None
