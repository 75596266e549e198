"""EG3D's training flags as a `TrainConfig`, and a `TrainConfig` as the words of `python -m eg3d.train`.

| flag | what it sets |
| --- | --- |
| outdir, desc | out = OUTDIR/NNNNN-CFG-DATASET-gpusG-batchB-gammaR[-DESC] |
| cfg | generator.camera and generator.rendering of the published faces, cats or cars |
| data, mirror, max-images | data (its size sets both img_resolution and the super-resolution), mirror, max_images |
| gpus, device | processes under torchrun, device |
| batch, batch-gpu | batch, micro_batch |
| gamma, density_reg*, reg_type, style_mixing_prob | loss.r1_gamma, loss.density_reg*, loss.style_mixing_prob |
| aug, p, target, augpipe | augmentation |
| resume | latest: the newest such run goes on; else start, with start_config=own and the schedules of a continuation |
| freezed, mbstd-group, disc_c_noise | discriminator.freeze_layers, .mbstd_group_size, .disc_c_noise |
| cbase, cmax, map-depth | generator and discriminator .channel_base and .channel_max, generator.mapping_layers |
| glr, dlr | optim.generator_lr, optim.discriminator_lr |
| gen_pose_cond, c-scale | generator.condition_on_camera, generator.c_scale |
| gpc_reg_prob, gpc_reg_fade_kimg | loss.swap_final, loss.swap_fade_kimg |
| neural_rendering_resolution_initial | generator.neural_rendering_resolution |
| neural_rendering_resolution_final, _fade_kimg | neural_resolution_final, neural_resolution_fade_kimg |
| blur_fade_kimg | loss.blur_fade_kimg, times batch / 32 |
| sr-module, sr_noise_mode, decoder_lr_mul | generator.superresolution, .superresolution_noise_mode, .decoder_lr_mul |
| g_, sr_, d_num_fp16_res, fp32, precision | num_fp16_res and sr_num_fp16_res, precision of both networks |
| kimg, tick, snap, seed, workers, nobench | total_kimg, tick_kimg, snapshot_ticks, seed, workers, cudnn_benchmark |
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from eg3d.config_checks import faults_of
from eg3d.generators.eg3d import GeneratorConfig, afhq512_128, ffhq512_128, shapenet128_64
from eg3d.hydra_command import ConfigError
from eg3d.networks.augment import AugmentConfig, pipe_config
from eg3d.networks.discriminator import DiscriminatorConfig
from eg3d.networks.superresolution import SUPERRESOLUTION_KINDS
from eg3d.one_line import one_line
from eg3d.training.config import (
    DENSITY_REG_TYPES,
    AdversarialLossConfig,
    AugmentationConfig,
    OptimConfig,
    TrainConfig,
)
from eg3d.training.shares import shared_batch
from eg3d.training.state import STATE_NAME

PUBLISHED = {"ffhq": ffhq512_128, "afhq": afhq512_128, "shapenet": shapenet128_64}
BY_RESOLUTION = {512: "8XDC", 256: "4X", 128: "2X"}
RESUMED_ADA_KIMG = 100.0  # published: a transferred discriminator overfits sooner
# Given with a value, these would do nothing; a flag that does nothing is better refused than believed.
WITHOUT_EFFECT = {
    "c_noise": "it is read nowhere in EG3D; disc_c_noise is the noise on the discriminator's labels",
    "sr_first_cutoff": "it belongs to a super-resolution that EG3D does not use",
    "sr_first_stopband": "it belongs to a super-resolution that EG3D does not use",
}
# Flag: the flag that must be set to something else than the value for it to matter.
NEEDS = {
    "p": ("aug", "fixed"),
    "target": ("aug", "ada"),
    "gpc_reg_prob": ("gen_pose_cond", True),
    "gpc_reg_fade_kimg": ("gen_pose_cond", True),
    "c_scale": ("gen_pose_cond", True),
}

Flags = Mapping[str, Any]


def config_from_flags(flags: Flags, *, resolution: int, out: str, given: set[str] | None = None) -> TrainConfig:
    """The checked config of a run on images of `resolution` pixels, written to `out`.

    flags has every flag by its Python name; `given` are those that the user typed. Raises ConfigError with every
    reason in one line.
    """
    faults = _refusals(flags, set() if given is None else given, resolution)
    if faults:
        raise ConfigError("; ".join(faults))
    cfg = TrainConfig(
        out=out,
        data=flags["data"],
        mirror=flags["mirror"],
        max_images=flags["max_images"],
        start=flags["resume"],
        start_config="own" if flags["resume"] else "file",
        seed=flags["seed"],
        device=flags["device"],
        workers=flags["workers"],
        cudnn_benchmark=not flags["nobench"],
        batch=flags["batch"],
        micro_batch=flags["batch_gpu"] or 0,
        total_kimg=float(flags["kimg"]),
        tick_kimg=float(flags["tick"]),
        snapshot_ticks=flags["snap"],
        ema_rampup=None if _is_continuation(flags) else 0.05,
        neural_resolution_final=flags["neural_rendering_resolution_final"],
        neural_resolution_fade_kimg=flags["neural_rendering_resolution_fade_kimg"],
        generator=_generator(flags, resolution),
        discriminator=_discriminator(flags, resolution),
        optim=OptimConfig(generator_lr=flags["glr"], discriminator_lr=flags["dlr"]),
        loss=_loss(flags),
        augmentation=_augmentation(flags),
    )
    faults = faults_of(cfg)
    if faults:
        raise ConfigError("; ".join(faults))
    return cfg


def _is_continuation(flags: Flags) -> bool:
    """Whether the schedules of a fresh run are over: resumed, and not told to begin with blurred images again."""
    return bool(flags["resume"]) and not flags["resume_blur"]


def _precision(flags: Flags) -> str:
    return "fp32" if flags["fp32"] else flags["precision"]


def _generator(flags: Flags, resolution: int) -> GeneratorConfig:
    published = PUBLISHED[flags["cfg"]]()
    return GeneratorConfig(
        mapping_layers=flags["map_depth"],
        channel_base=flags["cbase"],
        channel_max=flags["cmax"],
        num_fp16_res=flags["g_num_fp16_res"],
        decoder_lr_mul=flags["decoder_lr_mul"],
        img_resolution=resolution,
        neural_rendering_resolution=flags["neural_rendering_resolution_initial"],
        superresolution=_superresolution(flags, resolution),
        sr_num_fp16_res=flags["sr_num_fp16_res"],
        superresolution_noise_mode=flags["sr_noise_mode"],
        precision=_precision(flags),
        condition_on_camera=flags["gen_pose_cond"],
        c_scale=flags["c_scale"],
        camera=published.camera,
        rendering=published.rendering,
    )


def _superresolution(flags: Flags, resolution: int) -> str:
    """A kind such as 8X, from its own name or from that of its class in EG3D."""
    named = flags["sr_module"]
    return re.sub(r"^.*SuperresolutionHybrid", "", named) if named else BY_RESOLUTION.get(resolution, "")


def _discriminator(flags: Flags, resolution: int) -> DiscriminatorConfig:
    return DiscriminatorConfig(
        img_resolution=resolution,
        channel_base=flags["cbase"],
        channel_max=flags["cmax"],
        mbstd_group_size=flags["mbstd_group"],
        disc_c_noise=flags["disc_c_noise"],
        freeze_layers=flags["freezed"],
        num_fp16_res=flags["d_num_fp16_res"],
        precision=_precision(flags),
    )


def _loss(flags: Flags) -> AdversarialLossConfig:
    is_continuation = _is_continuation(flags)
    return AdversarialLossConfig(
        r1_gamma=flags["gamma"],
        density_reg=flags["density_reg"],
        density_reg_interval=flags["density_reg_every"],
        density_reg_std=flags["density_reg_p_dist"],
        density_reg_type=flags["reg_type"],
        swap_final=flags["gpc_reg_prob"] if flags["gen_pose_cond"] else None,
        swap_fade_kimg=0.0 if is_continuation else flags["gpc_reg_fade_kimg"],
        style_mixing_prob=flags["style_mixing_prob"],
        blur_init_sigma=0.0 if is_continuation else 10.0,
        blur_fade_kimg=flags["batch"] * flags["blur_fade_kimg"] / 32,
    )


def _augmentation(flags: Flags) -> AugmentationConfig:
    return AugmentationConfig(
        mode="none" if flags["aug"] == "noaug" else flags["aug"],
        p=flags["p"],
        target=flags["target"],
        kimg=RESUMED_ADA_KIMG if _is_continuation(flags) else 500.0,
        pipe=pipe_config(flags["augpipe"]) if flags["aug"] != "noaug" else AugmentConfig(),
    )


def _refusals(flags: Flags, given: set[str], resolution: int) -> list[str]:
    """Why the flags make no run, one line each."""
    faults = [f"{name}: {why}; leave it out" for name, why in WITHOUT_EFFECT.items() if name in given]
    for name, (other, value) in NEEDS.items():
        if name in given and flags[other] != value:
            faults.append(f"{name}: has no effect without {other}={value}; give both or neither")
    if "augpipe" in given and flags["aug"] == "noaug":
        faults.append("augpipe: has no effect with aug=noaug; give aug=ada or aug=fixed")
    if flags["resume_blur"] and not flags["resume"]:
        faults.append("resume_blur: has no effect without resume")
    if "neural_rendering_resolution_fade_kimg" in given and flags["neural_rendering_resolution_final"] is None:
        faults.append("neural_rendering_resolution_fade_kimg: has no effect without neural_rendering_resolution_final")
    if not flags["cond"]:
        faults.append("cond: EG3D renders from camera labels and cannot do without them; leave it out")
    if flags["reg_type"] not in DENSITY_REG_TYPES:
        faults.append(f"reg_type: {flags['reg_type']} has no loss in EG3D either; give {', '.join(DENSITY_REG_TYPES)}")
    if str(flags["resume"] or "").startswith(("http://", "https://")):
        faults.append("resume: nothing is fetched here; download the file and give its path")
    if flags["metrics"] != "none":
        faults.append(
            "metrics: measured apart from training, by python -m eg3d.calc_metrics --network SNAPSHOT; give none"
        )
    return faults + _size_faults(flags, resolution)


def _size_faults(flags: Flags, resolution: int) -> list[str]:
    faults, kind = [], _superresolution(flags, resolution)
    if resolution not in BY_RESOLUTION:
        faults.append(
            f"data: has {resolution}-pixel images; these flags know 128, 256, 512, python -m eg3d.train any size"
        )
    elif kind not in SUPERRESOLUTION_KINDS:
        faults.append(f"sr-module: {flags['sr_module']!r} is not one of {', '.join(SUPERRESOLUTION_KINDS)}")
    elif SUPERRESOLUTION_KINDS[kind].img_resolution != resolution:
        made = SUPERRESOLUTION_KINDS[kind].img_resolution
        faults.append(f"sr-module: {kind} makes {made}-pixel images, the data set has {resolution}")
    per_pass = flags["batch_gpu"] or flags["batch"] // flags["gpus"]
    if per_pass < flags["mbstd_group"]:
        faults.append(f"batch-gpu: {per_pass} is below mbstd-group {flags['mbstd_group']}; give at least as much")
        return faults
    try:
        shared_batch(flags["batch"], flags["batch_gpu"] or 0, num_ranks=flags["gpus"], group=flags["mbstd_group"])
    except ValueError as error:
        faults.append(
            str(error).replace("micro_batch", "batch-gpu").replace("discriminator.mbstd_group_size", "mbstd-group")
        )
    return faults


def run_name(flags: Flags) -> str:
    """What a run folder is called after its number, as in EG3D: ffhq-DATASET-gpus8-batch32-gamma1."""
    parts = [flags["cfg"], Path(flags["data"]).stem, f"gpus{flags['gpus']}", f"batch{flags['batch']}"]
    parts += [f"gamma{flags['gamma']:g}", *([flags["desc"]] if flags["desc"] else [])]
    return "-".join(parts)


def next_folder(outdir: str | Path, name: str) -> Path:
    """OUTDIR/NNNNN-NAME with the first number after all that are there."""
    return Path(outdir) / f"{max(_numbered(outdir), default=-1) + 1:05d}-{name}"


def latest_folder(outdir: str | Path, name: str) -> Path:
    """The newest run of this name that can go on. Raises FileNotFoundError when there is none."""
    runs = {number: folder for number, folder in _numbered(outdir).items() if folder.name == f"{number:05d}-{name}"}
    found = [folder for _, folder in sorted(runs.items()) if (folder / STATE_NAME).is_file()]
    if not found:
        raise FileNotFoundError(
            f"resume: no run NNNNN-{name} with a {STATE_NAME} in {outdir}; leave resume out to begin one"
        )
    return found[-1]


def _numbered(outdir: str | Path) -> dict[int, Path]:
    folders = Path(outdir).iterdir() if Path(outdir).is_dir() else ()
    return {int(f.name[:5]): f for f in folders if f.is_dir() and re.match(r"\d{5}(-|$)", f.name)}


def continued(folder: Path, kimg: float | None) -> TrainConfig:
    """The config that a run folder was made with, to train on, to another length where one is given.

    Raises ValueError in one line when the folder's config is not one of training.
    """
    path = folder / "config.yaml"
    try:
        cfg = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.load(path)))
    except Exception as error:  # OmegaConf, YAML and file errors alike
        raise ValueError(f"{path}: not the config of a training run ({one_line(error)[:200]})") from None
    assert isinstance(cfg, TrainConfig)
    length = cfg.total_kimg if kimg is None else float(kimg)
    return dataclasses.replace(cfg, out=str(folder), total_kimg=length, resume=True, accept_code_change=False)


def words(cfg: Any, default: Any = None, prefix: str = "") -> list[str]:
    """A config as words of `python -m eg3d.train`: only what differs from the defaults."""
    default, found = type(cfg)() if default is None else default, []
    for field in dataclasses.fields(cfg):
        value, usual = getattr(cfg, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            found += words(value, usual, f"{prefix}{field.name}.")
        elif json.dumps(value) != json.dumps(usual):  # a tuple is a list here
            found.append(f"{prefix}{field.name}={_word(value)}")
    return found


def _word(value: Any) -> str:
    """A value as Hydra reads it back; text with characters that mean something to Hydra is quoted."""
    if not isinstance(value, str):
        return json.dumps(value)
    is_special = re.fullmatch(r"(?i)null|true|false|nan|inf", value)
    if re.fullmatch(r"[A-Za-z_/][\w./+-]*", value) and not is_special:
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
