"""The EG3D generator: latent -> style codes -> tri-planes -> rays -> image. An instance of the generator protocol.

Shape letters: N batch, C plane channels, R neural rendering side.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eg3d.cameras import LABEL_SIZE, CameraConfig, split_label
from eg3d.fields.protocol import Field
from eg3d.fields.triplane import TriPlaneField
from eg3d.generators.protocol import Rendered
from eg3d.generators.registry import GeneratorKind, register
from eg3d.networks.block_options import PRECISIONS, Channels, Precision
from eg3d.networks.decoder import Decoder
from eg3d.networks.mapping import MappingNetwork
from eg3d.networks.superresolution import SUPERRESOLUTION_KINDS, SuperResolution
from eg3d.networks.synthesis import Backbone, SynthesisNetwork
from eg3d.random_streams import Rng
from eg3d.rendering.rays import pixel_rays
from eg3d.rendering.renderer import RenderingConfig

SUPERRESOLUTIONS = ("2X", "4X", "8X", "8XDC", "none")
IMAGE_RAWS = ("published", "clean")
SR_NOISE_MODES = ("none", "random")


@dataclass
class GeneratorConfig:
    """Every size of the generator. Defaults are those of FFHQ at 512 pixels."""

    z_dim: int = 512
    c_dim: int = 25  # length of the camera label that conditions the mapping
    w_dim: int = 512
    mapping_layers: int = 2
    mapping_lr_mul: float = 0.01  # learning rate of the mapping relative to the rest
    plane_resolution: int = 256  # texels
    plane_channels: int = 32  # features of each plane
    channel_base: int = 32768  # backbone channels at resolution r: min(channel_base / r, channel_max)
    channel_max: int = 512
    num_fp16_res: int = 0  # highest backbone resolutions in reduced precision (and clamped)
    decoder_hidden: int = 64
    decoder_lr_mul: float = 1.0
    feature_channels: int = 32  # rendered channels; the first three are the raw image
    img_resolution: int = 512  # px
    neural_rendering_resolution: int = 64  # px, R at the start; training may change the attribute
    superresolution: str = "8XDC"  # 2X | 4X | 8X | 8XDC | none
    sr_channels: list[int] = field(default_factory=list)  # of the two blocks, empty = as published
    sr_input_resolution: int = 0  # px that features are resized to first, 0 = as published
    sr_num_fp16_res: int = 4  # above 0: reduced precision (and clamps) in super-resolution
    sr_antialias: bool = True  # antialias when features are made smaller
    superresolution_noise_mode: str = "none"  # none | random
    precision: str = "fp32"  # of the blocks named by the two counts: fp32 | bf16 | fp16
    condition_on_camera: bool = True  # False: the mapping sees a zero label
    c_scale: float = 1.0  # multiplies the label that the mapping sees
    image_raw: str = "published"  # "published": 2X and 4X without resize add their first residual to it | "clean"
    camera: CameraConfig = field(default_factory=CameraConfig)
    rendering: RenderingConfig = field(default_factory=RenderingConfig)

    def validate(self) -> list[str]:
        """Faults of the fields here, one line each; camera and rendering have their own."""
        faults = [
            f"{name}: must be at least {low}, got {getattr(self, name)}"
            for name, low in _MINIMA.items()
            if getattr(self, name) < low
        ]
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                faults.append(f"{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name in ("plane_resolution", "img_resolution"):
            if getattr(self, name) & (getattr(self, name) - 1):
                faults.append(f"{name}: must be a power of two, got {getattr(self, name)}")
        if self.c_dim not in (0, LABEL_SIZE):
            faults.append(f"c_dim: must be {LABEL_SIZE} (camera label) or 0, got {self.c_dim}")
        if self.sr_channels and (len(self.sr_channels) != 2 or min(self.sr_channels) < 1):
            faults.append(f"sr_channels: two positive numbers or none, got {list(self.sr_channels)}")
        return faults


_MINIMA = {
    "z_dim": 1, "w_dim": 1, "mapping_layers": 1, "plane_resolution": 4, "plane_channels": 1, "channel_base": 1,
    "channel_max": 1, "num_fp16_res": 0, "decoder_hidden": 1, "feature_channels": 3, "img_resolution": 4,
    "neural_rendering_resolution": 1, "sr_input_resolution": 0, "sr_num_fp16_res": 0,
}  # fmt: skip
_CHOICES = {
    "superresolution": SUPERRESOLUTIONS,
    "precision": tuple(PRECISIONS),
    "image_raw": IMAGE_RAWS,
    "superresolution_noise_mode": SR_NOISE_MODES,
}


def ffhq512_128() -> GeneratorConfig:
    """Published faces: 512 pixels from 128."""
    return GeneratorConfig(neural_rendering_resolution=128)


def afhq512_128() -> GeneratorConfig:
    """Published cats: as faces, with the smaller super-resolution and another pivot."""
    return replace(ffhq512_128(), superresolution="8X", camera=CameraConfig(pivot=(0.0, 0.0, -0.06)))


def shapenet128_64() -> GeneratorConfig:
    """Published cars: no camera conditioning, white background, deeper mapping. Its scripts use focal 1.7074."""
    return GeneratorConfig(
        mapping_layers=8,
        img_resolution=128,
        superresolution="2X",
        condition_on_camera=False,
        c_scale=0.0,
        camera=CameraConfig(radius=1.7, pivot=(0.0, 0.0, 0.0), focal=1.7074),
        rendering=RenderingConfig(
            ray_start=0.1,
            ray_end=2.6,
            box_warp=1.6,
            depth_resolution=64,
            depth_resolution_importance=64,
            white_back=True,
        ),
    )


def _superresolution(cfg: GeneratorConfig) -> SuperResolution | None:
    if cfg.superresolution == "none":
        return None
    published = SUPERRESOLUTION_KINDS[cfg.superresolution]
    kind = replace(
        published,
        img_resolution=cfg.img_resolution,
        input_resolution=cfg.sr_input_resolution or published.input_resolution,
        channels=(cfg.sr_channels[0], cfg.sr_channels[1]) if cfg.sr_channels else published.channels,
    )
    return SuperResolution(
        kind,
        feature_channels=cfg.feature_channels,
        w_dim=cfg.w_dim,
        precision=Precision(cfg.sr_num_fp16_res, cfg.precision),
        antialias=cfg.sr_antialias,
    )


def _backbone(cfg: GeneratorConfig) -> Backbone:
    synthesis = SynthesisNetwork(
        cfg.w_dim,
        cfg.plane_resolution,
        3 * cfg.plane_channels,
        channels=Channels(cfg.channel_base, cfg.channel_max),
        precision=Precision(cfg.num_fp16_res, cfg.precision),
    )
    mapping = MappingNetwork(
        cfg.z_dim,
        cfg.c_dim,
        cfg.w_dim,
        synthesis.num_ws,
        num_layers=cfg.mapping_layers,
        lr_multiplier=cfg.mapping_lr_mul,
    )
    return Backbone(synthesis, mapping)


class TriPlaneGenerator(nn.Module):
    """EG3D (2022). State-dict names and shapes are those of the published networks.

    Randomness of sampling comes from an explicit `rng`. Without one, rendering is deterministic (jitter 0.5, evenly
    spaced importance draws) and noise_mode "random" is a ValueError.
    """

    def __init__(self, cfg: GeneratorConfig) -> None:
        super().__init__()
        nested = ("camera", "rendering")
        faults = cfg.validate() + [f"{name}.{fault}" for name in nested for fault in getattr(cfg, name).validate()]
        if faults:
            raise ValueError("; ".join(faults))
        self.cfg = cfg
        self.neural_rendering_resolution = cfg.neural_rendering_resolution
        self.backbone = _backbone(cfg)
        self.decoder = Decoder(cfg.plane_channels, cfg.decoder_hidden, cfg.feature_channels, cfg.decoder_lr_mul)
        self.superresolution = _superresolution(cfg)
        # Spread of the training labels: published files carry it and nothing reads it.
        self.register_buffer("dataset_label_std", torch.zeros(cfg.c_dim))

    @property
    def camera(self) -> CameraConfig:
        """The cameras that its images are seen from."""
        return self.cfg.camera

    @property
    def num_ws(self) -> int:
        """Style codes per image."""
        return self.backbone.num_ws

    @property
    def z_dim(self) -> int:
        """Length of the latent."""
        return self.cfg.z_dim

    def mapping(
        self,
        z: Tensor,
        c: Tensor,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """Style codes [N, num_ws, w_dim] of latents [N, z_dim] and conditioning labels [N, 25].

        truncation_psi pulls the first `truncation_cutoff` codes (None = all) to the mean; 1 leaves them alone.
        """
        if not self.cfg.condition_on_camera:
            c = torch.zeros_like(c)
        return self.backbone.mapping(
            z,
            c * self.cfg.c_scale,
            truncation_psi=truncation_psi,
            truncation_cutoff=truncation_cutoff,
            update_emas=update_emas,
        )

    def field(self, ws: Tensor, *, noise_mode: str = "const", rng: Rng | None = None) -> TriPlaneField:
        """Tri-planes [N, 3, C, H, W] of style codes, with the decoder. noise_mode: const | none | random (needs rng).

        No density noise. Gradients flow to the codes, the backbone and the decoder.
        """
        flat = self.backbone.synthesis(ws, noise_mode=noise_mode, rng=rng)
        return self.field_of_planes(flat.unflatten(1, (3, self.cfg.plane_channels)))

    def field_of_planes(self, planes: Tensor) -> TriPlaneField:
        """The field of any tri-planes [N, 3, C, H, W], read by this generator's decoder."""
        rendering = self.cfg.rendering
        return TriPlaneField(
            planes, *self.decoder.weights(), box_warp=rendering.box_warp, plane_axes=rendering.plane_axes
        )

    def render(
        self,
        field: Field,
        ws: Tensor,
        c: Tensor,
        *,
        neural_rendering_resolution: int | None = None,
        rng: Rng | None = None,
        superresolve: bool = True,
    ) -> Rendered:
        """Images of a field from cameras c [N, 25]; the final one only if `superresolve`.

        image_raw_clean is what the renderer made; image_raw is the same unless cfg.image_raw is "published" and the
        published super-resolution would have changed it in place. R: neural_rendering_resolution, or the attribute.
        """
        side = neural_rendering_resolution or self.neural_rendering_resolution
        rays = field.render(pixel_rays(*split_label(c), side), self.cfg.rendering, rng)
        features = rays.rgb.unflatten(-1, (side, side))
        raw = features[:, :3]
        rendered = Rendered(
            image_raw=raw,
            image_raw_clean=raw,
            image_depth=rays.depth.view(-1, 1, side, side),
            opacity=rays.opacity.view(-1, 1, side, side),
            depth_spread=rays.spread.view(-1, 1, side, side),
        )
        if not superresolve:
            return rendered
        image, changed = self._superresolve(raw, features, ws, rng)
        return replace(rendered, image=image, image_raw=changed if self.cfg.image_raw == "published" else raw)

    def _superresolve(self, raw: Tensor, features: Tensor, ws: Tensor, rng: Rng | None) -> tuple[Tensor, Tensor]:
        """The final image, and the raw image as the published in-place addition would leave it."""
        if self.superresolution is None:
            size = (self.cfg.img_resolution,) * 2
            is_same = raw.shape[-2:] == size
            return (raw if is_same else F.interpolate(raw, size, mode="bilinear", antialias=True)), raw
        return self.superresolution(raw, features, ws, noise_mode=self.cfg.superresolution_noise_mode, rng=rng)

    def synthesis(
        self,
        ws: Tensor,
        c: Tensor,
        *,
        noise_mode: str = "const",
        rng: Rng | None = None,
        neural_rendering_resolution: int | None = None,
    ) -> Rendered:
        """Images of style codes ws [N, num_ws, w_dim] from cameras c [N, 25]: `field`, then `render`."""
        field = self.field(ws, noise_mode=noise_mode, rng=rng)
        return self.render(field, ws, c, neural_rendering_resolution=neural_rendering_resolution, rng=rng)

    def forward(
        self,
        z: Tensor,
        c: Tensor,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        noise_mode: str = "const",
        rng: Rng | None = None,
        neural_rendering_resolution: int | None = None,
    ) -> Rendered:
        """Images of latents z [N, z_dim], conditioned on and seen from the same cameras c [N, 25]."""
        ws = self.mapping(
            z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff, update_emas=update_emas
        )
        return self.synthesis(
            ws, c, noise_mode=noise_mode, rng=rng, neural_rendering_resolution=neural_rendering_resolution
        )


register(GeneratorKind("eg3d", GeneratorConfig, TriPlaneGenerator))
