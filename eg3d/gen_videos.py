"""Films of seeds: python -m eg3d.gen_videos --network twin --seeds 0-3 --outdir out --w-frames 60."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from eg3d.checkpoints.store import load_generator
from eg3d.click_command import OneLineCommand, SeedList, split_options, switch
from eg3d.generators.eg3d import afhq512_128, ffhq512_128, shapenet128_64
from eg3d.progress import progress_bar
from eg3d.run_folder import choose_device
from eg3d.viewing.film import BITRATE, FPS, IMAGE_MODES, FilmConfig
from eg3d.viewing.options import (
    fov_option,
    network_options,
    shape_config,
    shape_options,
    viewing_config,
    viewing_options,
)
from eg3d.viewing.videos import VideosConfig, generate_videos
from eg3d.viewing.views import with_fov

PRESETS = {"FFHQ": ffhq512_128, "AFHQ": afhq512_128, "Shapenet": shapenet128_64}


class GridSize(click.ParamType):
    """Columns and rows, "4x3"."""

    name = "grid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)x(\d+)", str(value))
        if match is None:
            self.fail(f"{value!r} is not columns and rows; write 4x3", param, ctx)
        return int(match[1]), int(match[2])


@click.command(cls=OneLineCommand)
@click.option("--network", required=True, help="Network file, or a name of checkpoints/manifest.json.")
@click.option("--seeds", type=SeedList(), required=True, help="Seeds and ranges, 0,1,4-6.")
@click.option("--outdir", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the files.")
@switch("--interpolate", default=True, help="One film through all seeds; else one orbit around each.")
@click.option("--shuffle-seed", type=int, help="Seed for another order of the seeds. [default: as given]")
@click.option("--grid", type=GridSize(), default="1x1", help="Columns and rows of cells.")
@click.option("--num-keyframes", type=click.IntRange(1), help="Seeds a cell. [default: all seeds, shared evenly]")
@click.option("--w-frames", type=click.IntRange(1), default=120, help="Frames between two keyframes, or of an orbit.")
@click.option("--image-mode", type=click.Choice(IMAGE_MODES), default="image", help="What the film shows.")
@click.option(
    "--cfg",
    "preset",
    type=click.Choice(list(PRESETS)),
    help="Focal length of a published data set. [default: the network's]",
)
@fov_option
@viewing_options(sample_multiplier=2.0)
@shape_options
@click.option("--fps", type=click.IntRange(1), default=FPS, help="Frames a second.")
@click.option("--bitrate", default=BITRATE, help="Bits a second.")
@network_options
def main(
    network: str,
    seeds: list[int],
    outdir: Path,
    interpolate: bool,
    shuffle_seed: int | None,
    preset: str | None,
    fov_deg: float | None,
    fps: int,
    bitrate: str,
    net: str,
    device: str,
    **options: Any,
) -> None:
    """Write films (.mp4) in which the camera orbits while the latent moves through the seeds.

    Two calls show the same frames. Nothing is drawn anew from frame to frame, so that nothing flickers.
    """
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(seeds)
    shape_values, viewing_values = split_options(options, shape_config, viewing_config)
    film = FilmConfig(
        seeds=seeds,
        viewing=viewing_config(**viewing_values),
        grid=options["grid"],
        num_keyframes=options["num_keyframes"],
        frames_per_keyframe=options["w_frames"],
        image_mode=options["image_mode"],
    )
    cfg = VideosConfig(
        film=film, outdir=outdir, interpolates=interpolate, shape=shape_config(**shape_values), fps=fps, bitrate=bitrate
    )
    faults = cfg.validate()
    if faults:
        raise click.UsageError("; ".join(faults))
    G = load_generator(network, net=net, device=choose_device(device))
    focal = G.cfg.camera.focal if preset is None else PRESETS[preset]().camera.focal
    cfg = replace(cfg, camera=with_fov(replace(G.cfg.camera, focal=focal), fov_deg))
    with progress_bar("frames", cfg.num_frames) as advance:
        written = generate_videos(G, cfg, advance=advance)
    print(f"{len(written.files)} files in {outdir}")
    written.check_surfaces()


if __name__ == "__main__":
    main()
