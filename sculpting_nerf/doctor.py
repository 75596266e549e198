"""What this machine and this installation can do: versions, devices, native operations, memory, disk, what is missing.

Every line says what was found; what is missing is said with the commands that need it and what to type.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from eg3d.click_command import OneLineCommand
from eg3d.installation import checkout, install_hint, version

LIBRARIES = ("torch", "numpy", "scipy", "pytorch-lightning", "hydra-core", "scikit-image", "trimesh", "safetensors")
GIB = 1024**3
LITTLE_MEMORY, LITTLE_DISK = 4 * GIB, 2 * GIB  # `sculpt demo` takes 2.3 GB of memory, and 0.1 GB of disk


class Extra(NamedTuple):
    """An import that some commands need and others do not."""

    module: str
    extra: str
    needed_for: str


EXTRAS = (
    Extra("imageio_ffmpeg", "tools", "films (videos)"),
    Extra("viser", "tools", "the viewer (view)"),
    Extra("anny", "heads", "a new head model (python -m dataset_preprocessing.human_heads.build)"),
    Extra("pyspng", "fast", "faster reading of PNG images; Pillow reads them without it"),
    Extra("ninja", "fast", "native operations; without them the same numbers, slower"),
)


def findings(folder: Path) -> Iterator[tuple[str, str]]:
    """What was found, and whether it is fine: ("ok" | "missing" | "note", line). folder: where work would be done."""
    where = checkout()
    yield "ok", f"sculpting-nerf-geometry {version()}, " + (f"checkout at {where}" if where else "installed package")
    yield "ok", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in LIBRARIES:
        try:
            yield "ok", f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield "missing", f"{name}: every command needs it; install the package again"
    yield from _devices()
    yield from _native()
    yield from _resources(folder)
    yield from _networks()
    for extra in EXTRAS:
        if importlib.util.find_spec(extra.module) is None:
            yield "missing", f"{extra.module}: {extra.needed_for}; {install_hint(extra.extra)}"
        else:
            yield "ok", f"{extra.module}: {extra.needed_for}"


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    yield "ok", f"CPU: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            yield "ok", f"GPU {number}: {properties.name}, {properties.total_memory / GIB:.0f} GiB"
    elif torch.version.cuda is None:
        yield "note", "no GPU: this build of torch has no CUDA; everything runs on the CPU"
    else:
        yield "note", f"no GPU: torch has CUDA {torch.version.cuda}, and finds no device; everything runs on the CPU"


def _native() -> Iterator[tuple[str, str]]:
    import torch

    from eg3d.ops import extension

    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        try:
            extension.built(device, extension.architecture())
            yield "ok", f"native operations on {device}"
        except Exception as error:  # a compiler can fail in any way
            reason = extension.gist(str(error))
            yield "missing", f"native operations on {device}: {reason}; plain torch does the same, slower"


def _resources(folder: Path) -> Iterator[tuple[str, str]]:
    import psutil

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(folder)
    yield (
        "ok" if memory.available >= LITTLE_MEMORY else "note",
        f"memory: {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free",
    )
    yield "ok" if disk.free >= LITTLE_DISK else "note", f"disk at {folder}: {disk.free / GIB:.1f} GiB free"


def _networks() -> Iterator[tuple[str, str]]:
    from eg3d.checkpoints.manifest import read_manifest, resolve

    here, absent = [], []
    for name in read_manifest():
        try:
            resolve(name)
            here.append(name)
        except FileNotFoundError:
            absent.append(name)
        except ValueError as error:
            yield "missing", str(error)
    yield "ok", f"networks: {', '.join(here)}"
    if absent:
        yield "note", f"networks of others, which are not fetched (naming one says where it is): {', '.join(absent)}"


@click.command(cls=OneLineCommand)
def main() -> None:
    """Say what this machine and this installation can do, and what is missing for which command."""
    marks = {"ok": "  ", "note": "- ", "missing": "! "}
    for state, line in findings(Path.cwd()):
        click.echo(f"{marks[state]}{line}")
    click.echo("! is missing, - is worth knowing.")


if __name__ == "__main__":
    main()
