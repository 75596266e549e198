"""A viewer in the browser: python -m eg3d.view --network twin."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from eg3d.checkpoints.store import load_generator
from eg3d.click_command import OneLineCommand
from eg3d.run_folder import choose_device
from eg3d.viewing.browser import HOST, PORT, Viewer, check_viser
from eg3d.viewing.gallery import MODES, Choice, Gallery
from eg3d.viewing.options import network_options


@click.command(cls=OneLineCommand)
@click.option("--network", "networks", multiple=True, default=("twin",), show_default="twin",
              help="Network file or manifest name; give two to compare them.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed to start with.")
@click.option("--trunc", "psi", type=click.FloatRange(0, 1.5), default=0.7, help="Truncation psi to start with.")
@click.option("--mode", type=click.Choice(MODES), default="image", help="What to show first.")
@click.option(
    "--host", default=HOST, help="Address to listen on; 0.0.0.0 lets in other machines that know the printed token."
)
@click.option("--allow-host", "allowed", multiple=True,
              help="Another name by which browsers reach it: behind a proxy, in a container.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, help="The next free port is taken.")
@network_options
def main(
    networks: tuple[str, ...],
    seed: int,
    psi: float,
    mode: str,
    host: str,
    allowed: tuple[str, ...],
    port: int,
    net: str,
    device: str,
) -> None:
    """Serve a page with seed, truncation, an orbiting camera, images, depth and meshes of one or two networks.

    No window is opened: follow the printed address. Ctrl+C ends it. Pages of other sites are not answered.
    """
    if len(networks) > 2:
        raise click.UsageError(f"--network: at most two can be side by side, got {len(networks)}")
    check_viser()
    logging.getLogger("websockets").setLevel(logging.ERROR)
    where = choose_device(device)
    names = [Path(network).stem for network in networks]
    if len(set(names)) < len(names):
        names = [f"{name} ({side})" for name, side in zip(names, ("left", "right"), strict=False)]
    gallery = Gallery(
        {name: load_generator(network, net=net, device=where) for name, network in zip(names, networks, strict=True)}
    )
    viewer = Viewer(gallery, host=host, port=port, start=Choice(seed=seed, psi=psi, mode=mode), names=allowed)
    print(f"viewer: {viewer.url}", flush=True)
    try:
        viewer.server.sleep_forever()
    finally:
        viewer.close()


if __name__ == "__main__":
    main()
