"""A published pickle written again as safetensors: every tensor as it is, settings as JSON, no code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from eg3d.checkpoints.inert_pickle import RefusedPickleError
from eg3d.checkpoints.inert_tensors import InertTensor
from eg3d.checkpoints.pickle_networks import GENERATORS, PublishedFile, PublishedNetwork, is_published
from eg3d.checkpoints.store import write_networks
from eg3d.file_hash import sha256_of


@dataclass(frozen=True)
class Converted:
    """What was written."""

    networks: dict[str, PublishedNetwork]
    left_out: dict[str, str]  # network -> why it could not be read
    source_sha256: str


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    networks: Sequence[str] = (),
    force: bool = False,
) -> Converted:
    """Write networks of a published pickle (all of them, unless named) to a .safetensors file.

    Without names, a network that cannot be read is left out if a generator can; a network that is named must be read.
    The source is mapped and its tensors are written from there, so memory stays near the size of the file.
    Metadata: the configuration of each network; the source's name, size and SHA-256; the SHA-256 of the module sources
    that it carries; training set and augmentation as data. Raises FileExistsError for a target that exists, unless
    `force`; ValueError for anything that does not fit. Nothing is written then.
    """
    source, target = Path(source), Path(target)
    if not is_published(source):
        raise ValueError(f"{source} is no published pickle (.pkl); there is nothing to convert")
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: the name of what is written must end in .safetensors")
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists already; give another name, or --force to write it anew")
    file = PublishedFile(source)
    found, left_out = _readable(file, networks)
    sha256 = sha256_of(source)
    write_networks(
        target,
        _views(found),
        configs={net: network.config for net, network in found.items()},
        extra={
            "source": {"file": source.name, "bytes": source.stat().st_size, "sha256": sha256},
            "class_sources": {net: network.class_sources for net, network in found.items()},
            "training_set": file.training_set(),
            "augmentation": file.augmentation(),
        },
    )
    return Converted(found, left_out, sha256)


def _readable(file: PublishedFile, wanted: Sequence[str]) -> tuple[dict[str, PublishedNetwork], dict[str, str]]:
    """The networks that are wanted (none = all), whole and finite, and for those left out the reason."""
    found: dict[str, PublishedNetwork] = {}
    faults: dict[str, RefusedPickleError] = {}
    for net in wanted or file.networks:
        try:
            found[net] = file.network(net)
            _check_finite(file.path, net, found[net])
        except RefusedPickleError as fault:
            found.pop(net, None)
            faults[net] = fault
    if faults and (wanted or not any(net in GENERATORS for net in found)):
        raise next(iter(faults.values()))
    return found, {net: str(fault) for net, fault in faults.items()}


def _check_finite(path: Path, net: str, network: PublishedNetwork) -> None:
    try:
        network.check_finite()
    except RefusedPickleError as error:
        raise RefusedPickleError(f"{path}, {net}: {error}") from None


def _views(networks: dict[str, PublishedNetwork]) -> dict[str, Tensor]:
    """Tensors under their names in the file to write: views where the file has them whole, else copies."""
    views, used = {}, set()
    for net, network in networks.items():
        for name, tensor in network.tensors.items():
            is_alone = id(tensor.storage) not in used
            views[f"{net}/{name}"] = _view(tensor) if is_alone else tensor.tensor()
            used.add(id(tensor.storage))
    return views


def _view(tensor: InertTensor) -> Tensor:
    """A view of the file where the tensor is the whole of its storage, in order; else a copy."""
    is_whole = tensor.is_contiguous and tensor.numel == tensor.storage.count
    return tensor.view() if is_whole and not tensor.storage.data.readonly else tensor.tensor()
