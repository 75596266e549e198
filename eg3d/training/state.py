"""Exact state of a training run in one safetensors file: networks, optimisers, counters.

All random numbers follow from the seed and the counters. No pickle: tensors by name, everything else as JSON metadata.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from eg3d.safe_write import atomic_path
from eg3d.training.objective import Progress

FORMAT = "eg3d-training-state-1"


def save_state(
    path: str | Path,
    *,
    networks: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    progress: Progress,
    extra: dict[str, Any],
) -> None:
    """Write everything that the next step depends on; `extra` is JSON data checked again on loading by the caller."""
    tensors: dict[str, Tensor] = {}
    for name, network in networks.items():
        tensors |= {f"network/{name}/{key}": value for key, value in network.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, entry in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{key}": torch.as_tensor(value) for key, value in entry.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    metadata = {"format": FORMAT, "progress": json.dumps(asdict(progress)), "extra": json.dumps(extra)}
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary), metadata=metadata)


def load_state(
    path: str | Path,
    *,
    networks: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    progress: Progress,
) -> dict[str, Any]:
    """Put the state of `save_state` into the given objects; returns `extra`.

    Raises ValueError in one line when the file is not a training state or belongs to other networks.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own types for every kind of damage
        raise ValueError(f"{path}: not a readable training state ({error}); delete it to start anew") from None
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: format {metadata.get('format')!r}, expected {FORMAT!r}; delete it to start anew")
    foreign = {key.split("/")[1] for key in tensors if key.startswith("optimizer/")} - set(optimizers)
    if foreign:
        name = min(foreign)
        raise ValueError(f"{path}: has an optimiser {name} that this config lacks; use the run's own config.yaml")
    for name, network in networks.items():
        _load_network(path, name, network, _under(tensors, f"network/{name}/"))
    for name, optimizer in optimizers.items():
        _load_optimizer(optimizer, _under(tensors, f"optimizer/{name}/"))
    for key, value in json.loads(metadata["progress"]).items():
        setattr(progress, key, value)
    return json.loads(metadata["extra"])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _load_network(path: str | Path, name: str, network: nn.Module, found: dict[str, Tensor]) -> None:
    try:
        network.load_state_dict(found, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: {name} does not fit this config ({reason}); use the run's own config.yaml") from None


def _load_optimizer(optimizer: torch.optim.Optimizer, found: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in found.items():
        index, _, field = key.partition("/")
        state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
