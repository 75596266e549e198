"""Steps of the twin's fine-tuning, this checkout's against another's, in turns: python -m benchmarks.finetune_step.

Two processes run `experiment=twin_sfield` on the same images, one from each checkout, and take their steps one after
the other, so that a busy machine slows both; step k is the same work in both. Seconds are those of the processor, which
other programs disturb least; those of the clock, with ratio and peak memory, stand beside. Without --against, this
checkout's figures alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
CYCLE = 16  # steps in which every lazy phase comes once


def serve(out: str, data: str, threads: int) -> None:
    """Fine-tune; every step waits for a line on stdin, and is answered with its seconds and the peak memory so far."""
    from eg3d.training.loop import Trainer

    original, answers = Trainer.step, os.fdopen(os.dup(1), "w", buffering=1)

    def step(trainer: Any, *arguments: Any) -> None:
        if not sys.stdin.readline():
            os._exit(0)
        clock, processor = time.perf_counter(), time.process_time()
        original(trainer, *arguments)
        seconds = time.process_time() - processor, time.perf_counter() - clock
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
        answers.write(json.dumps([*seconds, peak_mb]) + "\n")

    Trainer.step = step  # type: ignore[method-assign,assignment]
    words = ["experiment=twin_sfield", f"out={out}", f"data={data}", "device=cpu", f"threads={threads}", "workers=1"]
    sys.argv[1:] = [*words, "total_kimg=1000", "tick_kimg=1000", "tracking.num_seeds=0"]
    os.dup2(2, 1)  # the command's own lines
    runpy.run_module("eg3d.train_rlhf", run_name="__main__")


class Side:
    """A process that fine-tunes with the code of one checkout."""

    def __init__(self, checkout: Path, folder: Path, data: Path, threads: int) -> None:
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(folder), "--data", str(data)]
        self._process = subprocess.Popen(
            [*command, "--threads", str(threads)],
            cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        self.seconds: list[tuple[float, float]] = []  # of each step, by the processor and by the clock
        self.peak_mb = 0.0

    def step(self) -> None:
        """Take one step."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the run ended with {self._process.wait()}; try train_rlhf experiment=twin_sfield there"
            )
        processor, clock, self.peak_mb = json.loads(line)
        self.seconds.append((processor, clock))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def measured(against: Path | None, *, cycles: int, threads: int, folder: Path) -> dict[str, Any]:
    """Median seconds of a step and peak memory of each side; ratios are here / against."""
    data = folder / "heads64.zip"
    words = [f"out={data}", "num_images=32", "resolution=64", "workers=1"]
    command = [sys.executable, "-m", "dataset_preprocessing.synthetic_heads", *words]
    subprocess.run(command, check=True, cwd=HERE, env=os.environ | {"PYTHONPATH": str(HERE)}, stdout=subprocess.DEVNULL)
    checkouts = {"here": HERE} | ({"against": against} if against else {})
    sides = {name: Side(path.resolve(), folder / name, data, threads) for name, path in checkouts.items()}
    try:
        for number in range(CYCLE * (cycles + 1)):  # the first cycle warms both up
            for side in _in_turn(list(sides.values()), number):
                side.step()
    finally:
        for side in sides.values():
            side.close()
    row: dict[str, Any] = {"steps": CYCLE * cycles, "threads": threads}
    for name, side in sides.items():
        cpu, clock = (statistics.fmean(column) for column in zip(*side.seconds[CYCLE:], strict=True))
        row |= {f"{name}_cpu_s": cpu, f"{name}_s": clock, f"{name}_mb": round(side.peak_mb)}
    if against:
        pairs = zip(sides["here"].seconds[CYCLE:], sides["against"].seconds[CYCLE:], strict=True)
        for kind, ratios in zip(("cpu_ratio", "ratio"), _ratios(pairs), strict=True):
            row |= {kind: statistics.median(ratios), f"{kind}_quartiles": statistics.quantiles(ratios, n=4)[::2]}
        row["cpu_ratio_of_means"] = row["here_cpu_s"] / row["against_cpu_s"]
    return row


def _ratios(pairs: Iterable[tuple[tuple[float, float], tuple[float, float]]]) -> list[list[float]]:
    """Here / against of every step: by the processor, and by the clock."""
    by_step = [[one / other for one, other in zip(here, there, strict=True)] for here, there in pairs]
    return [list(column) for column in zip(*by_step, strict=True)]


def _in_turn(sides: list[Side], number: int) -> Iterator[Side]:
    """Both sides, each first as often as the other."""
    yield from sides if number % 2 == 0 else reversed(sides)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune_step", description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--cycles", type=int, default=6, help=f"rounds of {CYCLE} steps that are measured")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.data, arguments.threads)
        return
    import torch

    from benchmarks.machine import this_machine  # not where a side is served: the other checkout may not have it

    torch.set_num_threads(arguments.threads)
    machine = this_machine()
    with tempfile.TemporaryDirectory() as folder:
        row = measured(arguments.against, cycles=arguments.cycles, threads=arguments.threads, folder=Path(folder))
    if arguments.json:
        print(json.dumps(row | machine.row))
        return
    print(machine.title)
    for name in ("here", "against"):
        if f"{name}_s" in row:
            cpu, clock, peak = (row[f"{name}_{what}"] for what in ("cpu_s", "s", "mb"))
            print(f"{name:8} {1000 * cpu:8.1f} ms of processor a step, {1000 * clock:.1f} by the clock, {peak} MB peak")
    for kind in ("cpu_ratio", "ratio") if "ratio" in row else ():
        low, high = row[f"{kind}_quartiles"]
        print(f"{kind:10} {row[kind]:6.4f}, median of {row['steps']} steps (middle half {low:.3f} to {high:.3f})")
    if "ratio" in row:
        print(f"cpu_ratio of means {row['cpu_ratio_of_means']:6.4f}")


if __name__ == "__main__":
    main()
