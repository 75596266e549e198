"""Snapshots of a run: networks that any command loads, named by the images shown, network-snapshot-000000320."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from eg3d.checkpoints.store import read_metadata, save_networks
from eg3d.run_folder import command_line

PATTERN = re.compile(r"network-snapshot-(\d{9})\.safetensors")


@dataclass(frozen=True)
class TrainingRun:
    """Where a run left its results."""

    folder: Path
    snapshot: Path
    num_images: int
    ended: str = ""  # why it ended before its length; empty = it did not
    best: Path | None = None  # the networks that a judge liked best, where there is one


def snapshot_path(folder: Path, num_images: int) -> Path:
    """Where the snapshot of a run after so many images lies; names sort by them."""
    return folder / f"network-snapshot-{num_images:09d}.safetensors"


def newest_snapshot(folder: Path) -> Path | None:
    """The last snapshot in a folder that can be read, as `start` takes it; None where there is none."""
    for path in sorted((path for path in folder.iterdir() if PATTERN.fullmatch(path.name)), reverse=True):
        try:
            read_metadata(path)
        except (ValueError, OSError):
            continue
        return path
    return None


def save_snapshot(
    path: Path,
    networks: Mapping[str, nn.Module],
    *,
    neural_resolution: int,
    num_images: int,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write networks with their configs; generators get the neural resolution that they are trained to by now.

    facts: plain data that is worth keeping beside the number of images and the command.
    """
    configs: dict[str, Any] = {name: network.cfg for name, network in networks.items()}
    for name in ("G", "G_ema"):
        configs[name] = dataclasses.replace(configs[name], neural_rendering_resolution=neural_resolution)
    extra = {"num_images": num_images, "command": command_line(), **(facts or {})}
    save_networks(path, networks, configs=configs, extra=extra)
