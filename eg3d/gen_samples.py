"""Pictures and shapes of seeds: python -m eg3d.gen_samples --network twin --seeds 0-3 --outdir out --shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from eg3d.checkpoints.store import load_generator
from eg3d.click_command import OneLineCommand, SeedList, split_options
from eg3d.progress import progress_bar
from eg3d.run_folder import choose_device
from eg3d.viewing.options import (
    fov_option,
    network_options,
    shape_config,
    shape_options,
    viewing_config,
    viewing_options,
)
from eg3d.viewing.samples import SamplesConfig, generate_samples


@click.command(cls=OneLineCommand)
@click.option("--network", required=True, help="Network file, or a name of checkpoints/manifest.json.")
@click.option("--seeds", type=SeedList(), required=True, help="Seeds and ranges, 0,1,4-6.")
@click.option("--outdir", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the files.")
@fov_option
@viewing_options()
@shape_options
@click.option("--batch", type=click.IntRange(1), default=1, help="Seeds of one call: more is faster on a GPU.")
@network_options
def main(
    network: str,
    seeds: list[int],
    outdir: Path,
    fov_deg: float | None,
    batch: int,
    net: str,
    device: str,
    **options: Any,
) -> None:
    """Write three views of each seed (yaw 0.4, 0 and -0.4) as a PNG and, with --shapes, its shape in world units.

    A seed gives the same bytes at every call, whatever the other seeds; with --batch above 1, but for rounding.
    """
    shape_values, viewing_values = split_options(options, shape_config, viewing_config)
    cfg = SamplesConfig(
        seeds=seeds,
        outdir=outdir,
        viewing=viewing_config(**viewing_values),
        fov_deg=fov_deg,
        shape=shape_config(**shape_values),
        batch=batch,
    )
    G = load_generator(network, net=net, device=choose_device(device))
    with progress_bar("samples", len(seeds)) as advance:
        written = generate_samples(G, cfg, advance=advance)
    print(f"{len(written.files)} files in {outdir}")
    written.check_surfaces()


if __name__ == "__main__":
    main()
