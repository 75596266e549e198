"""What a reward looks at: a tensor made of a sample. Its settings are plain data that travel with every reward.

A new representation is a dataclass in a module of this package, decorated with `register`, and a line in MODULES. They
are a family of configs: a command chooses one as `data/representation=NAME`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from eg3d.config_families import FamilyConfig
from eg3d.generators.protocol import Generator
from eg3d.samples import Sample

MODULES = (
    "eg3d.representations.sigma_field",
    "eg3d.representations.depth_map",
    "eg3d.representations.point_cloud",
    "eg3d.representations.rgb",
)


@dataclass
class Representation(FamilyConfig):
    """Base of all representations: the fields of a subclass are its settings, its methods say what they mean.

    The field `name` is its name in configs, bundles and tables.
    """

    input_kind: ClassVar[str]  # what its tensor is: volume | maps | points | images; which backbones can read it
    is_differentiable: ClassVar[bool] = True  # whether gradients reach the generator

    @classmethod
    def members(cls) -> dict[str, type[FamilyConfig]]:
        return dict(representations())

    def extract(self, G: Generator, sample: Sample) -> Tensor:
        """The representation [N, *shape] of N samples of `G`, float32 (float64 where the field is)."""
        raise NotImplementedError

    def shape(self, G: Generator | None = None) -> tuple[int, ...]:
        """Shape of one sample's tensor. `G` is needed only where its sizes decide."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Name and settings as plain data; `representation_from` makes the same representation of it."""
        return asdict(self)

    def key(self) -> str:
        """Short text that differs wherever the numbers may."""
        text = json.dumps(self.settings(), sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


RepresentationClass = TypeVar("RepresentationClass", bound=type[Representation])
_known: dict[str, type[Representation]] = {}


def register(made: RepresentationClass) -> RepresentationClass:
    """Class decorator: make a representation known by its name."""
    _known[made().name] = made
    return made


def representations() -> dict[str, type[Representation]]:
    """All known representations by name."""
    for module in MODULES:
        importlib.import_module(module)
    return dict(_known)


def representation_from(settings: dict[str, Any]) -> Representation:
    """The representation that `settings()` described. Raises ValueError, in one line, for anything else."""
    known, name = representations(), settings.get("name")
    if name not in known:
        raise ValueError(f"representation {name!r} is not one of {', '.join(sorted(known))}")
    given = {key: value for key, value in settings.items() if key != "name"}
    names = {field.name for field in fields(known[name])}
    unknown = sorted(set(given) - names)
    if unknown:
        raise ValueError(f"representation {name}: unknown settings {', '.join(unknown)}; it has {', '.join(names)}")
    representation = known[name](**given)
    faults = representation.validate()
    if faults:
        raise ValueError(f"representation {name}: {'; '.join(faults)}")
    return representation
