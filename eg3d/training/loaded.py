"""Networks that are loaded as their file has them: what of them may change, and settings that would have no effect."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from torch import nn

from eg3d.checkpoints.plain_configs import config_from_data
from eg3d.checkpoints.size_limits import size_faults
from eg3d.config_checks import faults_of
from eg3d.generators.eg3d import GeneratorConfig
from eg3d.networks.discriminator import DiscriminatorConfig

RENDERING, PRECISION = "rendering", "precision"
Config = TypeVar("Config", GeneratorConfig, DiscriminatorConfig)


def change_faults(changes: Mapping[str, Any]) -> list[str]:
    """Faults of start_changes that show without the file, as lines: names that may not change, wrong values."""
    flat = flattened(changes)
    unknown = [name for name in flat if name != PRECISION and not name.startswith(f"{RENDERING}.")]
    known = {field.name for field in dataclasses.fields(GeneratorConfig().rendering)}
    unknown += [name for name in flat if name.startswith(f"{RENDERING}.") and name.split(".", 1)[1] not in known]
    if unknown:
        there = ", ".join([PRECISION, *(f"{RENDERING}.{name}" for name in sorted(known))])
        return [f"start_changes: {', '.join(unknown)} cannot change, since the file decides; what can is {there}"]
    try:
        changed(GeneratorConfig(), changes)
    except ValueError as error:
        return [str(error)]
    return []


def changed(cfg: Config, changes: Mapping[str, Any]) -> Config:
    """`cfg` with those of the changes that it has fields for. Raises ValueError, in one line, for impossible values."""
    flat, data = flattened(changes), dataclasses.asdict(cfg)
    if PRECISION in flat:
        data[PRECISION] = flat[PRECISION]
    if isinstance(cfg, GeneratorConfig):
        parts = {name.split(".", 1)[1]: value for name, value in flat.items() if name.startswith(f"{RENDERING}.")}
        data[RENDERING] |= parts
    made = config_from_data(type(cfg), data, "start_changes")
    faults = size_faults(made) or faults_of(made)
    if faults:
        raise ValueError("; ".join(f"start_changes.{fault}" for fault in faults))
    return made


def with_changes(network: nn.Module, changes: Mapping[str, Any]) -> nn.Module:
    """The network of a file with changes: the same weights in a network of the changed config."""
    if not changes:
        return network
    cfg: Any = network.cfg
    made: nn.Module = type(network)(changed(cfg, changes))  # type: ignore[call-arg]
    made.load_state_dict(network.state_dict())
    return made.train(network.training)


def check_told(group: str, told: Config, found: Config, *, given: Collection[str], source: str) -> None:
    """Raise ValueError when a setting of `told` would have no effect, because the file of `found` has another value.

    A setting counts as told when it is not its default, or among the dotted names `given`.
    """
    here, there = (flattened(dataclasses.asdict(cfg)) for cfg in (told, found))
    default = flattened(dataclasses.asdict(type(told)()))
    wrong = [
        f"{group}.{name}={value} ({there.get(name)} there)"
        for name, value in here.items()
        if value != there.get(name) and (value != default.get(name) or f"{group}.{name}" in given)
    ]
    if wrong:
        raise ValueError(
            f"start: {source} decides with start_config=file, and differs from {', '.join(wrong)}; leave that out, "
            "give precision or rendering in start_changes, or start_config=own for networks of this config"
        )


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; names that are dotted already stay as they are; tuples are lists."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found
