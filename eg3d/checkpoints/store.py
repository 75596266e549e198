"""Networks in one .safetensors file: tensors named "<net>/<state-dict name>", configurations as JSON metadata.

Nothing in a file is executed or imported: a configuration is data for a dataclass that the loader chooses. Loaders take
published pickles too, through `pickle_networks`, which builds nothing but data from them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from eg3d.checkpoints.manifest import resolve
from eg3d.checkpoints.pickle_networks import PublishedFile, is_published
from eg3d.config_families import is_family, member_class
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.generators.protocol import Generator
from eg3d.generators.registry import DEFAULT_KIND, generator_kind, kind_of
from eg3d.networks.discriminator import DiscriminatorConfig, DualDiscriminator
from eg3d.safe_write import atomic_path

FORMAT = "eg3d-networks-1"
Config = TypeVar("Config")


def save_networks(
    path: str | os.PathLike[str],
    networks: Mapping[str, nn.Module],
    *,
    configs: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write networks and the configuration (dataclass) of each to one file, atomically.

    configs has a key for every network; `extra` is any JSON data worth keeping beside the weights.
    """
    missing = [name for name in networks if name not in configs]
    if missing:
        raise ValueError(f"no configuration for {', '.join(missing)}; configs has {', '.join(configs) or 'none'}")
    tensors = {
        f"{net}/{name}": tensor.detach().cpu().contiguous().clone()
        for net, module in networks.items()
        for name, tensor in module.state_dict().items()
    }
    write_networks(path, tensors, configs=configs, extra=extra)


def write_networks(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    configs: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write tensors that already have their names "<net>/<state-dict name>"; they must share no memory."""
    kinds = {name: kind for name, cfg in configs.items() if (kind := kind_of(cfg)) is not None}
    metadata = {
        "format": FORMAT,
        "kinds": json.dumps(kinds),
        "configs": json.dumps({name: dataclasses.asdict(cfg) for name, cfg in configs.items()}),
        "extra": json.dumps(dict(extra or {})),
    }
    with atomic_path(path) as temporary:
        save_file(dict(tensors), temporary, metadata=metadata)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Format, configs (plain dictionaries by network), kinds of its generators and extra of a file.

    Raises ValueError if it is not a file of `save_networks`, FileNotFoundError if there is none.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a network file: format is {metadata.get('format')!r}, expected {FORMAT!r}")
    try:
        found = {key: json.loads(metadata[key]) for key in ("configs", "extra")}
        return {"format": FORMAT, "kinds": json.loads(metadata.get("kinds", "{}")), **found}
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: its metadata is damaged ({error}); write the file again") from None


def load_generator(
    path_or_name: str | os.PathLike[str], *, net: str = "G_ema", device: str | torch.device = "cpu"
) -> Generator:
    """The generator `net` of a file (.safetensors or a published .pkl) or manifest name, in evaluation mode.

    What kind of generator it is, the file says; files without a word are EG3D's.
    """
    path = resolve(path_or_name)
    kind = generator_kind(DEFAULT_KIND if is_published(path) else _kind_name(path, net))
    cfg: Any
    cfg, tensors = _network(path, net, kind.Config)
    G = kind.build(cfg)
    fill_module(G, tensors, f"{path}, {net}")
    return G.eval().to(device)


def load_triplane_generator(
    path_or_name: str | os.PathLike[str], *, net: str = "G_ema", device: str | torch.device = "cpu"
) -> TriPlaneGenerator:
    """As load_generator, for what works with EG3D alone. Raises ValueError for generators of another kind."""
    G = load_generator(path_or_name, net=net, device=device)
    if not isinstance(G, TriPlaneGenerator):
        raise ValueError(f"{path_or_name}, {net}: a {type(G).__name__}; this needs a generator of EG3D")
    return G


def load_discriminator(
    path_or_name: str | os.PathLike[str], *, net: str = "D", device: str | torch.device = "cpu"
) -> DualDiscriminator:
    """The discriminator `net` of a file (.safetensors or a published .pkl) or manifest name, in evaluation mode."""
    path = resolve(path_or_name)
    cfg, tensors = _network(path, net, DiscriminatorConfig)
    D = DualDiscriminator(cfg)
    fill_module(D, tensors, f"{path}, {net}")
    return D.eval().to(device)


def read_tensors(path: str | os.PathLike[str], net: str) -> dict[str, Tensor]:
    """State dict of one network of a file. Raises ValueError, naming those it has, when there is no such network."""
    with _opened(path) as file:
        names = list(file.keys())
        own = [name for name in names if name.startswith(f"{net}/")]
        if not own:
            nets = sorted({name.split("/")[0] for name in names if "/" in name})
            raise ValueError(f"{path} holds no network {net!r}; it holds {', '.join(nets) or 'none'}")
        return {name.removeprefix(f"{net}/"): file.get_tensor(name) for name in own}


def fill_module(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module; names and shapes must be exactly those of the module.

    Raises ValueError with every missing, unknown and mis-shaped name in one line.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    misshaped = [
        f"{name} {list(tensor.shape)} instead of {list(expected[name].shape)}"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    faults = [
        f"{label}: {', '.join(names)}"
        for label, names in (("missing", missing), ("unknown", unknown), ("mis-shaped", misshaped))
        if names
    ]
    if faults:
        raise ValueError(f"{source}: the tensors do not fit the network; {'; '.join(faults)}")
    module.load_state_dict(tensors)


def config_from_data(cls: type[Config], data: Mapping[str, Any], source: str) -> Config:
    """An instance of a config dataclass (nested ones too) from plain data; unknown keys are a ValueError.

    Keys that are absent take their defaults, so that files outlive new fields. Where one of a family of configs is
    expected, the data's `name` says which.
    """
    if is_family(cls):
        cls = member_class(cls, data, source)  # type: ignore[type-var]
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [key for key in data if key not in known]
    if unknown:
        there = ", ".join(sorted(known))
        raise ValueError(f"{source}: {cls.__name__} has no field {', '.join(unknown)}; it has {there}")
    values = {}
    for key, value in data.items():
        hint = hints[key]
        is_nested = dataclasses.is_dataclass(hint) and isinstance(value, Mapping)
        values[key] = config_from_data(hint, value, f"{source}, {key}") if is_nested else value
        if typing.get_origin(hint) is tuple:
            values[key] = tuple(value)
    return cls(**values)


def _network(path: Path, net: str, cls: type[Config]) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and state dict of one network of a file of either format."""
    if not is_published(path):
        return _config(path, net, cls), read_tensors(path, net)
    network = PublishedFile(path).network(net)
    if not isinstance(network.config, cls):
        raise ValueError(f"{path}: {net} is described by a {type(network.config).__name__}, not a {cls.__name__}")
    try:
        return network.config, network.state()
    except ValueError as error:
        raise type(error)(f"{path}, {net}: {error}") from None


def _kind_name(path: Path, net: str) -> str:
    kinds = read_metadata(path)["kinds"]
    return str(kinds.get(net, DEFAULT_KIND)) if isinstance(kinds, dict) else DEFAULT_KIND


def _config(path: Path, net: str, cls: type[Config]) -> Config:
    configs = read_metadata(path)["configs"]
    if net not in configs:
        raise ValueError(f"{path} holds no configuration of {net!r}; it holds {', '.join(configs) or 'none'}")
    return config_from_data(cls, configs[net], f"{path}, {net}")


def _opened(path: str | os.PathLike[str]) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no network file at {path}")
    try:
        return safe_open(str(path), framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
