"""python -m dataset_preprocessing.dataset_tool: a folder or zip of images becomes an EG3D data set."""

from __future__ import annotations

import re
from typing import Any

import click

from eg3d.click_command import OneLineCommand, switch
from eg3d.config_checks import MOST_WORKERS


class Size(click.ParamType):
    """WxH or W,H, pixels."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        found = re.fullmatch(r"(\d+)[x,](\d+)", str(value))
        if found is None:
            self.fail(f"{value!r} is not a size; write 512x512 (width x height)", param, ctx)
        return int(found[1]), int(found[2])


@click.command(cls=OneLineCommand)
@click.option(
    "--source", required=True, help="Folder (with its folders) or zip of images, with dataset.json or without."
)
@click.option("--dest", required=True, help="Zip file to write (stored, not packed), or a new folder.")
@click.option("--max-images", type=int, help="Take only the first images, by name.  [default: all]")
@click.option(
    "--transform",
    type=click.Choice(["none", "center-crop", "center-crop-wide"]),
    default="none",
    help="Crop before resizing: the central square; or the central part of --resolution's shape, on a black square.",
)
@click.option("--resolution", type=Size(), help="Size of the images written, such as 512x512.  [default: as they are]")
@switch("--mirror", help="Also write every image mirrored, with the label of the mirrored camera.")
@switch("--labelled-only", help="Leave out images without a camera label; without it, one such image costs all labels.")
@click.option(
    "--workers", type=click.IntRange(1, MOST_WORKERS), default=2, help="Processes; the bytes do not depend on it."
)
def main(
    source: str,
    dest: str,
    max_images: int | None,
    transform: str,
    resolution: tuple[int, int] | None,
    mirror: bool,
    labelled_only: bool,
    workers: int,
) -> None:
    """Make an EG3D data set from images: crop, resize, keep the camera labels, add mirrored copies.

    Images are read in the order of their names, upright, resized by Lanczos and written as PNG; RGBA loses its alpha.
    Labels are written if every image has one in the source's dataset.json; what has no partner is counted. Labels that
    are no cameras are refused.
    """
    from dataset_preprocessing.conversion import ConversionConfig, convert_images, count_images
    from eg3d.progress import progress_bar

    cfg = ConversionConfig(
        transform=transform,
        resolution=resolution,
        max_images=max_images,
        is_mirrored=mirror,
        is_labelled_only=labelled_only,
    )
    with progress_bar("images", count_images(source, cfg)) as advance:
        report = convert_images(source, dest, cfg, workers=workers, advance=advance)
    for line in report.lines():
        click.echo(line)
    click.echo(f"data set: {dest} ({report.num_images} images)")


if __name__ == "__main__":
    main()
