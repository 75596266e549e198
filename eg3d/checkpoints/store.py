"""Networks in one .safetensors file: tensors named "<net>/<state-dict name>", configurations as JSON metadata.

Nothing in a file is executed or imported: a configuration is data for a dataclass that the loader chooses. Loaders take
published pickles too, through `pickle_networks`, which builds nothing but data from them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from eg3d.checkpoints.manifest import resolve
from eg3d.checkpoints.network_files import FORMAT, NetworkFile, read_metadata, read_tensors
from eg3d.checkpoints.pickle_networks import PublishedFile, is_published
from eg3d.checkpoints.plain_configs import Config, config_from_data
from eg3d.checkpoints.size_limits import size_faults
from eg3d.checkpoints.tensor_rules import at_most, check_tensors, listed, not_finite
from eg3d.config_checks import faults_of
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.generators.protocol import Generator
from eg3d.generators.registry import DEFAULT_KIND, GeneratorKind, generator_kind, kind_of
from eg3d.networks.discriminator import DiscriminatorConfig, DualDiscriminator
from eg3d.safe_write import atomic_path

__all__ = [
    "FORMAT",
    "config_from_data",
    "fill_module",
    "load_discriminator",
    "load_generator",
    "load_triplane_generator",
    "only_networks",
    "read_metadata",
    "read_tensors",
    "save_networks",
    "write_networks",
]
Module = TypeVar("Module", bound=nn.Module)
_SPARE_NUMBERS = 100_000  # that building a network may use beside its weights, above twice as many as those


def save_networks(
    path: str | os.PathLike[str],
    networks: Mapping[str, nn.Module],
    *,
    configs: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write networks and the configuration (dataclass) of each to one file, atomically.

    configs has a key for every network; `extra` is any JSON data worth keeping beside the weights. Raises ValueError,
    and writes nothing, where a weight is not finite: no reader would take the file.
    """
    missing = [name for name in networks if name not in configs]
    if missing:
        raise ValueError(f"no configuration for {', '.join(missing)}; configs has {', '.join(configs) or 'none'}")
    tensors = {
        f"{net}/{name}": tensor.detach().cpu().contiguous().clone()
        for net, module in networks.items()
        for name, tensor in module.state_dict().items()
    }
    infinite = not_finite(tensors.items())
    if infinite:
        raise ValueError(f"{path}: not written, there are NaN or infinite numbers in {listed(infinite)}")
    write_networks(path, tensors, configs=configs, extra=extra)


def write_networks(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    configs: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write tensors of any shape that have their names "<net>/<state-dict name>" already; they must share no memory."""
    kinds = {name: kind for name, cfg in configs.items() if (kind := kind_of(cfg)) is not None}
    metadata = {
        "format": FORMAT,
        "kinds": json.dumps(kinds),
        "configs": json.dumps({name: dataclasses.asdict(cfg) for name, cfg in configs.items()}),
        "extra": json.dumps(dict(extra or {})),
    }
    with atomic_path(path) as temporary:
        save_file(dict(tensors), temporary, metadata=metadata)


def only_networks(source: str | os.PathLike[str], target: Path, names: Sequence[str]) -> Path:
    """Copy these networks of a file of save_networks, with what it says of them, to `target`; returns that.

    Raises ValueError where it lacks one.
    """
    metadata = read_metadata(Path(source))
    missing = [name for name in names if name not in metadata["configs"]]
    if missing:
        raise ValueError(f"{source}: no network {', '.join(missing)}; it has {', '.join(metadata['configs'])}")
    tensors = {f"{net}/{name}": value for net in names for name, value in read_tensors(source, net).items()}
    tables = {key: {net: value for net, value in metadata[key].items() if net in names} for key in ("kinds", "configs")}
    texts = {key: json.dumps(table) for key, table in {**tables, "extra": metadata["extra"]}.items()}
    with atomic_path(target) as temporary:
        save_file(tensors, temporary, metadata={"format": FORMAT, **texts})
    return target


def load_generator(
    path_or_name: str | os.PathLike[str], *, net: str = "G_ema", device: str | torch.device = "cpu"
) -> Generator:
    """The generator `net` of a file (.safetensors or a published .pkl) or manifest name, in evaluation mode.

    What kind of generator it is, the file says; files without a word are EG3D's.
    """
    path = resolve(path_or_name)
    kind, cfg, tensors = _read_generator(path, net)
    return _loaded(kind.build, cfg, tensors, f"{path}, {net}").to(device)


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
    if is_published(path):
        cfg, tensors = _published(path, net, DiscriminatorConfig)
    else:
        with NetworkFile(path) as file:
            cfg, tensors = file.config(net, DiscriminatorConfig, file.metadata()), file.tensors(net)
    return _loaded(DualDiscriminator, cfg, tensors, f"{path}, {net}").to(device)


def fill_module(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy a state dict into a module; names and sizes must be exactly those of the module, and all numbers finite.

    Raises ValueError, as check_tensors does, with every fault in one line that begins with `source`.
    """
    check_tensors(tensors, module.state_dict(), source)
    module.load_state_dict(tensors)


def _loaded(build: Callable[[Config], Module], cfg: Config, tensors: Mapping[str, Tensor], source: str) -> Module:
    """A network of this configuration with these weights, in evaluation mode; it is not built unless they may fit."""
    faults = size_faults(cfg) or faults_of(cfg)
    if faults:
        raise ValueError(f"{source}: {'; '.join(faults)}")
    try:
        with at_most(2 * sum(tensor.numel() for tensor in tensors.values()) + _SPARE_NUMBERS):
            module = build(cfg)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    fill_module(module, tensors, source)
    return module.eval()


def _read_generator(path: Path, net: str) -> tuple[GeneratorKind, Any, dict[str, Tensor]]:
    """What kind of generator it is, its configuration and its state dict."""
    if is_published(path):
        kind = generator_kind(DEFAULT_KIND)
        return kind, *_published(path, net, kind.Config)
    with NetworkFile(path) as file:
        metadata = file.metadata()
        try:
            kind = generator_kind(metadata["kinds"].get(net, DEFAULT_KIND))
        except ValueError as error:
            raise ValueError(f"{path}, {net}: {error}") from None
        return kind, file.config(net, kind.Config, metadata), file.tensors(net)


def _published(path: Path, net: str, cls: type[Config]) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and state dict of one network of a published pickle."""
    network = PublishedFile(path).network(net)
    if not isinstance(network.config, cls):
        raise ValueError(f"{path}: {net} is described by a {type(network.config).__name__}, not a {cls.__name__}")
    try:
        return network.config, network.state()
    except ValueError as error:
        raise type(error)(f"{path}, {net}: {error}") from None
