"""What a table was measured on: the processor and what it does at best, in one line above the figures.

The rates are those of this moment, float32, all threads, best of a few tries: other programs only lower them.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

VECTOR_BITS = {"AVX512": 512, "AVX2": 256, "SVE256": 256}  # by torch's names; others are taken as 128
GEMM_SIDE = 1536
COPIED_BYTES = 128 * 2**20  # beyond the caches of most processors
TRIES = 4


@dataclass(frozen=True)
class Machine:
    """One processor, as a process with some threads finds it."""

    processor: str
    vector_bits: int  # width of the registers that torch computes in
    threads: int
    gemm_gflops: float  # of a product of square matrices, in 10^9 additions and multiplications a second
    copy_gbs: float  # of a copy of a large block, bytes read and bytes written, in 10^9 a second

    @property
    def title(self) -> str:
        """One line for the top of a table."""
        return (
            f"{self.processor}, {self.vector_bits}-bit vectors, {self.threads} thread{'s' * (self.threads > 1)}: "
            f"GEMM {self.gemm_gflops:.0f} GFLOP/s, copy {self.copy_gbs:.1f} GB/s"
        )

    @property
    def row(self) -> dict[str, Any]:
        """What a JSON row carries."""
        return {"machine": asdict(self)}


def title_of(row: dict[str, Any]) -> str:
    """The title for a table with a row that carries `Machine.row`."""
    return Machine(**row["machine"]).title


def this_machine() -> Machine:
    """Facts of this machine, and its rates with the threads that torch has now; takes about a second."""
    capability = torch.backends.cpu.get_cpu_capability()
    return Machine(
        _processor(), VECTOR_BITS.get(capability, 128), torch.get_num_threads(), round(_gemm(), 1), round(_copy(), 1)
    )


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gemm() -> float:
    a, b, out = (torch.ones(GEMM_SIDE, GEMM_SIDE) for _ in range(3))
    return 2 * GEMM_SIDE**3 / _shortest(lambda: torch.mm(a, b, out=out)) / 1e9


def _copy() -> float:
    source, target = (torch.ones(COPIED_BYTES // 4) for _ in range(2))
    return 2 * COPIED_BYTES / _shortest(lambda: target.copy_(source)) / 1e9


def _shortest(call: Callable[[], object]) -> float:
    """Seconds of the shortest of some calls, after one to warm up."""
    call()
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
