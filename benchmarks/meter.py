"""Where the time of a piece of work goes: every operation of PyTorch and every fused operation, timed by kind.

Floating-point operations are counted by PyTorch's own rules (convolutions and matrix products), bytes as the sizes of
what an operation takes and gives. Backward passes on a CPU are seen too. Seconds are those of the processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.machine import Machine
from eg3d.ops import extension

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addmm_")
COPIES = ("copy_", "clone", "_to_copy", "cat", "stack", "index", "index_copy", "gather", "constant_pad_nd")
RANDOM = ("randn", "rand", "normal_", "uniform_", "randint", "randperm")
GRADIENTS = {  # by what a convolution's backward pass is asked for: input, weight
    (True, False): "convolution, input gradient",
    (False, True): "convolution, weight gradient",
    (True, True): "convolution, both gradients",
}
REST = "Python, autograd and what is not seen"


@dataclass
class Part:
    """All operations of one kind."""

    calls: int = 0
    cpu_s: float = 0.0
    flop: float = 0.0
    bytes: float = 0.0


class Meter(TorchDispatchMode):
    """While it is entered, `parts` grow by every operation, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, Part] = {}

    def __enter__(self) -> Meter:
        self._call, extension.call = extension.call, self._fused
        self._started = time.process_time()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        extension.call = self._call
        seconds = time.process_time() - self._started
        self._add(REST, seconds - sum(part.cpu_s for part in self.parts.values()), 0.0, [])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.process_time()
        out = func(*args, **(kwargs or {}))
        seconds = time.process_time() - start
        self._add(kind(func.overloadpacket, args), seconds, _flop(func.overloadpacket, args, kwargs or {}, out),
                  [args, kwargs, out])  # fmt: skip
        return out

    def rows(self, *, runs: int = 1) -> list[dict[str, Any]]:
        """The parts of one of `runs` equal runs, the longest first, each with its share."""
        total = sum(part.cpu_s for part in self.parts.values())
        longest = sorted(self.parts.items(), key=lambda item: -item[1].cpu_s)
        return [
            {"part": name, "share": part.cpu_s / total, **{key: value / runs for key, value in asdict(part).items()}}
            for name, part in longest
        ]

    def _fused(self, native: Any, operation: str, step: str, spec: Any, tensors: Sequence[Tensor | None]) -> None:
        start = time.process_time()
        self._call(native, operation, step, spec, tensors)
        self._add(f"fused {operation}, {step}", time.process_time() - start, 0.0, tensors)

    def _add(self, name: str, seconds: float, flop: float, tensors: Any) -> None:
        part = self.parts.setdefault(name, Part())
        part.calls += 1
        part.cpu_s += seconds
        part.flop += flop
        part.bytes += sum(t.numel() * t.element_size() for t in tree_leaves(tensors) if isinstance(t, Tensor))


def kind(operation: Any, args: Sequence[Any]) -> str:
    """The kind that an operation, such as torch.ops.aten.mm, counts as."""
    name = operation.__name__
    if name == "convolution":
        return "convolution, forward"
    if name == "convolution_backward":
        return GRADIENTS[tuple(args[-1][:2])]
    for names, found in ((PRODUCTS, "matrix product"), (COPIES, "copy"), (RANDOM, "random numbers")):
        if name in names:
            return found
    return "optimiser" if name.startswith(("_foreach", "_fused")) else "elementwise and the rest"


def _flop(operation: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> float:
    if operation.__name__ == "addmm_":
        return 2.0 * args[1].numel() * args[2].shape[1]
    count: Callable[..., float] | None = flop_registry.get(operation)
    return float(count(*args, **kwargs, out_val=out)) if count else 0.0


def print_parts(rows: Sequence[dict[str, Any]], machine: Machine) -> None:
    """The table of `Meter.rows`: seconds, share, and the distance from what the machine does at best.

    Rates are per thread: the machine's divided by its threads.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=machine.title)
    for title in ("part", "calls", "ms", "share", "GFLOP/s", "of GEMM", "GB/s", "of copy"):
        table.add_column(title, justify="left" if title == "part" else "right")
    for row in rows:
        seconds = max(row["cpu_s"], 1e-9)
        cells = [row["part"], f"{row['calls']:.0f}", f"{1000 * row['cpu_s']:.1f}", f"{row['share']:.1%}"]
        for amount, best in ((row["flop"], machine.gemm_gflops), (row["bytes"], machine.copy_gbs)):
            rate = amount / seconds / 1e9
            cells += [f"{rate:.1f}", f"{rate * machine.threads / best:.0%}"] if amount else ["", ""]
        table.add_row(*cells)
    Console(width=120).print(table)
