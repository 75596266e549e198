"""What kind of network a published record is: our configuration, read from its attributes and the sizes of its tensors.

Nothing is assumed that a file says: depth, channels, super-resolution, precision, plane axes and rendering are read.
Keys that older files lack take the defaults that their own code would use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eg3d.cameras import CameraConfig
from eg3d.checkpoints import pickle_facts as facts
from eg3d.checkpoints.inert_pickle import refuse, shown
from eg3d.checkpoints.inert_tensors import InertTensor, as_tensor
from eg3d.checkpoints.pickle_records import Record, refuse_relatives
from eg3d.generators.eg3d import GeneratorConfig
from eg3d.networks.block_options import CONV_CLAMP
from eg3d.networks.discriminator import DiscriminatorConfig
from eg3d.networks.superresolution import SUPERRESOLUTION_KINDS
from eg3d.rendering.planes import PLANE_AXES
from eg3d.rendering.renderer import RenderingConfig

GENERATOR_CLASS = "TriPlaneGenerator"
DISCRIMINATOR_CLASSES = {"DualDiscriminator": True, "SingleDiscriminator": False}  # class -> judges both images
_SR_PREFIX = "SuperresolutionHybrid"
_NEVER_ANTIALIASED = f"{_SR_PREFIX}Deepfp32"  # of early models at 256 pixels, else as 4X
_SR_KINDS = {**{f"{_SR_PREFIX}{kind}": kind for kind in SUPERRESOLUTION_KINDS}, _NEVER_ANTIALIASED: "4X"}
# The focal length is no part of a file. The scripts for cars use this one; cars are seen from nearer than heads are.
_CARS_RADIUS_BELOW, _CARS_FOCAL = 2.0, 1.7074

# ---------------------------------------------------------------------------------------------- generator


def generator_config(root: Record, tensors: Mapping[str, InertTensor]) -> GeneratorConfig:
    """The configuration of a generator with these attributes and tensors. Refuses what EG3D's code does not make."""
    refuse_relatives(root)
    if root.class_name != GENERATOR_CLASS:
        refuse(f"is a {shown(root.class_name)}; a generator here is a {GENERATOR_CLASS}")
    kwargs = root.state.get("rendering_kwargs")
    if not isinstance(kwargs, dict):
        refuse("has no rendering_kwargs")
    if facts.text(kwargs, "clamp_mode", "softplus") != "softplus":
        refuse(f"has the clamp_mode {shown(kwargs['clamp_mode'])}; only softplus is known")
    planes = facts.channels(tensors, "backbone.synthesis.b", "conv1.weight")
    plane_resolution = max(planes)
    reduced = facts.num_reduced(root, "backbone.synthesis")
    return GeneratorConfig(
        z_dim=facts.whole(root.state, "z_dim"),
        c_dim=facts.whole(root.state, "c_dim", low=0),
        w_dim=facts.whole(root.state, "w_dim"),
        mapping_layers=facts.num_layers(tensors, "backbone.mapping.fc"),
        mapping_lr_mul=facts.number(facts.child(root, "backbone.mapping.fc0").state, "bias_gain", 0.01),
        plane_resolution=plane_resolution,
        plane_channels=facts.size(tensors, "backbone.synthesis.b4.torgb.weight", 0) // 3,
        channel_base=planes[plane_resolution] * plane_resolution,
        channel_max=max(planes.values()),
        num_fp16_res=reduced,
        decoder_hidden=facts.size(tensors, "decoder.net.0.weight", 0),
        decoder_lr_mul=facts.number(kwargs, "decoder_lr_mul", 1.0),
        feature_channels=facts.size(tensors, "decoder.net.2.weight", 0) - 1,
        img_resolution=facts.whole(root.state, "img_resolution"),
        neural_rendering_resolution=facts.whole(root.state, "neural_rendering_resolution"),
        **_superresolution(root, tensors, is_antialiased=facts.flag(kwargs, "sr_antialias", True)),
        superresolution_noise_mode=facts.text(kwargs, "superresolution_noise_mode", "none"),
        condition_on_camera=not facts.flag(kwargs, "c_gen_conditioning_zero", False),
        c_scale=facts.number(kwargs, "c_scale", 0.0),
        camera=_camera(kwargs),
        rendering=_rendering(kwargs, _plane_axes(root)),
    )


def _superresolution(root: Record, tensors: Mapping[str, InertTensor], *, is_antialiased: bool) -> dict[str, Any]:
    """Fields of the configuration that the super-resolution decides."""
    record = facts.child(root, "superresolution")
    kind = _SR_KINDS.get(record.class_name)
    if kind is None:
        refuse(f"has the super-resolution {shown(record.class_name)}; known are {', '.join(_SR_KINDS)}")
    published = SUPERRESOLUTION_KINDS[kind]
    channels = tuple(facts.size(tensors, f"superresolution.block{k}.conv1.weight", 0) for k in (0, 1))
    side = facts.whole(root.state, "img_resolution")
    is_reduced = facts.flag(facts.child(record, "block1").state, "use_fp16", True)
    facts.check_clamp(facts.child(record, "block1.conv1"), CONV_CLAMP if is_reduced else None)
    count = facts.table(root.state, "_init_kwargs").get("sr_num_fp16_res") if is_reduced else 0
    return {
        "superresolution": kind,
        "sr_channels": [] if channels == published.channels else list(channels),
        "sr_antialias": is_antialiased and record.class_name != _NEVER_ANTIALIASED,
        "sr_input_resolution": 0 if side == published.img_resolution else side // published.factor,
        "sr_num_fp16_res": count if type(count) is int and 0 < count < 16 else 4 * is_reduced,
    }


def _camera(kwargs: Mapping[str, Any]) -> CameraConfig:
    radius = facts.number(kwargs, "avg_camera_radius", 2.7)
    pivot = kwargs.get("avg_camera_pivot", [0.0, 0.0, 0.0])
    if not isinstance(pivot, (list, tuple)) or len(pivot) != 3:
        refuse("has an avg_camera_pivot that is not three numbers")
    x, y, z = (facts.number({"avg_camera_pivot": value}, "avg_camera_pivot") for value in pivot)
    focal = _CARS_FOCAL if radius < _CARS_RADIUS_BELOW else CameraConfig().focal
    return CameraConfig(radius=radius, pivot=(x, y, z), focal=focal)


def _rendering(kwargs: Mapping[str, Any], plane_axes: str) -> RenderingConfig:
    return RenderingConfig(
        ray_start=facts.limit(kwargs, "ray_start"),
        ray_end=facts.limit(kwargs, "ray_end"),
        box_warp=facts.number(kwargs, "box_warp"),
        depth_resolution=facts.whole(kwargs, "depth_resolution"),
        depth_resolution_importance=facts.whole(kwargs, "depth_resolution_importance", low=0),
        disparity_space_sampling=facts.flag(kwargs, "disparity_space_sampling", False),
        white_back=facts.flag(kwargs, "white_back", False),
        density_noise=facts.number(kwargs, "density_noise", 0.0),
        plane_axes=plane_axes,
    )


def _plane_axes(root: Record) -> str:
    """Name of the axes that the renderer of the file holds; the published ones where it holds none.

    A point's projection is the point times the inverse of a plane's 3 x 3 matrix, of which the first two components
    count: which coordinates those are is read from the first two columns of the inverse.
    """
    axes = as_tensor(facts.child(root, "renderer").state.get("plane_axes")) if "renderer" in root.children() else None
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


def discriminator_config(root: Record, tensors: Mapping[str, InertTensor]) -> DiscriminatorConfig:
    """The configuration of a discriminator with these attributes and tensors; refuses other classes."""
    refuse_relatives(root)
    if root.class_name not in DISCRIMINATOR_CLASSES:
        refuse(f"is a {shown(root.class_name)}; a discriminator here is a {' or a '.join(DISCRIMINATOR_CLASSES)}")
    is_dual = DISCRIMINATOR_CLASSES[root.class_name]
    side = facts.whole(root.state, "img_resolution")
    channels = facts.channels(tensors, "b", "conv0.weight")
    if side not in channels:
        refuse(f"has no block b{side} for its image resolution")
    made_with = facts.table(root.state, "_init_kwargs")
    reduced = facts.num_reduced(root, "")
    c_dim = facts.whole(root.state, "c_dim", low=0)
    return DiscriminatorConfig(
        img_resolution=side,
        img_channels=facts.whole(root.state, "img_channels", low=1 + is_dual) // (1 + is_dual),
        channel_base=channels[side] * side,
        channel_max=max(*channels.values(), facts.size(tensors, "b4.conv.weight", 0)),
        c_dim=c_dim,
        mapping_layers=facts.num_layers(tensors, "mapping.fc") if c_dim else DiscriminatorConfig().mapping_layers,
        mbstd_group_size=facts.whole(facts.table(made_with, "epilogue_kwargs"), "mbstd_group_size", 4),
        dual_discrimination=is_dual,
        disc_c_noise=facts.number(root.state, "disc_c_noise", 0.0),
        freeze_layers=facts.whole(facts.table(made_with, "block_kwargs"), "freeze_layers", 0, low=0),
        num_fp16_res=reduced,
    )
