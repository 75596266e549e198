"""An adversarial step of the twin, or the backbone of published faces, and where its time goes.

python -m benchmarks.train_step prints the parts of a step with their share and their distance from the machine's
measured GEMM and copy rates; --against PATH takes steps in turns with another checkout instead and prints ratios, here
/ against. Step k is the same work in both: 16 steps are a round in which every lazy phase comes once. --size ffhq takes
mapping and planes of published faces (random weights, batch 1) instead of steps: forward, backward to the latent, to
latent and weights, and the same from the density of a 64^3 grid.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import turns
from benchmarks.machine import Machine, this_machine
from benchmarks.meter import print_parts
from benchmarks.served import PARTS

CYCLE = 16  # steps in which every lazy phase comes once
PASSES = ("forward", "latent", "weights", "grid64")
# Where a step's command trains, and on what. The twin's discriminator with R1, and augmentation of fixed strength.
ADVERSARIAL = (
    *("eg3d.train", "experiment=twin", "start=twin", "warm_start.discriminator_kimg=0"),
    *("augmentation.mode=fixed", "augmentation.p=0.2"),
)
FINETUNING = ("eg3d.train_rlhf", "experiment=twin_sfield", "tracking.num_seeds=0")


def step_words(command: Sequence[str], folder: Path, name: str, threads: int) -> list[str]:
    """The command that trains in a folder of its own on the images there, without an end."""
    data = f"data={folder / 'portraits64.zip'}"
    run = [f"out={folder / name}", data, "device=cpu", f"threads={threads}", "workers=1"]
    return [*command, *run, "total_kimg=1000", "tick_kimg=1000"]


def make_images(folder: Path) -> None:
    """32 portraits of 64 pixels."""
    words = [f"out={folder / 'portraits64.zip'}", "num_images=32", "resolution=64", "workers=1"]
    command = [sys.executable, "-m", "dataset_preprocessing.human_heads", *words]
    environment = os.environ | {"PYTHONPATH": str(turns.HERE)}
    subprocess.run(command, check=True, cwd=turns.HERE, env=environment, stdout=subprocess.DEVNULL)


def step_ratios(command: Sequence[str], against: Path | None, *, cycles: int, threads: int) -> list[dict[str, Any]]:
    """One row: mean seconds of a step and peak memory of each side, and their ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder)
        row = turns.measured(
            lambda side: step_words(command, folder, side, threads), against,
            request="step", warm=CYCLE, rounds=CYCLE * cycles, threads=threads,
        )  # fmt: skip
    return [{"work": f"{command[0]} step"} | row]


def backbone_ratios(against: Path | None, *, cycles: int, threads: int) -> list[dict[str, Any]]:
    """One row a pass; peak memory is that of a process which does this pass alone."""
    return [
        {"work": f"backbone, {passes}"}
        | turns.measured(
            lambda _: ["backbone"], against, request=passes, warm=1, rounds=max(cycles, 2), threads=threads
        )
        for passes in PASSES
    ]


def step_parts(command: Sequence[str], *, threads: int) -> list[dict[str, Any]]:
    """Parts of the mean step of a round, after a round to warm up."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder)
        side = turns.Side(turns.HERE, step_words(command, folder, "here", threads), threads=threads)
        try:
            answers = [side.ask("step" if number < CYCLE else f"{PARTS} step") for number in range(2 * CYCLE)]
        finally:
            side.close()
    return [{"work": f"{command[0]} step", PARTS: _mean_parts([answer[PARTS] for answer in answers[CYCLE:]])}]


def backbone_parts(*, threads: int) -> list[dict[str, Any]]:
    """Parts of each pass, after one to warm up."""
    side = turns.Side(turns.HERE, ["backbone"], threads=threads)
    try:
        answers = {passes: [side.ask(passes), side.ask(f"{PARTS} {passes}")][1] for passes in PASSES}
    finally:
        side.close()
    return [{"work": f"backbone, {passes}", PARTS: answer[PARTS]} for passes, answer in answers.items()]


def _mean_parts(steps: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Means over steps, of which not every one has every part."""
    sums: dict[str, dict[str, float]] = {}
    for row in (row for step in steps for row in step):
        total = sums.setdefault(row["part"], dict.fromkeys(("calls", "cpu_s", "flop", "bytes"), 0.0))
        for key in total:
            total[key] += row[key] / len(steps)
    whole = sum(total["cpu_s"] for total in sums.values())
    rows = [{"part": name, "share": total["cpu_s"] / whole, **total} for name, total in sums.items()]
    return sorted(rows, key=lambda row: -row["cpu_s"])


def print_rows(rows: Sequence[dict[str, Any]], machine: Machine) -> None:
    """A table of parts each, or lines of ratios under one title."""
    for number, row in enumerate(rows):
        if PARTS in row:
            print(f"{row['work']}: {1000 * sum(part['cpu_s'] for part in row[PARTS]):.1f} ms of processor")
            print_parts(row[PARTS], machine)
            continue
        if number == 0:
            print(machine.title)
        print(row["work"])
        turns.print_row(row)


def main(module: str, command: Sequence[str], description: str) -> None:
    """The command line of a benchmark of steps that `command` takes."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--cycles", type=int, default=6, help=f"rounds of {CYCLE} steps (or passes) that are measured")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--size", choices=("twin", "ffhq"), default="twin", help="steps of the twin, or the backbone")
    parser.add_argument("--parts", action="store_true", help="where the time goes (the default of train_step alone)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    machine, how = this_machine(), {"threads": chosen.threads}
    if chosen.against is None and (chosen.parts or command is ADVERSARIAL):
        rows = backbone_parts(**how) if chosen.size == "ffhq" else step_parts(command, **how)
    elif chosen.size == "ffhq":
        rows = backbone_ratios(chosen.against, cycles=chosen.cycles, **how)
    else:
        rows = step_ratios(command, chosen.against, cycles=chosen.cycles, **how)
    if chosen.json:
        print(json.dumps({"rows": [row | machine.row for row in rows]}))
    else:
        print_rows(rows, machine)


if __name__ == "__main__":
    main("benchmarks.train_step", ADVERSARIAL, __doc__)
