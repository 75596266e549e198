"""Writes files with the structure of published EG3D pickles, without any of the code that made the originals.

Networks of this project are turned into trees of stand-ins, and a pickler writes those the way the official classes
write themselves: persistent objects as one call with a table (with source text that leaves a trace if it ever runs),
plain objects by NEWOBJ and BUILD, tensors by torch's own reduction.
"""

from __future__ import annotations

import io
import math
import pickle  # this file writes pickles; nothing here or elsewhere reads one
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from eg3d.checkpoints.inert_pickle import RefusedPickleError

PERSISTENT = "torch_utils.persistence", "_reconstruct_persistent_obj"
HOOKS = ("_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")
AXES = torch.tensor(
    [[[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1], [0, 1, 0]], [[0, 0, 1], [1, 0, 0], [0, 1, 0]]]
).float()


@dataclass
class Global:
    """A name, written as GLOBAL or STACK_GLOBAL."""

    module: str
    name: str


@dataclass
class Call:
    """REDUCE of a name with arguments."""

    callee: Global
    arguments: tuple[Any, ...]


@dataclass
class Plain:
    """An object of a class that is not persistent: NEWOBJ and BUILD."""

    callee: Global
    state: dict[str, Any]


@dataclass
class Easy:
    """dnnlib's dict with attributes: NEWOBJ and SETITEMS."""

    items: dict[str, Any]


@dataclass
class Persistent:
    """An object of a persistent class."""

    class_name: str
    source: str
    state: dict[str, Any] = field(default_factory=dict)
    version: int = 6

    @property
    def meta(self) -> Easy:
        """The table that the one call gets."""
        names = {"class_name": self.class_name, "state": self.state}
        return Easy({"type": "class", "version": self.version, "module_src": self.source, **names})


@dataclass
class StoredAt:
    """A tensor whose storage says that it lived somewhere else."""

    tensor: torch.Tensor
    location: str
    kind: tuple[str, str] = ("torch", "FloatStorage")

    def call(self) -> Call:
        """The call that makes it."""
        stream = storage_stream(self.tensor, location=self.location, kind=self.kind)
        storage = Call(Global("torch.storage", "_load_from_bytes"), (stream,))
        arguments = (storage, 0, tuple(self.tensor.shape), tuple(self.tensor.stride()), False, OrderedDict())
        return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)


_STAND_INS = (Global, Call, Plain, Easy, Persistent, StoredAt)


class Writer(pickle._Pickler):  # the Python version, whose steps can be overridden
    """A pickler of the stand-ins."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        known = self.memo.get(id(obj))
        if not isinstance(obj, _STAND_INS):
            super().save(obj, save_persistent_id)
        elif known is not None:
            self.write(self.get(known[0]))
        elif isinstance(obj, Persistent):
            self.save(Call(Global(*PERSISTENT), (obj.meta,)))
        elif isinstance(obj, StoredAt):
            self.save(obj.call())
        elif isinstance(obj, Plain):
            self._new(obj.callee, obj)
            self._parts(obj.state, code=pickle.BUILD)
        elif isinstance(obj, Easy):
            self._new(Global("dnnlib.util", "EasyDict"), obj, obj.items)
            if self.proto >= 2:
                self._set_items(obj.items)
        else:
            self._parts(obj.callee, obj.arguments, code=pickle.REDUCE) if isinstance(obj, Call) else self._name(obj)
            self.memoize(obj)

    def _set_items(self, items: dict[str, Any]) -> None:
        self.write(pickle.MARK)
        self._parts(*[part for pair in items.items() for part in pair], code=pickle.SETITEMS)

    def _name(self, name: Global) -> None:
        if self.proto >= 4:
            self._parts(name.module, name.name, code=pickle.STACK_GLOBAL)
        else:
            self.write(b"c" + name.module.encode() + b"\n" + name.name.encode() + b"\n")

    def _parts(self, *parts: Any, code: bytes) -> None:
        for part in parts:
            self.save(part)
        self.write(code)

    def _new(self, callee: Global, obj: Any, items: dict[str, Any] | None = None) -> None:
        """An empty object; protocols 0 and 1 make it by copyreg's function, with the items of a dict at once."""
        if self.proto >= 2:
            self._parts(callee, (), code=pickle.NEWOBJ)
        else:
            base = Global("__builtin__", "object" if items is None else "dict")
            self._parts(Global("copy_reg", "_reconstructor"), (callee, base, items), code=pickle.REDUCE)
        self.memoize(obj)


def dumps(obj: Any, protocol: int = 4) -> bytes:
    """The bytes of a pickle."""
    buffer = io.BytesIO()
    Writer(buffer, protocol).dump(obj)
    return buffer.getvalue()


def storage_stream(
    tensor: torch.Tensor, *, location: str = "cpu", kind: tuple[str, str] = ("torch", "FloatStorage")
) -> bytes:
    """A nested stream as the specification describes it, byte by byte."""
    numbers = tensor.contiguous().numpy().tobytes()
    pointer = b"\x80\x02(X\x07\x00\x00\x00storagec" + "\n".join(kind).encode() + b"\n"
    pointer += _text("1") + _text(location) + b"J" + struct.pack("<i", tensor.numel()) + b"NtQ."
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    heads = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system)]
    return b"".join([*heads, pointer, pickle.dumps(["1"], 2), struct.pack("<q", tensor.numel()), numbers])


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


# ---------------------------------------------------------------------------------------------- networks


def trace_source(name: str, trace: Path | str) -> str:
    """Source text of a made-up module that would leave a file behind if it ever ran."""
    return f"# module {name}\nopen({str(trace)!r}, 'w').write('ran')\nraise SystemExit('{name} ran')\n" + "#" * 2000


@dataclass
class Sources:
    """The module sources of one file, each one text object, as in the originals."""

    trace: Path | str
    made: dict[str, str] = field(default_factory=dict)

    def of(self, module: str) -> str:
        return self.made.setdefault(module, trace_source(module, self.trace))


def _module_state(parameters: Any = (), buffers: Any = (), modules: Any = (), **attributes: Any) -> dict[str, Any]:
    hooks = {name: OrderedDict() for name in HOOKS}
    state = {"training": False, "_parameters": OrderedDict(parameters), "_buffers": OrderedDict(buffers)}
    state |= {"_non_persistent_buffers_set": set(), **hooks, "_modules": OrderedDict(modules)}
    return state | attributes


def _tree(module: nn.Module) -> dict[str, Any]:
    """State of a module without its class: tensors and, for each child, None to be filled in."""
    own = [(name, None if p is None else p.detach().requires_grad_(False)) for name, p in module._parameters.items()]
    return _module_state([(n, None if p is None else nn.Parameter(p, False)) for n, p in own], module._buffers.items())


def _fully_connected(module: Any, sources: Sources) -> Persistent:
    gains = {"weight_gain": np.float64(module.weight_gain), "bias_gain": module.bias_gain}
    state = {**_tree(module), "activation": module.activation, **gains}
    return Persistent("FullyConnectedLayer", sources.of("networks_stylegan2"), state)


def _children(module: nn.Module, sources: Sources) -> OrderedDict[str, Any]:
    return OrderedDict((name, stand_in(child, sources)) for name, child in module.named_children())


def _layer(class_name: str, module: Any, sources: Sources, **attributes: Any) -> Persistent:
    state = {**_tree(module), "conv_clamp": module.conv_clamp, "activation": "lrelu", **attributes}
    return Persistent(class_name, sources.of("networks_stylegan2"), state | {"_modules": _children(module, sources)})


def _container(class_name: str, module: Any, sources: Sources, source: str, **attributes: Any) -> Persistent:
    state = {**_tree(module), **attributes, "_modules": _children(module, sources)}
    return Persistent(class_name, sources.of(source), state)


def stand_in(module: Any, sources: Sources) -> Any:
    """The tree of stand-ins of one of our modules, by the official names of its class."""
    from eg3d.networks import discriminator, layers, mapping, superresolution, synthesis

    sg2 = "networks_stylegan2"
    match module:
        case layers.FullyConnected():
            return _fully_connected(module, sources)
        case synthesis.SynthesisLayer():
            return _layer("SynthesisLayer", module, sources, up=module.up, act_gain=np.float64(math.sqrt(2)))
        case synthesis.ToRGB():
            return _layer("ToRGBLayer", module, sources, activation="linear")
        case layers.Conv2dLayer():
            return _layer("Conv2dLayer", module, sources, up=1, down=module.down)
        case synthesis.SynthesisBlock():
            name = "SynthesisBlock" if module.up == 2 or module.is_first else "SynthesisBlockNoUp"
            return _container(name, module, sources, sg2, use_fp16=module.precision.is_low, architecture="skip")
        case synthesis.SynthesisNetwork():
            return _container("SynthesisNetwork", module, sources, sg2, img_resolution=module.img_resolution)
        case mapping.MappingNetwork():
            return _container("MappingNetwork", module, sources, sg2, num_layers=module.num_layers)
        case synthesis.Backbone():
            return _container("Generator", module, sources, sg2)
        case superresolution.SuperResolution():
            name = f"SuperresolutionHybrid{module.kind.name}"
            return _container(name, module, sources, "superresolution", input_resolution=module.kind.input_resolution)
        case discriminator.DiscriminatorBlock():
            return _container(
                "DiscriminatorBlock", module, sources, "networks_stylegan2", use_fp16=module.precision.is_low
            )
        case discriminator.DiscriminatorEpilogue():
            return _container("DiscriminatorEpilogue", module, sources, "networks_stylegan2")
    raise TypeError(type(module))


def _decoder(module: Any, sources: Sources) -> Plain:
    softplus = Plain(Global("torch.nn.modules.activation", "Softplus"), _module_state(beta=1, threshold=20))
    children = [("0", _fully_connected(module.net[0], sources)), ("1", softplus)]
    children += [("2", _fully_connected(module.net[2], sources))]
    net = Plain(Global("torch.nn.modules.container", "Sequential"), _module_state(modules=children))
    return Plain(Global("training.triplane", "OSGDecoder"), _module_state(modules=[("net", net)], hidden_dim=64))


def _renderer(axes: Any) -> Plain:
    marcher = Plain(Global("training.volumetric_rendering.ray_marcher", "MipRayMarcher2"), _module_state())
    state = _module_state(modules=[("ray_marcher", marcher)], plane_axes=axes)
    return Plain(Global("training.volumetric_rendering.renderer", "ImportanceRenderer"), state)


def rendering_kwargs(G: Any) -> dict[str, Any]:
    """The options that the official command line would have written for this generator."""
    cfg, r = G.cfg, G.cfg.rendering
    return {
        "depth_resolution": r.depth_resolution, "depth_resolution_importance": r.depth_resolution_importance,
        "ray_start": r.ray_start, "ray_end": r.ray_end, "box_warp": r.box_warp, "white_back": r.white_back,
        "avg_camera_radius": cfg.camera.radius, "avg_camera_pivot": list(cfg.camera.pivot),
        "image_resolution": cfg.img_resolution, "disparity_space_sampling": r.disparity_space_sampling,
        "clamp_mode": "softplus",
        "superresolution_module": f"training.superresolution.SuperresolutionHybrid{cfg.superresolution}",
        "c_gen_conditioning_zero": not cfg.condition_on_camera, "c_scale": cfg.c_scale,
        "superresolution_noise_mode": cfg.superresolution_noise_mode, "density_reg": 0.25,
        "density_reg_p_dist": 0.004, "reg_type": "l1", "decoder_lr_mul": cfg.decoder_lr_mul,
        "sr_antialias": cfg.sr_antialias,
    }  # fmt: skip


def generator_record(G: Any, sources: Sources, *, plane_axes: Any = AXES, **changes: Any) -> Persistent:
    """A generator as a published file holds it; changes replace rendering arguments (None leaves one out)."""
    cfg, kwargs = G.cfg, rendering_kwargs(G) | changes
    kwargs = Easy({key: value for key, value in kwargs.items() if value is not None})
    modules = [
        ("renderer", _renderer(plane_axes)),
        ("ray_sampler", Plain(Global("training.volumetric_rendering.ray_sampler", "RaySampler"), _module_state())),
        ("backbone", stand_in(G.backbone, sources)),
        ("superresolution", stand_in(G.superresolution, sources)),
        ("decoder", _decoder(G.decoder, sources)),
    ]
    made_with = Easy({
        "z_dim": cfg.z_dim, "w_dim": cfg.w_dim, "mapping_kwargs": Easy({"num_layers": cfg.mapping_layers}),
        "channel_base": cfg.channel_base, "channel_max": cfg.channel_max, "rendering_kwargs": kwargs,
        "num_fp16_res": cfg.num_fp16_res, "sr_num_fp16_res": cfg.sr_num_fp16_res, "conv_clamp": None,
    })  # fmt: skip
    buffers = [("dataset_label_std", G.dataset_label_std)]
    state = _module_state(
        (), buffers, modules, z_dim=cfg.z_dim, c_dim=cfg.c_dim, w_dim=cfg.w_dim, img_resolution=cfg.img_resolution,
        img_channels=3, neural_rendering_resolution=G.neural_rendering_resolution, rendering_kwargs=kwargs,
        _last_planes=None, _init_args=(), _init_kwargs=made_with,
    )  # fmt: skip
    return Persistent("TriPlaneGenerator", sources.of("triplane"), state)


def discriminator_record(D: Any, sources: Sources) -> Persistent:
    """A discriminator as a published file holds it."""
    cfg = D.cfg
    made_with = Easy({
        "block_kwargs": Easy({"freeze_layers": cfg.freeze_layers}), "mapping_kwargs": Easy({}),
        "epilogue_kwargs": Easy({"mbstd_group_size": cfg.mbstd_group_size}),
    })  # fmt: skip
    state = {
        **_tree(D), "c_dim": cfg.c_dim, "img_resolution": cfg.img_resolution, "img_channels": D.img_channels,
        "block_resolutions": D.resolutions, "disc_c_noise": cfg.disc_c_noise, "_init_kwargs": made_with,
        "_modules": _children(D, sources),
    }  # fmt: skip
    if not cfg.dual_discrimination:
        del state["_buffers"]["resample_filter"]  # its class has none at the top
    name = "DualDiscriminator" if cfg.dual_discrimination else "SingleDiscriminator"
    return Persistent(name, sources.of("dual_discriminator"), state)


def augment_record(sources: Sources, p: float) -> Persistent:
    """An augmentation pipe with a strength."""
    buffers = [("p", torch.tensor(p)), ("Hz_geom", torch.ones(12))]
    return Persistent("AugmentPipe", sources.of("augment"), _module_state((), buffers, xflip=1, scale_std=0.2))


def official_file(
    G: Any = None,
    D: Any = None,
    *,
    G_ema: Any = None,
    trace: Path | str = "/nonexistent/trace",
    p: float | None = None,
    protocol: int = 4,
    **changes: Any,
) -> bytes:
    """The bytes of a published file with these networks; changes are those of `generator_record`."""
    sources = Sources(trace)
    training = Easy({
        "class_name": "training.dataset.ImageFolderDataset", "path": "faces.zip", "use_labels": True, "max_size": 7,
        "xflip": False, "resolution": 512, "random_seed": 0,
    })  # fmt: skip
    root: dict[str, Any] = {"training_set_kwargs": training}
    root |= {"G": generator_record(G, sources, **changes)} if G is not None else {}
    root |= {"D": discriminator_record(D, sources)} if D is not None else {}
    root |= {"G_ema": generator_record(G_ema, sources, **changes)} if G_ema is not None else {}
    return dumps(root | {"augment_pipe": None if p is None else augment_record(sources, p)}, protocol)


def refusal(load: Callable[[], Any]) -> str:
    """The line of a refusal, or "loaded". Every other error passes through, as does a line that is not printable."""
    try:
        load()
    except RefusedPickleError as error:
        if not str(error).isprintable():
            raise
        return str(error)
    return "loaded"


# ---------------------------------------------------------------------------------------------- damage

ODD_VALUES = (  # of every kind, put where a published file has another
    None, True, -1, 0, 3, 10**6, 2**40, 2**70, 1.5, float("nan"), float("-inf"), "x", "auto", "a" * 10**4, "\n", b"a",
    [], [1, 2], (1, "a"), {}, {"a": 1}, {1, 2}, np.float64(2), np.arange(3), torch.ones(0), torch.zeros(()),
    torch.ones(3), torch.ones(5).int(), torch.ones(8, 8).t(), torch.full((4,), float("nan")), torch.float16, Easy({}),
    StoredAt(torch.ones(2, 2), "cuda:3"),
)  # fmt: skip


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every table of a tree of stand-ins, with each of its keys."""
    table = value.state if isinstance(value, (Persistent, Plain)) else value.items if isinstance(value, Easy) else value
    if isinstance(table, dict):
        for key in list(table):
            found.append((table, key))
            places(table[key], found)
    return found
