"""Command-line options that samples, films and the viewer share, under the names that EG3D's users know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from eg3d.click_command import Cutoff, switch
from eg3d.networks.noise import NOISE_MODES
from eg3d.ops.density_grid.grid import GRIDS
from eg3d.rendering.compositing import DEPTH_CLAMPS
from eg3d.representations.mesh import LEVEL
from eg3d.representations.shape import FORMATS, ShapeConfig
from eg3d.samples import PUBLISHED_CUTOFF
from eg3d.viewing.views import ViewingConfig

Decorator = Callable[[Any], Any]
fov_option = click.option(
    "--fov-deg",
    type=click.FloatRange(0, 180, min_open=True, max_open=True),
    help="Diagonal field of view. [default: the network's own cameras; EG3D's script rounded 18.837 to 18]",
)


def network_options(function: Any) -> Any:
    """--net and --device; --network is each command's own."""
    return _all(
        click.option("--net", default="G_ema", help="Network of the file."),
        click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps."),
    )(function)


def viewing_options(*, sample_multiplier: float = 1.0) -> Decorator:
    """Everything of ViewingConfig; viewing_config takes the values."""
    return _all(
        click.option("--trunc", "psi", type=float, default=1.0, help="Truncation psi."),
        click.option(
            "--trunc-cutoff",
            "truncation_cutoff",
            type=Cutoff(),
            default=PUBLISHED_CUTOFF,
            help="Style codes that are truncated, from the first on: a number, or all.",
        ),
        click.option("--nrr", type=click.IntRange(1), help="Neural rendering resolution, px. [default: the network's]"),
        click.option(
            "--sample-mult",
            type=click.FloatRange(0, min_open=True),
            default=sample_multiplier,
            help="Multiplies the numbers of samples along a ray.",
        ),
        click.option("--noise-mode", type=click.Choice(NOISE_MODES), default="const", help="Noise of the backbone."),
        switch("--jitter", help="Random distances along rays, the same for every picture."),
        click.option("--noise-seed", type=int, default=0, help="Of --noise-mode random and --jitter."),
        click.option(
            "--depth-clamp",
            type=click.Choice(DEPTH_CLAMPS),
            default="sample",
            help="'batch' as published: pictures then depend on their neighbours.",
        ),
    )


def viewing_config(
    *,
    psi: float,
    truncation_cutoff: int | None,
    nrr: int | None,
    sample_mult: float,
    noise_mode: str,
    jitter: bool,
    noise_seed: int,
    depth_clamp: str,
) -> ViewingConfig:
    """The configuration that viewing_options gave."""
    return ViewingConfig(
        psi=psi,
        truncation_cutoff=truncation_cutoff,
        noise_mode=noise_mode,
        jitter=jitter,
        noise_seed=noise_seed,
        depth_clamp=depth_clamp,
        sample_multiplier=sample_mult,
        neural_rendering_resolution=nrr,
    )


def shape_options(function: Any) -> Any:
    """--shapes and how a shape is made; shape_config takes the values."""
    return _all(
        switch("--shapes", help="Write shapes too."),
        click.option("--shape-res", type=click.IntRange(2, 1024), default=512, help="Grid points per side of the box."),
        click.option(
            "--shape-format",
            type=click.Choice(FORMATS),
            default=".ply",
            help="A mesh, or the density (.mrc). trimesh shows no vertex colours of a .glb, which has a material; "
            "of a .ply it does.",
        ),
        click.option(
            "--shape-grid",
            type=click.Choice(GRIDS),
            default="exact",
            help="'skewed' as published: meshes are sheared by up to a voxel.",
        ),
        click.option("--shape-level", type=float, default=LEVEL, help="Raw density of the surface."),
        switch("--shape-colors", help="Colour vertices by the field's colour at the surface."),
    )(function)


def shape_config(
    *, shapes: bool, shape_res: int, shape_format: str, shape_grid: str, shape_level: float, shape_colors: bool
) -> ShapeConfig | None:
    """The configuration that shape_options gave; None without --shapes. Raises click.UsageError for its faults."""
    if not shapes:
        return None
    cfg = ShapeConfig(
        resolution=shape_res, grid=shape_grid, level=shape_level, format=shape_format, is_colored=shape_colors
    )
    faults = cfg.validate()
    if faults:
        raise click.UsageError("; ".join(faults))
    return cfg


def _all(*decorators: Decorator) -> Decorator:
    """Apply decorators so that --help lists them in this order."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate
