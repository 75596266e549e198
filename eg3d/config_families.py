"""Families of configs of which a command takes one: a backbone, a transform, a representation.

A family is a base dataclass; its members subclass it and say their name as the default of `name`. A config holds the
chosen member in a field of the base's type:

    @dataclass
    class ModelConfig:
        backbone: BackboneConfig = field(default_factory=SigmaUNetConfig)

On the command line `model/backbone=NAME` chooses and `model.backbone.f_maps=[4,8]` sets; see hydra_command. In a file a
member is plain data with its name; see config_from_data.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from eg3d.config_checks import one_of

Family = TypeVar("Family", bound="FamilyConfig")


@dataclass
class FamilyConfig:
    """Base of a family's configs."""

    name: str = ""  # which member these settings belong to

    @classmethod
    def members(cls) -> Mapping[str, type[FamilyConfig]]:
        """Every member's config by its name, of the family that `cls` is the base of."""
        raise NotImplementedError(f"{cls.__name__} does not say which members it has")

    def validate(self) -> list[str]:
        """All faults of this config, one string each; members add their own."""
        own = type(self).__dataclass_fields__["name"].default
        if self.name == own:
            return []
        return [f"name: these are the settings of {own!r}, not of {self.name!r}; choose another with GROUP=NAME"]


def is_family(kind: Any) -> bool:
    """Whether a type is the base of a family: a config of which a member is to be chosen."""
    return isinstance(kind, type) and issubclass(kind, FamilyConfig) and FamilyConfig in kind.__bases__


def families_of(schema: type, prefix: str = "") -> dict[str, type[FamilyConfig]]:
    """Base of every family that a config takes a member of, by the path of its field, as `model.backbone`."""
    found: dict[str, type[FamilyConfig]] = {}
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind = hints[field.name]
        if is_family(kind):
            found[f"{prefix}{field.name}"] = kind
        elif dataclasses.is_dataclass(kind):
            found |= families_of(typing.cast(type, kind), f"{prefix}{field.name}.")
    return found


def member_class(family: type[Family], data: Mapping[str, Any], source: str) -> type[Family]:
    """The config class that plain data with a `name` belongs to. Raises ValueError with the names there are."""
    members = family.members()
    name = data.get("name")
    if faults := one_of("name", str(name), tuple(members)):
        raise ValueError(f"{source}, {faults[0]}")
    return typing.cast("type[Family]", members[str(name)])
