"""Exact state of a training run in one safetensors file: networks, optimisers, counters, statistics, and a checksum;
what else a run keeps (the history of a judge, say) is there where it has any.

All random numbers follow from the seed and the counters. No pickle: tensors by name, everything else as JSON metadata.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from eg3d.checkpoints.tensor_rules import check_tensors
from eg3d.one_line import one_line
from eg3d.safe_write import atomic_path
from eg3d.training.counters import Counters
from eg3d.training.snapshots import newest_snapshot

FORMAT = "eg3d-training-state-3"
STATE_NAME = "state.safetensors"
PENDING = "pending/"  # prefix of statistics
Networks = Mapping[str, nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer]


class Kept(Protocol):
    """What a run knows besides networks, optimisers and counters."""

    def state(self) -> dict[str, Any]:
        """It as plain data, which JSON holds exactly."""

    def restore(self, values: dict[str, Any]) -> None:
        """Go on from what `state` gave. Raises ValueError, KeyError or TypeError for anything else."""


def save_training_state(
    path: str | Path,
    *,
    networks: Networks,
    optimizers: Optimizers,
    counters: Counters,
    kept: Mapping[str, Kept] | None = None,
    pending: Mapping[str, Tensor] | None = None,
) -> None:
    """Write all that the next step depends on, and the statistics `pending` [processes, K] since the last tick."""
    tensors: dict[str, Tensor] = {f"{PENDING}{name}": values for name, values in (pending or {}).items()}
    for name, network in networks.items():
        tensors |= {f"network/{name}/{key}": value for key, value in network.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, entry in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{key}": torch.as_tensor(value) for key, value in entry.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    facts = {
        "format": FORMAT,
        "optimizers": json.dumps(sorted(optimizers)),  # one that has made no step yet has no tensors
        "counters": json.dumps(dataclasses.asdict(counters)),
    }
    if kept:
        facts["kept"] = json.dumps({name: part.state() for name, part in kept.items()}, allow_nan=False)
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary), metadata={**facts, "sha256": checksum(tensors, facts)})


def load_training_state(
    path: str | Path,
    *,
    networks: Networks,
    optimizers: Optimizers,
    counters: Counters,
    kept: Mapping[str, Kept] | None = None,
) -> dict[str, Tensor]:
    """Put a saved state into the given objects; returns the statistics [processes, K] that were pending.

    Raises ValueError in one line, which names the file and what else the run can go on from, when the file is damaged,
    lacks something or belongs to other networks or optimisers; damage is found before anything is changed.
    """
    path = Path(path)
    tensors, facts = _read(path)
    try:
        _check_names("network", {key.split("/")[1] for key in tensors if key.startswith("network/")}, set(networks))
        _check_names("optimiser", set(json.loads(facts["optimizers"])), set(optimizers))
        counted = _counted(json.loads(facts["counters"]))
        _restore(kept or {}, json.loads(facts.get("kept", "{}")))
        for name, network in networks.items():
            _load_network(name, network, _under(tensors, f"network/{name}/"))
        for name, optimizer in optimizers.items():
            _load_optimizer(optimizer, _under(tensors, f"optimizer/{name}/"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}; use the run's own config.yaml, or {_remedy(path)}") from None
    for key, value in counted.items():
        setattr(counters, key, value)
    return _under(tensors, PENDING)


def checksum(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """SHA-256 over the facts, and over name, type, shape and bytes of every tensor, of any shapes."""
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts of a file, whole."""
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own types for every kind of damage
        reason = one_line(error)
        raise ValueError(f"{path}: not a readable training state ({reason}); {_remedy(path)}") from None
    if facts.get("format") != FORMAT:
        raise ValueError(f"{path}: format {facts.get('format')!r}, expected {FORMAT!r}; {_remedy(path)}")
    if facts.pop("sha256", None) != checksum(tensors, facts):
        raise ValueError(f"{path}: damaged, its checksum is that of another content; {_remedy(path)}")
    return tensors, facts


def _remedy(path: Path) -> str:
    snapshot = newest_snapshot(path.parent)
    if snapshot is None:
        return f"there is no snapshot to go on from: delete {path.parent} to start anew"
    return f"the newest whole snapshot is {snapshot}: go on from its networks with start={snapshot} and another out"


def _check_names(kind: str, found: set[str], wanted: set[str]) -> None:
    if found - wanted:
        raise ValueError(f"has the {kind} {', '.join(sorted(found - wanted))} that this config lacks")
    if wanted - found:
        raise ValueError(f"lacks the {kind} {', '.join(sorted(wanted - found))}")


def _restore(kept: Mapping[str, Kept], found: dict[str, dict[str, Any]]) -> None:
    """Hand every part what the file has of it."""
    _check_names("part", set(found), set(kept))
    for name, part in kept.items():
        try:
            part.restore(found[name])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"its {name} cannot go on ({one_line(error)[:100]})") from None


def _counted(values: dict[str, Any]) -> dict[str, Any]:
    """The counters of a file, checked by name and kind."""
    kinds = {name: type(value) for name, value in vars(Counters()).items()}
    _check_names("counter", set(values), set(kinds))
    wrong = [name for name, value in values.items() if not _is_counted(value, kinds[name])]
    if wrong:
        raise ValueError(f"has a counter {wrong[0]} of {values[wrong[0]]!r}")
    return values


def _is_counted(value: Any, kind: type) -> bool:
    """Whether a value can be that of a counter: a number below 10^18, or whole ones by name."""
    if kind is dict:
        return isinstance(value, dict) and all(_is_counted(number, int) for number in value.values())
    is_number = isinstance(value, (float, int)) and isinstance(value, (kind, int)) and not isinstance(value, bool)
    return is_number and value < 1e18


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _load_network(name: str, network: nn.Module, found: dict[str, Tensor]) -> None:
    check_tensors(found, network.state_dict(), name)
    network.load_state_dict(found)


def _load_optimizer(optimizer: torch.optim.Optimizer, found: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in found.items():
        index, _, field = key.partition("/")
        state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
