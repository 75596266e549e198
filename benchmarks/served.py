"""The side that works, for benchmarks/turns.py: started by its path with the code of any checkout.

It imports nothing of `benchmarks` unless asked for parts, since another checkout may not have it. Every line on stdin
names a piece of work; the answer is one JSON line: processor and clock seconds, peak memory so far, perhaps parts.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any

PARTS = "parts"  # the first word of a line that also asks where the time goes


class Answers:
    """Requests from stdin, answers to what was stdout; the work's own lines go to stderr."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def next(self) -> list[str]:
        """The words of the next request; without one the process ends."""
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        return line.split()

    def work(self, request: list[str], call: Callable[[], object]) -> None:
        """Do a piece of work, and say what it took."""
        meter: Any = contextlib.nullcontext()
        if request[0] == PARTS:
            from benchmarks.meter import Meter

            meter = Meter()
        clock, processor = time.perf_counter(), time.process_time()
        with meter:
            call()
        answer: dict[str, Any] = {"cpu_s": time.process_time() - processor, "s": time.perf_counter() - clock}
        answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
        if request[0] == PARTS:
            answer[PARTS] = meter.rows()
        self._file.write(json.dumps(answer) + "\n")


def serve_steps(module: str, words: list[str]) -> None:
    """Train by a command of ours; every step waits for a request."""
    from eg3d.training.loop import Trainer

    original, answers = Trainer.step, Answers()

    def step(trainer: Any, *arguments: Any) -> None:
        answers.work(answers.next(), lambda: original(trainer, *arguments))

    Trainer.step = step  # type: ignore[method-assign,assignment]
    sys.argv[1:] = words
    runpy.run_module(module, run_name="__main__")


def serve_backbone() -> None:
    """Mapping and planes at the size of published faces, random weights, batch 1: forward | latent | weights | grid64.

    latent and weights add a backward pass to the latent, and to latent and weights; grid64 goes on to the density of a
    64^3 grid, and back to latent and weights.
    """
    import torch

    try:
        from eg3d.generators.eg3d import TriPlaneGenerator, ffhq512_128
        from eg3d.ops.density_grid.grid import GridSpec

        def density(generator: Any, planes: Any) -> Any:
            return generator.field_of_planes(planes.unflatten(1, (3, -1))).density_grid(GridSpec(64))
    except ImportError:  # before eg3d.generators
        from eg3d.generator import TriPlaneGenerator, ffhq512_128  # type: ignore[import-not-found,no-redef]

        from eg3d.representations.sigma_field import sigma_grid  # type: ignore[attr-defined]

        def density(generator: Any, planes: Any) -> Any:
            return sigma_grid(generator, planes.unflatten(1, (3, -1)), 64, grid="exact")

    torch.manual_seed(0)
    generator, answers = TriPlaneGenerator(ffhq512_128()).train(), Answers()
    backbone = generator.backbone
    z, c = torch.randn(1, 512), torch.randn(1, 25)

    def run(passes: str) -> None:
        generator.requires_grad_(passes in ("weights", "grid64"))
        latent = z.clone().requires_grad_(passes != "forward")
        with torch.set_grad_enabled(passes != "forward"):
            result = backbone.synthesis(backbone.mapping(latent, c))
            result = density(generator, result) if passes == "grid64" else result
        if passes != "forward":
            result.sum().backward()
        generator.zero_grad(set_to_none=True)

    while True:
        request = answers.next()
        answers.work(request, lambda passes=request[-1]: run(passes))  # type: ignore[misc]


if __name__ == "__main__":
    if sys.argv[1] == "backbone":
        serve_backbone()
    else:
        serve_steps(sys.argv[1], sys.argv[2:])
