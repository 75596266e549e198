"""What a run says about itself at a tick: its counters, speed and memory as statistics, and all of it as one line."""

from __future__ import annotations

import psutil
import torch

from eg3d.progress import duration
from eg3d.training.counters import Counters
from eg3d.training.stats import Collected, Stats

SHOWN = ("Loss/", "Reward/", "Judge/", "Gradient/", "Weight/", "Drift/")  # statistics in the line, by their beginning


def report_status(stats: Stats, counters: Counters, *, seconds: float, images: int, device: torch.device) -> None:
    """Report where the run is, how long its last `images` took and what it holds; names as in EG3D."""
    stats.report("Progress/tick", counters.tick)
    stats.report("Progress/kimg", counters.num_images / 1000)
    stats.report("Progress/skipped", counters.skipped)
    stats.report("Timing/sec_per_tick", seconds)
    stats.report("Timing/sec_per_kimg", 1000 * seconds / max(images, 1))
    stats.report("Resources/cpu_mem_gb", psutil.Process().memory_info().rss / 2**30)
    if device.type == "cuda":
        stats.report("Resources/peak_gpu_mem_gb", torch.cuda.max_memory_allocated(device) / 2**30)
        stats.report("Resources/peak_gpu_mem_reserved_gb", torch.cuda.max_memory_reserved(device) / 2**30)


def status_line(collected: Collected, total_kimg: float, *, nonfinite: str = "skip") -> str:
    """One line a tick: where the run is, its losses, its speed and how long it will take.

    nonfinite: what happens to steps with a number that is not finite; the line says how many there were.
    """
    mean = {name: stat["mean"] for name, stat in collected.items()}
    kimg, speed = mean["Progress/kimg"], mean["Timing/sec_per_kimg"]
    remaining = max(total_kimg - kimg, 0) * speed
    augment = f"  augment {mean['Progress/augment']:.3f}" if "Progress/augment" in mean else ""
    skips = f"  {'skipped' if nonfinite == 'skip' else 'cleaned'} {mean.get('Progress/skipped', 0):.0f}"
    skips = skips if mean.get("Progress/skipped") else ""
    losses = "  ".join(_shown(name, stat) for name, stat in collected.items() if name.startswith(SHOWN))
    return (
        f"tick {mean['Progress/tick']:.0f}  kimg {kimg:.1f}/{total_kimg:g}  sec/kimg {speed:.1f}  "
        f"mem {mean['Resources/cpu_mem_gb']:.2f} GB  eta {duration(remaining)}{augment}{skips}  {losses}"
    )


def _shown(name: str, stat: dict[str, float]) -> str:
    """A loss with its mean; values that are not finite are no part of it, and counted."""
    count = stat.get("nonfinite")
    return f"{name.removeprefix('Loss/')} {stat['mean']:.3g}" + (f" ({count} not finite)" if count else "")
