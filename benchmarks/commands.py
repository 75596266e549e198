"""Whole commands at full FFHQ-512 size with random weights: wall-clock time and peak memory of their process.

python -m benchmarks.commands. Pictures of random weights show nothing; time and memory do not depend on that, but
their density stays below the usual level, so that the surface is taken at 0.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import this_machine
from eg3d.checkpoints.store import save_networks
from eg3d.generators.eg3d import TriPlaneGenerator, ffhq512_128

COMMANDS = {
    "gen_samples --shapes --shape-res 256": (
        *("eg3d.gen_samples", "--network", "{network}", "--outdir", "{out}", "--seeds", "0"),
        *("--shapes", "--shape-res", "256", "--shape-level", "0"),
    ),
    "the same, coloured": (
        *("eg3d.gen_samples", "--network", "{network}", "--outdir", "{out}", "--seeds", "0"),
        *("--shapes", "--shape-res", "256", "--shape-level", "0", "--shape-colors"),
    ),
}


def measured(name: str, network: Path, out: Path) -> dict[str, Any]:
    """Run one of COMMANDS; its wall-clock seconds, and the peak memory of the largest command so far in MB."""
    words = [word.format(network=network, out=out) for word in COMMANDS[name]]
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", *words], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # kilobytes on Linux
    return {"command": name, "seconds": round(seconds, 1), "peak_mb": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of a table")
    arguments = parser.parse_args()
    machine = this_machine()
    if not arguments.json:
        print(machine.title)
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "random.safetensors"
        torch.manual_seed(0)
        G = TriPlaneGenerator(ffhq512_128())
        save_networks(network, {"G_ema": G}, configs={"G_ema": G.cfg})
        for name in COMMANDS:
            row = measured(name, network, Path(folder) / "out")
            line = "{command:40} {seconds:7.1f} s {peak_mb:6.0f} MB".format(**row)
            print(json.dumps(row | machine.row) if arguments.json else line)


if __name__ == "__main__":
    main()
