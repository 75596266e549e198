"""Write a published EG3D pickle as safetensors, without running it: python -m eg3d.convert in.pkl out.safetensors."""

from __future__ import annotations

import click

from eg3d.click_command import OneLineCommand


@click.command(cls=OneLineCommand)
@click.argument("source")
@click.argument("target")
@click.option("--networks", default="", metavar="A,B", help="Only these of G_ema, G, D (default: all in the file).")
@click.option("--force", is_flag=True, help="Write TARGET anew if it exists.")
def main(source: str, target: str, networks: str, force: bool) -> None:
    """Convert a published EG3D pickle to safetensors.

    SOURCE is a .pkl file or a name in checkpoints/manifest.json; TARGET is the .safetensors file to write. The pickle
    is read as data: nothing that it names is called, and the code that it carries is hashed and dropped.
    """
    from eg3d.checkpoints.convert_pickle import convert
    from eg3d.checkpoints.manifest import resolve

    path = resolve(source)
    wanted = [name.strip() for name in networks.split(",") if name.strip()]
    done = convert(path, target, networks=wanted, force=force)
    click.echo(f"source: {path}, SHA-256 {done.source_sha256}")
    for net, network in done.networks.items():
        numbers = sum(tensor.numel for tensor in network.tensors.values()) / 1e6
        side = network.config.img_resolution
        click.echo(f"{net}: {len(network.tensors)} tensors, {numbers:.2f} million numbers, {side} pixels")
    for net, reason in done.left_out.items():
        others = ",".join(done.networks)
        click.echo(f"left out: {net} ({reason}); --networks {others} asks for the others alone", err=True)
    click.echo(f"written: {target}")


if __name__ == "__main__":
    main()
