"""How long it takes before anything happens: imports and --help, in turns, beside python -m eg3d.train --help.

python -m benchmarks.startup. Seconds are the shortest of all rounds, each in a process of its own; the ratio is to the
baseline of the same run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.machine import this_machine

BASELINE = "python -m eg3d.train --help"
COMMANDS = {
    BASELINE: ("-m", "eg3d.train", "--help"),
    "import sculpting_nerf": ("-c", "import sculpting_nerf"),
    "sculpt --help": ("-m", "sculpting_nerf.command", "--help"),
    "sculpt tune --help": ("-m", "sculpting_nerf.command", "tune", "--help"),
}


def seconds_of(words: Sequence[str]) -> float:
    """Wall-clock seconds of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Print the table, or one JSON object a line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of a table")
    arguments = parser.parse_args()
    machine = this_machine()
    best = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(arguments.rounds):
        for name, words in COMMANDS.items():
            best[name] = min(best[name], seconds_of(words))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # kilobytes on Linux
    if not arguments.json:
        print(f"{machine.title}; at most {peak:.0f} MB")
    for name, seconds in best.items():
        row: dict[str, Any] = {
            "command": name,
            "seconds": round(seconds, 3),
            "ratio": round(seconds / best[BASELINE], 3),
        }
        line = "{command:30} {seconds:7.2f} s   {ratio:5.2f} of the baseline".format(**row)
        print(json.dumps(row | {"peak_mb": round(peak)} | machine.row) if arguments.json else line)


if __name__ == "__main__":
    main()
