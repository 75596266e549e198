"""Train with EG3D's own flags: python -m eg3d.train --outdir runs --cfg ffhq --data FFHQ_512.zip --gpus 8 ...

A thin front: `eg3d/training/flags.py` says what each flag sets in the config that `python -m eg3d.train` trains from.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click
from omegaconf import OmegaConf

from eg3d.click_command import OneLineCommand, switch
from eg3d.hydra_command import ConfigError, compose_config, log_to_console
from eg3d.training.config import TrainConfig

FRACTION = click.FloatRange(0, 1)
ABOVE, NOT_BELOW = click.IntRange(min=1), click.IntRange(min=0)
POSITIVE, NOT_NEGATIVE = click.FloatRange(min=0, min_open=True), click.FloatRange(min=0)


@click.command(cls=OneLineCommand)
@click.option("--outdir", required=True, help="Folder for run folders.")
@click.option("--cfg", type=click.Choice(["ffhq", "afhq", "shapenet"]), required=True, help="Cameras and rays.")
@click.option("--data", required=True, help="Data set, zip or folder, with camera labels.")
@click.option("--gpus", type=ABOVE, required=True, help="Processes, one a GPU; with --device cpu, CPU processes.")
@click.option("--batch", type=ABOVE, required=True, help="Images a step, over all GPUs.")
@click.option("--gamma", type=NOT_NEGATIVE, required=True, help="Weight of R1, 0 = off.")
@switch("--cond", default=True, help="Camera labels; EG3D cannot do without.")
@switch("--mirror", help="Every image again, mirrored, with its camera mirrored too.")
@click.option("--max-images", type=ABOVE, help="Train on a random subset of this size.")
@click.option("--aug", type=click.Choice(["noaug", "ada", "fixed"]), default="noaug", help="Augmentation.")
@click.option("--augpipe", default="bgc", help="blit, geom, color, filter, noise, cutout, bg, bgc, ... bgcfnc.")
@click.option("--p", type=FRACTION, default=0.2, help="Its probability, with --aug fixed.")
@click.option("--target", type=click.FloatRange(-1, 1), default=0.6, help="ADA target, with --aug ada.")
@click.option("--resume", help="latest: go on with the newest such run; else a network file or name.")
@switch("--resume_blur", help="Resumed runs begin with the schedules of a fresh one.")
@click.option("--freezed", type=NOT_BELOW, default=0, help="First layers of the discriminator to freeze.")
@click.option("--batch-gpu", type=ABOVE, help="Images a forward pass of one GPU.  [default: batch / gpus]")
@click.option("--cbase", type=ABOVE, default=32768, help="Channels at resolution r: min(cbase / r, cmax).")
@click.option("--cmax", type=ABOVE, default=512, help="Most channels.")
@click.option("--glr", type=NOT_NEGATIVE, default=0.0025, help="Learning rate of the generator.")
@click.option("--dlr", type=NOT_NEGATIVE, default=0.002, help="Learning rate of the discriminator.")
@click.option("--map-depth", type=ABOVE, default=2, help="Layers of the mapping network.")
@click.option("--mbstd-group", type=ABOVE, default=4, help="Images of a minibatch-std group.")
@click.option("--desc", help="End of the run folder's name.")
@click.option("--metrics", default="none", help="none: snapshots are measured by python -m eg3d.calc_metrics.")
@click.option("--kimg", type=NOT_NEGATIVE, default=25000, help="Length in thousands of images.")
@click.option("--tick", type=POSITIVE, default=4, help="Thousands of images a line of statistics.")
@click.option("--snap", type=ABOVE, default=50, help="Ticks a snapshot.")
@click.option("--seed", type=NOT_BELOW, default=0, help="Of everything random.")
@click.option("--workers", type=ABOVE, default=3, help="Threads that decode images.")
@switch("--nobench", help="No trying of cuDNN's algorithms.")
@switch("--fp32", help="No reduced precision anywhere; the clamps stay.")
@click.option("--precision", type=click.Choice(["fp16", "bf16", "fp32"]), default="fp16", help="Of the blocks below.")
@click.option("--sr_num_fp16_res", type=NOT_BELOW, default=4, help="Above 0: reduced precision in super-resolution.")
@click.option("--g_num_fp16_res", type=NOT_BELOW, default=0, help="The same, for the highest backbone resolutions.")
@click.option("--d_num_fp16_res", type=NOT_BELOW, default=4, help="The same, for those of the discriminator.")
@click.option("--neural_rendering_resolution_initial", type=ABOVE, default=64, help="Pixels of the raw image.")
@click.option("--neural_rendering_resolution_final", type=ABOVE, help="Pixels of the raw image in the end.")
@click.option("--neural_rendering_resolution_fade_kimg", type=NOT_NEGATIVE, default=1000.0, help="How long that takes.")
@click.option("--blur_fade_kimg", type=NOT_NEGATIVE, default=200.0, help="Fading of the blur, for batch 32.")
@switch("--gen_pose_cond", help="Condition the generator on the camera.")
@click.option("--c-scale", type=NOT_NEGATIVE, default=1.0, help="Scale of that condition.")
@click.option("--gpc_reg_prob", type=FRACTION, default=0.5, help="Chance of a swapped camera in that condition.")
@click.option("--gpc_reg_fade_kimg", type=NOT_NEGATIVE, default=1000.0, help="Fading from always to that chance.")
@click.option("--c-noise", type=float, default=0.0, help="Refused: EG3D reads it nowhere.")
@click.option("--disc_c_noise", type=NOT_NEGATIVE, default=0.0, help="Noise on the discriminator's labels.")
@click.option("--sr_noise_mode", type=click.Choice(["none", "random"]), default="none", help="Super-resolution noise.")
@click.option("--sr-module", help="2X, 4X, 8X or 8XDC, or EG3D's class name.  [default: by resolution]")
@click.option("--sr_first_cutoff", type=float, help="Refused: without effect.")
@click.option("--sr_first_stopband", type=float, help="Refused: without effect.")
@click.option("--style_mixing_prob", type=FRACTION, default=0.0, help="Share of samples with two styles.")
@click.option("--density_reg", type=NOT_NEGATIVE, default=0.25, help="Weight of density regularisation, 0 = off.")
@click.option("--density_reg_every", type=NOT_BELOW, default=4, help="Steps between its passes.")
@click.option("--density_reg_p_dist", type=NOT_NEGATIVE, default=0.004, help="Deviation of its points, world units.")
@click.option(
    "--reg_type",
    type=click.Choice(["l1", "monotonic-detach", "monotonic-fixed", "l1-alt", "total-variation"]),
    default="l1",
    help="Its kind; EG3D has no loss for the last two.",
)
@click.option("--decoder_lr_mul", type=NOT_NEGATIVE, default=1.0, help="Learning rate of the decoder, relative.")
@click.option("--device", default="auto", help="auto, cpu, cuda or mps.")
@click.option("-n", "--dry-run", is_flag=True, help="Print the resolved config and stop.")
@click.argument("further", metavar="[KEY=VALUE]...", nargs=-1)
@click.pass_context
def main(context: click.Context, further: tuple[str, ...], **flags: Any) -> None:
    """Train an EG3D generator with the flags of EG3D's train.py.

    The same as python -m eg3d.train with KEY=VALUE words, which --dry-run prints. Those reach every field of the
    config; some may follow the flags here, and win.
    """
    from eg3d.data import ImageDataset
    from eg3d.training.flags import config_from_flags, continued, latest_folder, next_folder, run_name, words
    from eg3d.training.ranks import is_launched

    if is_launched():
        raise click.UsageError("--gpus starts the processes itself; without torchrun, or with the words of --dry-run")
    given = {name for name in flags if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT}
    try:
        if flags["resume"] == "latest":
            cfg = continued(latest_folder(flags["outdir"], run_name(flags)), flags["kimg"] if "kimg" in given else None)
        else:
            out = str(next_folder(flags["outdir"], run_name(flags)))
            resolution = ImageDataset(flags["data"]).resolution
            cfg = config_from_flags(flags, resolution=resolution, out=out, given=given)
        command = [*words(cfg), *further]
        cfg = compose_config("train", TrainConfig, command)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    if flags["dry_run"]:
        print(OmegaConf.to_yaml(OmegaConf.structured(cfg)).rstrip())
        print(f"# {shlex.join(_start(flags['gpus'])[1:])} {shlex.join(command)}")
        return
    _check_gpus(flags["gpus"], flags["device"])
    if flags["gpus"] > 1:
        _replace_process([sys.executable, *_start(flags["gpus"])[1:], *command])
    from eg3d.training.loop import train

    log_to_console()
    print(f"snapshot: {train(cfg).snapshot}")


def has_flags(arguments: Sequence[str]) -> bool:
    """Whether command-line arguments are these flags and not words of Hydra (whose --cfg is another one)."""
    known = {name.replace("_", "-") for option in main.params for name in option.opts} - {"--cfg", "--help", "-n"}
    return any(argument.split("=")[0].replace("_", "-") in known for argument in arguments)


def _start(gpus: int) -> list[str]:
    """The command that trains on so many processes, without its words."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"] if gpus > 1 else []
    return ["python", *torchrun, "-m", "eg3d.train"]


def _check_gpus(gpus: int, device: str) -> None:
    import torch

    from eg3d.run_folder import choose_device

    kind, there = choose_device(device).type, torch.cuda.device_count()
    if gpus > 1 and device == "auto" and kind != "cuda":
        raise ValueError(
            f"gpus: {gpus} asked for, but torch sees none; give 1, or --device cpu for {gpus} CPU processes"
        )
    if kind == "cuda" and gpus > there:
        raise ValueError(f"gpus: {gpus} asked for, but torch sees {there}; give at most {there}")


def _replace_process(command: list[str]) -> NoReturn:
    """Become another command, so that signals and the exit code are its own."""
    sys.stdout.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
