"""Feature networks by name. Every figure says which one made it; figures of different ones are not comparable.

A detector of your own is `module:function` on the command line: the function takes a torch.device and returns an object
like `Detector`. Weights are tensors from a local file that checkpoints/manifest.json names and that is checked against
its SHA-256; nothing is fetched. Shape letters: N images, R image side, F features, K classes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from eg3d.checkpoints.manifest import resolve
from eg3d.checkpoints.torch_files import load_plain
from eg3d.file_hash import sha256_of
from eg3d.metrics import random_convolutions
from eg3d.metrics.inception import Inception
from eg3d.metrics.vgg16 import VGG16, lpips_distance, lpips_weights

STAND_IN = "random_convolutions"
WEIGHTS = {"inception": "inception-2015-12-05", "vgg16": "vgg16-imagenet"}  # names in checkpoints/manifest.json
NAMES = (*WEIGHTS, STAND_IN)
PASS = 32  # images a forward pass


class Description(NamedTuple):
    """What a detector says about N images."""

    features: Tensor  # [N, F]
    probabilities: Tensor | None = None  # [N, K], rows sum to 1


@runtime_checkable
class Detector(Protocol):
    """A feature network."""

    @property
    def identity(self) -> dict[str, Any]:
        """Plain data that changes whenever the features could: "name", and "sha256" where there are weights."""

    def describe(self, images: Tensor) -> Description:
        """Features of uint8 images [N, 3, R, R] on the detector's device."""


@runtime_checkable
class DistanceDetector(Detector, Protocol):
    """A detector that also compares pictures."""

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Perceptual distance [N] of two batches of pictures [N, 3, R, R] in [-1, 1]; 0 for the same picture."""


@dataclass(frozen=True)
class InceptionDetector:
    """The network of FID, KID and the inception score."""

    network: Inception
    identity: dict[str, Any]

    def describe(self, images: Tensor) -> Description:
        features, probabilities = zip(*(self.network(part) for part in images.split(PASS)), strict=True)
        return Description(torch.cat(features), torch.cat(probabilities))


@dataclass(frozen=True)
class VGG16Detector:
    """The network of precision and recall, and of the distance in path lengths."""

    network: VGG16
    lpips: list[Tensor]
    identity: dict[str, Any]

    def describe(self, images: Tensor) -> Description:
        return Description(torch.cat([self.network(part) for part in images.split(PASS)]))

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        return lpips_distance(self.network, self.lpips, first, second)


@dataclass(frozen=True)
class RandomConvolutions:
    """The stand-in that needs no weights; it has no classes."""

    identity: dict[str, Any]

    def describe(self, images: Tensor) -> Description:
        return Description(random_convolutions.random_features(images))

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        return random_convolutions.random_distance(first, second)


def load_detector(name: str, *, device: str | torch.device = "cpu") -> Detector:
    """The detector of a name in NAMES, or of `module:function`.

    Raises FileNotFoundError (where to get the weights, where to put them) or ValueError in one line.
    """
    device = torch.device(device)
    if ":" in name:
        return _own_detector(name, device)
    identity = detector_identity(name)
    if name == STAND_IN:
        return RandomConvolutions(identity)
    path = _weights_path(name)
    if name == "inception":
        return InceptionDetector(_with_weights(Inception, path).to(device), identity)
    return VGG16Detector(_with_weights(VGG16, path).to(device), [w.to(device) for w in lpips_weights()], identity)


def detector_identity(name: str) -> dict[str, Any]:
    """What a detector says of itself, without loading weights; checks that they are there and right.

    Raises as `load_detector` does.
    """
    if name == STAND_IN:
        return {"name": random_convolutions.FEATURES_NAME, "is_stand_in": True}
    if ":" in name:
        return dict(_own_detector(name, torch.device("cpu")).identity)
    if name not in WEIGHTS:
        raise ValueError(f"detector {name!r} is not one of {', '.join(NAMES)}, nor module:function")
    return {"name": WEIGHTS[name], "sha256": sha256_of(_weights_path(name)), "is_stand_in": False}


def _weights_path(name: str) -> Path:
    """The file of a detector's weights, its SHA-256 checked against the manifest."""
    try:
        return resolve(WEIGHTS[name])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; or give --detector {STAND_IN} for the documented stand-in, whose figures are not comparable"
        ) from None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a state dict in a torch file; anything else in it is refused with ValueError, nothing in it runs."""
    try:
        found = load_plain(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a file of tensors alone: {error}") from None
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} holds a {type(found).__name__}, expected a state dict: names and tensors")
    return dict(found)


def _with_weights(network: type[nn.Module], path: Path) -> Any:
    """The network with the tensors of a file, in evaluation mode, without gradients."""
    with torch.device("meta"):
        built = network()
    tensors = read_tensors(path)
    counts = {name: torch.tensor(0) for name in built.state_dict() if name.endswith("num_batches_tracked")}
    tensors = counts | tensors  # older files lack these counts, and evaluation does not read them
    expected = {name: list(tensor.shape) for name, tensor in built.state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"{path} does not fit {network.__name__}: {len(wrong)} tensors differ, first {wrong[0]}")
    built.load_state_dict(tensors, assign=True)
    return built.eval().requires_grad_(False)


def _own_detector(name: str, device: torch.device) -> Detector:
    module, _, function = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), function)(device)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"detector {name!r} cannot be made ({error}); give an importable module:function") from None
    if not isinstance(made, Detector) or "name" not in getattr(made, "identity", {}):
        raise ValueError(f"detector {name!r} returned a {type(made).__name__} without describe() and identity['name']")
    return made
