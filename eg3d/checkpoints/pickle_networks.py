"""Published EG3D networks (records of a pickle) as networks of this project: configuration and tensors.

Every tensor has to find its place; what is missing or unknown is an error that lists it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eg3d.checkpoints.inert_pickle import RefusedPickleError, refuse, shown
from eg3d.checkpoints.inert_tensors import InertTensor, Storage, as_tensor, strided
from eg3d.checkpoints.pickle_configs import discriminator_config, generator_config
from eg3d.checkpoints.pickle_records import Record, read_published
from eg3d.checkpoints.tensor_rules import listed, misfits, not_finite
from eg3d.config_checks import faults_of
from eg3d.generators.eg3d import GeneratorConfig, TriPlaneGenerator
from eg3d.networks.discriminator import DiscriminatorConfig, DualDiscriminator
from eg3d.networks.resampling import make_resample_filter

GENERATORS, DISCRIMINATORS = ("G_ema", "G"), ("D",)
NETWORKS = (*GENERATORS, *DISCRIMINATORS)
_ACTIVATIONS = ("linear", "lrelu")

Config = GeneratorConfig | DiscriminatorConfig


@dataclass(frozen=True)
class PublishedNetwork:
    """A network of a published file: our configuration, and the tensors of our state dict still in the file."""

    config: Config
    tensors: dict[str, InertTensor]  # exactly the names and shapes of the state dict
    class_sources: dict[str, str]  # class name -> SHA-256 of the source that the file carries for it

    def state(self) -> dict[str, Tensor]:
        """The state dict, copied out of the file. Raises RefusedPickleError if a number is not finite."""
        state = {name: tensor.tensor() for name, tensor in self.tensors.items()}
        check_finite(state.items())
        return state

    def check_finite(self) -> None:
        """Raise RefusedPickleError if a number is not finite, one tensor after another."""
        check_finite((name, tensor.tensor()) for name, tensor in self.tensors.items())


def check_finite(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse NaN and infinity in any of (name, tensor of any shape) pairs, listing where they are."""
    bad = not_finite(tensors)
    if bad:
        refuse(f"has NaN or infinite numbers in {listed(bad)}")


class PublishedFile:
    """The networks of a published pickle, read without running anything. Faults are RefusedPickleErrors of one line."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.root = read_published(path)
        self.networks = tuple(name for name in NETWORKS if isinstance(self.root.get(name), Record))
        if not self.networks:
            raise RefusedPickleError(f"{self.path} holds none of the networks {', '.join(NETWORKS)}")

    def network(self, net: str) -> PublishedNetwork:
        """One network by its name in the file. Raises ValueError when there is none or it does not fit ours."""
        if net not in self.networks:
            raise RefusedPickleError(f"{self.path} holds no network {net!r}; it holds {', '.join(self.networks)}")
        try:
            return _network(self.root[net], is_generator=net in GENERATORS, budget=self.path.stat().st_size)
        except RefusedPickleError as error:
            raise RefusedPickleError(f"{self.path}, {net}: {error}") from None

    def augmentation(self) -> dict[str, Any]:
        """Augmentation at the end of training: its strength `p` and settings, empty if there was none."""
        pipe = self.root.get("augment_pipe")
        if not isinstance(pipe, Record):
            return {}
        try:
            strength = as_tensor(pipe.tensors("_buffers").get("p"))
        except RefusedPickleError as error:
            raise RefusedPickleError(f"{self.path}, augment_pipe: {error}") from None
        settings = {name: value for name, value in pipe.state.items() if type(value) in (int, float)}
        p = float(strength.tensor()) if strength is not None and strength.numel == 1 else 0.0
        return {"p": p if math.isfinite(p) else 0.0, "settings": _plain(settings)}

    def training_set(self) -> dict[str, Any]:
        """What the file says about its training images, as plain data."""
        kwargs = self.root.get("training_set_kwargs")
        return _plain(kwargs) if isinstance(kwargs, dict) else {}


def is_published(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a pickle."""
    return Path(path).suffix.lower() in (".pkl", ".pickle")


def _plain(value: Any) -> Any:
    """JSON data of a value of a file; what is neither text, number nor container of them is named, not kept."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, type(None))) else f"<{type(value).__name__}>"


# ---------------------------------------------------------------------------------------------- a network


def _network(root: Record, *, is_generator: bool, budget: int) -> PublishedNetwork:
    """A network whose tensors take at most `budget` bytes: a file cannot hold more than its own size."""
    tensors = dict(_flat(root))
    config: Config = generator_config(root, tensors) if is_generator else discriminator_config(root, tensors)
    faults = faults_of(config)
    if faults:
        refuse(f"has settings that fit no network here: {'; '.join(faults)}")
    for name, values in _unread(config).items():
        tensors.setdefault(name, values)
    placed = _placed(config, tensors)
    if sum(tensor.numel * tensor.dtype.itemsize for tensor in placed.values()) > budget:
        refuse("has tensors that share their numbers and would be larger than the file")
    return PublishedNetwork(config, placed, _class_sources(root))


def _walk(record: Record, prefix: str = "") -> Iterator[tuple[str, Record]]:
    yield prefix, record
    for name, child in record.children().items():
        if not isinstance(child, Record):
            refuse(f"has a {type(child).__name__} where the sub-module {shown(prefix + name)} belongs")
        yield from _walk(child, f"{prefix}{name}.")


def _flat(root: Record) -> Iterator[tuple[str, InertTensor]]:
    """State-dict names and tensors of a network."""
    for prefix, record in _walk(root):
        activation = record.state.get("activation")
        if isinstance(activation, str) and activation not in _ACTIVATIONS:
            refuse(f"has the activation {shown(activation)} in {shown(prefix)}; known are {', '.join(_ACTIVATIONS)}")
        for kind in ("_parameters", "_buffers"):
            for name, value in record.tensors(kind).items():
                tensor = as_tensor(value)
                if tensor is None:
                    refuse(f"has a {type(value).__name__} where the tensor {shown(prefix + name)} belongs")
                yield prefix + name, tensor


def _class_sources(root: Record) -> dict[str, str]:
    found = {record.class_name: record.source_sha256 for _, record in _walk(root)}
    return {name: digest for name, digest in sorted(found.items()) if digest}


def _unread(config: Config) -> dict[str, InertTensor]:
    """Buffers that nothing reads and not every file has: the spread of the training labels; the filter at the top of a
    discriminator, which SingleDiscriminator does without."""
    if isinstance(config, GeneratorConfig):
        return {"dataset_label_std": _constant(torch.zeros(config.c_dim))}
    return {} if config.dual_discrimination else {"resample_filter": _constant(make_resample_filter())}


def _placed(config: Config, tensors: Mapping[str, InertTensor]) -> dict[str, InertTensor]:
    """The tensors of the state dict of a network of this configuration, in its order; refuses any misfit."""
    expected = _expected(config)
    faults = misfits(tensors, expected)
    if faults:
        refuse(f"holds tensors that do not fit the network; {'; '.join(faults)}")
    return {name: tensors[name] for name in expected}


def _expected(config: Config) -> dict[str, Tensor]:
    """State dict of such a network, without memory behind it."""
    try:
        with torch.device("meta"):
            is_generator = isinstance(config, GeneratorConfig)
            module = TriPlaneGenerator(config) if is_generator else DualDiscriminator(config)  # type: ignore[arg-type]
    except ValueError as error:
        refuse(f"describes a network that cannot be built: {error}")
    return module.state_dict()


def _constant(values: Tensor) -> InertTensor:
    data = memoryview(bytearray(values.contiguous().numpy().tobytes()))
    return strided(Storage("Float", data), 0, tuple(values.shape), values.stride())
