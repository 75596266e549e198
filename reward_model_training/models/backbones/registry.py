"""The table of backbones. A backbone is one file: its config, its network, and which tensors the network reads.

    @dataclass
    class ToyConfig(BackboneConfig):
        name: str = "toy"

    @backbone(ToyConfig, input_kind="volume")
    class Toy(nn.Module): ...

The config says the length of the feature (`feature_size`); the network is made from it and maps its input to an
`Encoding`. A new backbone is its file and its line in MODULES.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from eg3d.config_families import FamilyConfig

MODULES = ("reward_model_training.models.backbones.sigma_unet3d",)
Network = TypeVar("Network", bound=type[nn.Module])


class Encoding(NamedTuple):
    """What a backbone makes of its input."""

    feature: Tensor  # [N, F]
    reconstruction: Tensor | None  # of the input, in its shape; None where the network gives none


@dataclass
class BackboneConfig(FamilyConfig):
    """Settings of an encoder; each backbone has its own."""

    @classmethod
    def members(cls) -> dict[str, type[FamilyConfig]]:
        return {name: entry.config for name, entry in backbones().items()}

    @property
    def feature_size(self) -> int:
        """Length F of the feature."""
        raise NotImplementedError(f"{type(self).__name__} does not say its feature_size")


class BackboneEntry(NamedTuple):
    """One backbone of the table."""

    config: type[BackboneConfig]
    network: Callable[[Any], nn.Module]  # from its config
    input_kind: str  # of representations.protocol; a "volume" reaches it as [N, 1, Z, Y, X]
    reconstructs: bool  # whether Encoding.reconstruction is there
    state_prefix: str  # under which its weights stand in a reward model


_entries: dict[str, BackboneEntry] = {}


def backbones() -> dict[str, BackboneEntry]:
    """All known backbones by name."""
    for module in MODULES:
        importlib.import_module(module)
    return dict(_entries)


def backbone(
    config: type[BackboneConfig], *, input_kind: str, reconstructs: bool = False, state_prefix: str = "encoder"
) -> Callable[[Network], Network]:
    """Put a network class into the table, under the name that its config says. Raises ValueError if it is taken."""

    def register(network: Network) -> Network:
        name = config().name
        if name in _entries:
            raise ValueError(f"backbone {name!r} is registered twice")
        _entries[name] = BackboneEntry(config, network, input_kind, reconstructs, state_prefix)
        return network

    return register
