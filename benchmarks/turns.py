"""Two checkouts do the same work in turns, so that a busy machine slows both.

Each is a process of benchmarks/served.py with its own code. Seconds are those of the processor, which other programs
disturb least; those of the clock stand beside.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
Start = Callable[[str], list[str]]  # the words for benchmarks/served.py, given the name of a side


class Side:
    """A process that works with the code of one checkout."""

    def __init__(self, checkout: Path, words: Sequence[str], *, threads: int) -> None:
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, str(Path(__file__).with_name("served.py")), *words]
        self._process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._what = " ".join(words)

    def ask(self, request: str) -> dict[str, Any]:
        """One piece of work; the answer as benchmarks/served.py gives it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the side ended with {self._process.wait()}: {self._what}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def measured(
    start: Start, against: Path | None, *, request: str, warm: int, rounds: int, threads: int
) -> dict[str, Any]:
    """Mean seconds of `rounds` pieces of work after `warm` ones, and peak memory, of each side; here / against.

    Without `against`, of this checkout alone.
    """
    checkouts = {"here": HERE} | ({"against": against} if against else {})
    sides = {name: Side(path.resolve(), start(name), threads=threads) for name, path in checkouts.items()}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    try:
        for number in range(warm + rounds):
            for name in _in_turn(list(sides), number):
                answers[name].append(sides[name].ask(request))
    finally:
        for side in sides.values():
            side.close()
    row: dict[str, Any] = {"rounds": rounds, "threads": threads}
    for name, given in answers.items():
        kept, peak = given[warm:], given[-1]["peak_mb"]
        row |= {f"{name}_{kind}": statistics.fmean(answer[kind] for answer in kept) for kind in ("cpu_s", "s")}
        row[f"{name}_mb"] = round(peak)
    return row | (_ratios(answers["here"][warm:], answers["against"][warm:]) if against else {})


def _ratios(here: list[dict[str, Any]], against: list[dict[str, Any]]) -> dict[str, Any]:
    """Here / against: the median of the pairs and its quartiles, by processor and by clock; and that of the means."""
    found: dict[str, Any] = {}
    for kind, name in (("cpu_s", "cpu_ratio"), ("s", "ratio")):
        ratios = [one[kind] / other[kind] for one, other in zip(here, against, strict=True)]
        found |= {name: statistics.median(ratios), f"{name}_quartiles": statistics.quantiles(ratios, n=4)[::2]}
    found["cpu_ratio_of_means"] = sum(one["cpu_s"] for one in here) / sum(one["cpu_s"] for one in against)
    return found


def _in_turn(names: list[str], number: int) -> Iterator[str]:
    """Both sides, each first as often as the other."""
    yield from names if number % 2 == 0 else reversed(names)


def print_row(row: dict[str, Any]) -> None:
    """Two lines of figures and two of ratios."""
    for name in ("here", "against"):
        if f"{name}_s" in row:
            cpu, clock, peak = (row[f"{name}_{what}"] for what in ("cpu_s", "s", "mb"))
            print(f"{name:8} {1000 * cpu:8.1f} ms of processor a round, {1000 * clock:.1f} by the clock, {peak} MB")
    for kind in ("cpu_ratio", "ratio") if "ratio" in row else ():
        low, high = row[f"{kind}_quartiles"]
        print(f"{kind:10} {row[kind]:6.4f}, median of {row['rounds']} rounds (middle half {low:.3f} to {high:.3f})")
    if "ratio" in row:
        print(f"cpu_ratio of means {row['cpu_ratio_of_means']:6.4f}")
