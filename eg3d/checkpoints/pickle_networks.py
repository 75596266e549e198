"""Published EG3D networks (records of a pickle) as networks of this project: sizes, options and tensors.

Nothing is assumed that a file says: depth, channels, super-resolution, precision, plane axes and rendering are read
from its tensors and attributes. Every tensor has to find its place; what is missing or unknown is an error that lists
it. Keys that older files lack take the defaults that their own code would use.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eg3d.cameras import CameraConfig
from eg3d.checkpoints.inert_pickle import RefusedPickleError, refuse, shown
from eg3d.checkpoints.inert_tensors import InertTensor, Storage, as_tensor, strided
from eg3d.checkpoints.pickle_records import Record, read_published
from eg3d.generators.eg3d import GeneratorConfig, TriPlaneGenerator
from eg3d.networks.block_options import CONV_CLAMP
from eg3d.networks.discriminator import DiscriminatorConfig, DualDiscriminator
from eg3d.networks.superresolution import SUPERRESOLUTION_KINDS
from eg3d.rendering.planes import PLANE_AXES
from eg3d.rendering.renderer import RenderingConfig

GENERATORS, DISCRIMINATORS = ("G_ema", "G"), ("D",)
NETWORKS = (*GENERATORS, *DISCRIMINATORS)
_GENERATOR_CLASS = "TriPlaneGenerator"
_DISCRIMINATOR_CLASSES = {"DualDiscriminator": True, "SingleDiscriminator": False}  # class -> judges both images
_SR_PREFIX = "SuperresolutionHybrid"
_ACTIVATIONS = ("linear", "lrelu")
_MAX_SIZE = 1 << 14  # of any width, channel count or resolution
# The focal length is no part of a file. The scripts for cars use this one; cars are seen from nearer than heads are.
_CARS_RADIUS_BELOW, _CARS_FOCAL = 2.0, 1.7074
_LABEL_SPREAD = "dataset_label_std"  # of the training labels: nothing reads it, and not every file has it
_SHOWN_NAMES = 20

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


def check_finite(tensors: Any) -> None:
    """Refuse NaN and infinity in any of (name, tensor) pairs, listing where they are."""
    bad = [name for name, tensor in tensors if not bool(torch.isfinite(tensor).all())]
    if bad:
        refuse(f"has NaN or infinite numbers in {_listed(bad)}")


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


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(name if name.isascii() and name.isprintable() else shown(name) for name in names[:20]) + more


# ---------------------------------------------------------------------------------------------- a network


def _network(root: Record, *, is_generator: bool, budget: int) -> PublishedNetwork:
    """A network whose tensors take at most `budget` bytes: a file cannot hold more than its own size."""
    tensors: dict[str, Any] = dict(_flat(root))
    if is_generator:
        config: Config = _generator_config(root, tensors)
        tensors.setdefault(_LABEL_SPREAD, None)
    else:
        config = _discriminator_config(root, tensors)
    faults = config.validate()
    if isinstance(config, GeneratorConfig):
        faults += [f"camera.{fault}" for fault in config.camera.validate()]
        faults += [f"rendering.{fault}" for fault in config.rendering.validate()]
    if faults:
        refuse(f"has settings that fit no network here: {'; '.join(faults)}")
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


def _flat(root: Record) -> Iterator[tuple[str, Any]]:
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


def _placed(config: Config, tensors: Mapping[str, InertTensor | None]) -> dict[str, InertTensor]:
    """The tensors of the state dict of a network of this configuration, in its order; refuses any misfit."""
    expected = _expected(config)
    misfits = {
        "missing": [name for name in expected if name not in tensors],
        "unknown": [name for name in tensors if name not in expected],
        "mis-shaped": [
            f"{name} {list(tensor.shape)} instead of {list(expected[name].shape)}"
            for name, tensor in tensors.items()
            if tensor is not None and name in expected and tensor.shape != tuple(expected[name].shape)
        ],
        "not of real numbers": [
            f"{name} ({tensor.dtype})"
            for name, tensor in tensors.items()
            if tensor is not None and name in expected and not tensor.dtype.is_floating_point
        ],
    }
    faults = [f"{what}: {_listed(names)}" for what, names in misfits.items() if names]
    if faults:
        refuse(f"holds tensors that do not fit the network; {'; '.join(faults)}")
    return {name: tensors[name] or _zeros(expected[name].shape) for name in expected}


def _expected(config: Config) -> dict[str, Tensor]:
    """State dict of such a network, without memory behind it."""
    try:
        with torch.device("meta"):
            is_generator = isinstance(config, GeneratorConfig)
            module = TriPlaneGenerator(config) if is_generator else DualDiscriminator(config)  # type: ignore[arg-type]
    except ValueError as error:
        refuse(f"describes a network that cannot be built: {error}")
    return module.state_dict()


def _zeros(shape: torch.Size) -> InertTensor:
    return strided(Storage("Float", memoryview(bytearray(4 * shape.numel()))), 0, tuple(shape), (1,) * len(shape))


# ---------------------------------------------------------------------------------------------- generator


def _generator_config(root: Record, tensors: Mapping[str, InertTensor]) -> GeneratorConfig:
    if root.class_name != _GENERATOR_CLASS:
        refuse(f"is a {shown(root.class_name)}; a generator here is a {_GENERATOR_CLASS}")
    kwargs = root.state.get("rendering_kwargs")
    if not isinstance(kwargs, dict):
        refuse("has no rendering_kwargs")
    if _text(kwargs, "clamp_mode", "softplus") != "softplus":
        refuse(f"has the clamp_mode {shown(kwargs['clamp_mode'])}; only softplus is known")
    planes = _channels(tensors, "backbone.synthesis.b", "conv1.weight")
    plane_resolution = max(planes)
    reduced = _num_reduced(root, "backbone.synthesis")
    return GeneratorConfig(
        z_dim=_whole(root.state, "z_dim"),
        c_dim=_whole(root.state, "c_dim", low=0),
        w_dim=_whole(root.state, "w_dim"),
        mapping_layers=_num_layers(tensors, "backbone.mapping.fc"),
        mapping_lr_mul=_number(_child(root, "backbone.mapping.fc0").state, "bias_gain", 0.01),
        plane_resolution=plane_resolution,
        plane_channels=_size(tensors, "backbone.synthesis.b4.torgb.weight", 0) // 3,
        channel_base=planes[plane_resolution] * plane_resolution,
        channel_max=max(planes.values()),
        num_fp16_res=reduced,
        decoder_hidden=_size(tensors, "decoder.net.0.weight", 0),
        decoder_lr_mul=_number(kwargs, "decoder_lr_mul", 1.0),
        feature_channels=_size(tensors, "decoder.net.2.weight", 0) - 1,
        img_resolution=_whole(root.state, "img_resolution"),
        neural_rendering_resolution=_whole(root.state, "neural_rendering_resolution"),
        **_superresolution(root, tensors),
        sr_antialias=_flag(kwargs, "sr_antialias", True),
        superresolution_noise_mode=_text(kwargs, "superresolution_noise_mode", "none"),
        condition_on_camera=not _flag(kwargs, "c_gen_conditioning_zero", False),
        c_scale=_number(kwargs, "c_scale", 0.0),
        camera=_camera(kwargs),
        rendering=_rendering(kwargs, _plane_axes(root)),
    )


def _superresolution(root: Record, tensors: Mapping[str, InertTensor]) -> dict[str, Any]:
    """Fields of the configuration that the super-resolution decides."""
    record = _child(root, "superresolution")
    kind = record.class_name.removeprefix(_SR_PREFIX)
    if not record.class_name.startswith(_SR_PREFIX) or kind not in SUPERRESOLUTION_KINDS:
        known = ", ".join(_SR_PREFIX + name for name in SUPERRESOLUTION_KINDS)
        refuse(f"has the super-resolution {shown(record.class_name)}; known are {known}")
    published = SUPERRESOLUTION_KINDS[kind]
    channels = tuple(_size(tensors, f"superresolution.block{k}.conv1.weight", 0) for k in (0, 1))
    side = _whole(root.state, "img_resolution")
    is_reduced = _flag(_child(record, "block1").state, "use_fp16", True)
    _check_clamp(_child(record, "block1.conv1"), CONV_CLAMP if is_reduced else None)
    count = _table(root.state, "_init_kwargs").get("sr_num_fp16_res") if is_reduced else 0
    return {
        "superresolution": kind,
        "sr_channels": [] if channels == published.channels else list(channels),
        "sr_input_resolution": 0 if side == published.img_resolution else side // published.factor,
        "sr_num_fp16_res": count if type(count) is int and 0 < count < 16 else 4 * is_reduced,
    }


def _camera(kwargs: Mapping[str, Any]) -> CameraConfig:
    radius = _number(kwargs, "avg_camera_radius", 2.7)
    pivot = kwargs.get("avg_camera_pivot", [0.0, 0.0, 0.0])
    if not isinstance(pivot, (list, tuple)) or len(pivot) != 3:
        refuse("has an avg_camera_pivot that is not three numbers")
    x, y, z = (_number({"avg_camera_pivot": value}, "avg_camera_pivot") for value in pivot)
    focal = _CARS_FOCAL if radius < _CARS_RADIUS_BELOW else CameraConfig().focal
    return CameraConfig(radius=radius, pivot=(x, y, z), focal=focal)


def _rendering(kwargs: Mapping[str, Any], plane_axes: str) -> RenderingConfig:
    return RenderingConfig(
        ray_start=_limit(kwargs, "ray_start"),
        ray_end=_limit(kwargs, "ray_end"),
        box_warp=_number(kwargs, "box_warp"),
        depth_resolution=_whole(kwargs, "depth_resolution"),
        depth_resolution_importance=_whole(kwargs, "depth_resolution_importance", low=0),
        disparity_space_sampling=_flag(kwargs, "disparity_space_sampling", False),
        white_back=_flag(kwargs, "white_back", False),
        density_noise=_number(kwargs, "density_noise", 0.0),
        plane_axes=plane_axes,
    )


def _plane_axes(root: Record) -> str:
    """Name of the axes that the renderer of the file holds; the published ones where it holds none.

    A point's projection is the point times the inverse of a plane's 3 x 3 matrix, of which the first two components
    count: which coordinates those are is read from the first two columns of the inverse.
    """
    axes = as_tensor(_child(root, "renderer").state.get("plane_axes")) if "renderer" in root.children() else None
    if axes is None:
        return RenderingConfig().plane_axes
    if axes.shape != (3, 3, 3):
        refuse(f"has plane_axes of shape {list(axes.shape)} instead of three 3 x 3 matrices")
    matrices = axes.tensor().double()
    is_permutation = bool(((matrices == 0) | (matrices == 1)).all()) and all(
        bool((matrices.sum(dim) == 1).all()) for dim in (1, 2)
    )
    inverse = matrices.transpose(1, 2)  # of a permutation
    pairs = tuple((int(m[:, 0].argmax()), int(m[:, 1].argmax())) for m in inverse)
    names = [name for name, known in PLANE_AXES.items() if known == pairs] if is_permutation else []
    if not names:
        found = " ".join("xyz"[a] + "xyz"[b] for a, b in pairs) if is_permutation else "no plain axes"
        refuse(f"has planes that see {found}; known are {', '.join(PLANE_AXES)}")
    return names[0]


# ---------------------------------------------------------------------------------------------- discriminator


def _discriminator_config(root: Record, tensors: Mapping[str, InertTensor]) -> DiscriminatorConfig:
    if root.class_name not in _DISCRIMINATOR_CLASSES:
        refuse(f"is a {shown(root.class_name)}; a discriminator here is a {' or a '.join(_DISCRIMINATOR_CLASSES)}")
    is_dual = _DISCRIMINATOR_CLASSES[root.class_name]
    side = _whole(root.state, "img_resolution")
    channels = _channels(tensors, "b", "conv0.weight")
    if side not in channels:
        refuse(f"has no block b{side} for its image resolution")
    made_with = _table(root.state, "_init_kwargs")
    reduced = _num_reduced(root, "")
    c_dim = _whole(root.state, "c_dim", low=0)
    return DiscriminatorConfig(
        img_resolution=side,
        img_channels=_whole(root.state, "img_channels", low=1 + is_dual) // (1 + is_dual),
        channel_base=channels[side] * side,
        channel_max=max(*channels.values(), _size(tensors, "b4.conv.weight", 0)),
        c_dim=c_dim,
        mapping_layers=_num_layers(tensors, "mapping.fc") if c_dim else DiscriminatorConfig().mapping_layers,
        mbstd_group_size=_whole(_table(made_with, "epilogue_kwargs"), "mbstd_group_size", 4),
        dual_discrimination=is_dual,
        disc_c_noise=_number(root.state, "disc_c_noise", 0.0),
        freeze_layers=_whole(_table(made_with, "block_kwargs"), "freeze_layers", 0, low=0),
        num_fp16_res=reduced,
    )


# ---------------------------------------------------------------------------------------------- facts of a file


def _child(record: Record, path: str) -> Record:
    """The sub-module at a dotted path."""
    for name in path.split("."):
        child = record.children().get(name)
        if not isinstance(child, Record):
            refuse(f"has no sub-module {path}")
        record = child
    return record


def _channels(tensors: Mapping[str, InertTensor], prefix: str, suffix: str) -> dict[int, int]:
    """Output channels of the layer `suffix` in every block {prefix}{resolution}, by resolution."""
    found = {}
    for name, tensor in tensors.items():
        number = name.removeprefix(prefix).removesuffix(f".{suffix}")
        if name == f"{prefix}{number}.{suffix}" and number.isdecimal() and len(number) < 6 and tensor.shape:
            found[int(number)] = tensor.shape[0]
    bad = [side for side, size in found.items() if not (4 <= side <= _MAX_SIZE and 0 < size <= _MAX_SIZE)]
    if not found or bad:
        refuse(f"has no blocks {prefix}N of usual sizes")
    return found


def _num_reduced(root: Record, path: str) -> int:
    """Blocks that run in reduced precision. All layers have to clamp at CONV_CLAMP if there are any, else none."""
    blocks = _child(root, path) if path else root
    sides = sorted((name for name in blocks.children() if name[1:].isdecimal() and name != "b4"), key=len)
    reduced = [name for name in sides if _flag(_child(blocks, name).state, "use_fp16", False)]
    for name in sides:
        _check_clamp(_child(blocks, f"{name}.conv1"), CONV_CLAMP if reduced else None)
    return len(reduced)


def _check_clamp(layer: Record, wanted: float | None) -> None:
    found = layer.state.get("conv_clamp", wanted)
    if not (found is None if wanted is None else type(found) in (int, float) and found == wanted):
        refuse(f"has layers clamped at {shown(found)} where networks here clamp at {wanted}")


def _num_layers(tensors: Mapping[str, InertTensor], prefix: str) -> int:
    count = 0
    while f"{prefix}{count}.weight" in tensors:
        count += 1
    if not 1 <= count <= 64:
        refuse(f"has {count} mapping layers {prefix}N; 1 to 64 are built")
    return count


def _size(tensors: Mapping[str, InertTensor], name: str, dim: int) -> int:
    tensor = tensors.get(name)
    if tensor is None or len(tensor.shape) <= dim:
        refuse(f"has no tensor {name}")
    if not 0 < tensor.shape[dim] <= _MAX_SIZE:
        refuse(f"has a tensor {name} of size {tensor.shape[dim]}; at most {_MAX_SIZE} is built")
    return tensor.shape[dim]


def _table(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _value(values: Mapping[str, Any], key: str, default: Any) -> Any:
    value = values.get(key, default)
    if value is None:
        refuse(f"lacks {key}")
    return value


def _whole(values: Mapping[str, Any], key: str, default: int | None = None, *, low: int = 1) -> int:
    value = _value(values, key, default)
    if type(value) is not int or not low <= value <= _MAX_SIZE:
        refuse(f"has {key} = {shown(value)}; a whole number from {low} to {_MAX_SIZE} belongs there")
    return value


def _number(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = _value(values, key, default)
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e6:
        refuse(f"has {key} = {shown(value)}; a number belongs there")
    return float(value)


def _limit(values: Mapping[str, Any], key: str) -> float | str:
    return "auto" if values.get(key) == "auto" else _number(values, key)


def _flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    value = _value(values, key, default)
    if type(value) is not bool:
        refuse(f"has {key} = {shown(value)}; true or false belongs there")
    return value


def _text(values: Mapping[str, Any], key: str, default: str) -> str:
    value = _value(values, key, default)
    if type(value) is not str or len(value) > 200:
        refuse(f"has {key} = {shown(value)}; a word belongs there")
    return value
