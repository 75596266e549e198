"""A published pickle written again as safetensors: every tensor as it is, settings as JSON, no code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from eg3d.checkpoints.inert_pickle import RefusedPickleError
from eg3d.checkpoints.inert_tensors import InertTensor
from eg3d.checkpoints.pickle_networks import PublishedFile, PublishedNetwork, check_finite, is_published
from eg3d.checkpoints.store import write_networks
from eg3d.file_hash import sha256_of


@dataclass(frozen=True)
class Converted:
    """What was written."""

    networks: dict[str, PublishedNetwork]
    source_sha256: str


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    networks: Sequence[str] = (),
    force: bool = False,
) -> Converted:
    """Write networks of a published pickle (all of them, unless named) to a .safetensors file.

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
    found = {net: file.network(net) for net in networks or file.networks}
    sha256 = sha256_of(source)
    write_networks(
        target,
        _views(source, found),
        configs={net: network.config for net, network in found.items()},
        extra={
            "source": {"file": source.name, "bytes": source.stat().st_size, "sha256": sha256},
            "class_sources": {net: network.class_sources for net, network in found.items()},
            "training_set": file.training_set(),
            "augmentation": file.augmentation(),
        },
    )
    return Converted(found, sha256)


def _views(source: Path, networks: dict[str, PublishedNetwork]) -> dict[str, Tensor]:
    """Tensors under their names in the file to write: views where the file has them whole, else copies."""
    views, used = {}, set()
    for net, network in networks.items():
        try:
            check_finite((name, tensor.tensor()) for name, tensor in network.tensors.items())
        except RefusedPickleError as error:
            raise RefusedPickleError(f"{source}, {net}: {error}") from None
        for name, tensor in network.tensors.items():
            is_alone = id(tensor.storage) not in used
            views[f"{net}/{name}"] = _view(tensor) if is_alone else tensor.tensor()
            used.add(id(tensor.storage))
    return views


def _view(tensor: InertTensor) -> Tensor:
    """A view of the file where the tensor is the whole of its storage, in order; else a copy."""
    is_whole = tensor.is_contiguous and tensor.numel == tensor.storage.count
    return tensor.view() if is_whole and not tensor.storage.data.readonly else tensor.tensor()
