"""The shape of one sample as a file: a mesh (.ply, .glb, .obj) or the density itself (.mrc), in world units.

The field is made once, by the caller; density and colours are queried in parts that fit memory.
Shape letters: D grid side, V vertices.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from eg3d.fields.protocol import Field
from eg3d.ops.density_grid.grid import CHUNK_POINTS, GRIDS, GridSpec
from eg3d.representations.mesh import LEVEL, MESH_SUFFIXES, NoSurface, export_mesh, extract_mesh, hide_border
from eg3d.safe_write import atomic_path

if TYPE_CHECKING:
    import trimesh

BORDER = 30 / 256  # fraction of the cube hidden at each side, as published
VOLUME_SUFFIX = ".mrc"
FORMATS = (".ply", ".glb", ".obj", VOLUME_SUFFIX)
SLAB_POINTS = 2**22  # points of one slab of the grid: 16 MB of densities, 200 MB of coordinates where they are needed

__all__ = ["FORMATS", "NoSurface", "ShapeConfig", "density_volume", "export_volume", "shape_mesh", "write_shape"]


@dataclass(frozen=True)
class ShapeConfig:
    """Which surface of the density, on which grid, in which file."""

    resolution: int = 512  # grid points per side of the cube
    grid: str = "exact"  # "exact" | "skewed": the published grid, whose meshes are sheared by up to a voxel
    level: float = LEVEL  # raw density of the surface
    border: float = BORDER
    format: str = ".ply"
    is_colored: bool = False  # vertices carry the field's colour at the surface

    def validate(self) -> list[str]:
        """All faults, one line each."""
        faults = []
        if self.resolution < 2:
            faults.append(f"resolution: a grid needs at least 2 points per side, got {self.resolution}")
        for name, choices in (("grid", GRIDS), ("format", FORMATS)):
            if getattr(self, name) not in choices:
                faults.append(f"{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}")
        if self.is_colored and self.format == VOLUME_SUFFIX:
            faults.append(
                f"is_colored: a {VOLUME_SUFFIX} file holds densities only; give one of {', '.join(MESH_SUFFIXES)}"
            )
        return faults


def write_shape(field: Field, stem: Path, cfg: ShapeConfig) -> Path:
    """Write the shape of a field of one sample to `stem` with the suffix of cfg.format, atomically; returns the path.

    Raises NoSurface, with the range of the density, where a mesh was asked for and nothing crosses the level.
    """
    faults = cfg.validate()
    if faults:
        raise ValueError("; ".join(faults))
    path = stem.with_suffix(cfg.format)
    volume = density_volume(field, cfg.resolution, grid=cfg.grid)
    if cfg.format == VOLUME_SUFFIX:
        export_volume(hide_border(volume, cfg.border, resolution=cfg.resolution), path, box_warp=field.box_warp)
    else:
        export_mesh(shape_mesh(field, volume, cfg), path)
    return path


@torch.no_grad()
def density_volume(field: Field, resolution: int, *, grid: str) -> np.ndarray:
    """Raw density [D, D, D] float32, in the order (x, y, z), of one sample's field; slab by slab, on the host."""
    volume = np.empty((resolution,) * 3, dtype=np.float32)
    step = max(1, SLAB_POINTS // resolution**2)
    whole = slice(0, resolution)
    for start in range(0, resolution, step):
        part = slice(start, min(start + step, resolution))
        spec = GridSpec(resolution, grid, (part, whole, whole))
        volume[part] = field.density_grid(spec)[0].float().cpu().numpy()
    return volume


def shape_mesh(field: Field, volume: np.ndarray, cfg: ShapeConfig) -> trimesh.Trimesh:
    """The surface of a density volume [D, D, D] in world units, wound outward, with colours if cfg asks for them.

    A skewed volume is meshed as if its points were regular, as published.
    """
    box_warp = field.box_warp
    mesh = extract_mesh(volume, level=cfg.level, box_warp=box_warp, resolution=cfg.resolution, border=cfg.border)
    if cfg.is_colored:
        from trimesh.visual import ColorVisuals

        colors = surface_colors(field, where_sampled(mesh.vertices, cfg, box_warp=box_warp))
        mesh.visual = ColorVisuals(mesh, vertex_colors=colors)
    return mesh


def where_sampled(vertices: np.ndarray, cfg: ShapeConfig, *, box_warp: float) -> np.ndarray:
    """The world points [V, 3] whose density the grid took for that of `vertices` [V, 3]: the same on an exact grid.

    Source of the skewed coordinates: eg3d/ops/density_grid/grid.py, grid_points. They are linear in the grid
    index, so that they also hold between grid points.
    """
    if cfg.grid == "exact":
        return np.asarray(vertices)
    step, side = box_warp / (cfg.resolution - 1), cfg.resolution
    x, y, z = ((np.asarray(vertices) + box_warp / 2) / step).T
    return np.stack([x + y / side + z / side**2, y + z / side, z], axis=1) * step - box_warp / 2


@torch.no_grad()
def surface_colors(field: Field, points: np.ndarray) -> np.ndarray:
    """The field's colours uint8 [V, 3] at world points [V, 3]: its first three channels, before super-resolution."""
    at = torch.from_numpy(np.asarray(points, dtype=np.float32)).to(field.device)
    pieces = at.split(CHUNK_POINTS)
    colors = [field.density_and_color(piece[None])[1][0, :, :3].float().cpu() for piece in pieces]
    return (torch.cat(colors).clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


def export_volume(volume: np.ndarray, path: str | Path, *, box_warp: float) -> None:
    """Write a density volume [D, D, D] (x, y, z) as .mrc, atomically: float32, the header carries box and origin.

    Columns, rows and sections run along x, y and z, so that a viewer shows the shape as it is, not mirrored. Lengths,
    which the format counts in ångström, are world units. Source: MRC2014 (Cheng et al. 2015), table 1.
    """
    if volume.ndim != 3:
        raise ValueError(f"volume must be [X, Y, Z], got {list(volume.shape)}; pass one sample")
    data = np.ascontiguousarray(volume.transpose(2, 1, 0), dtype="<f4")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(_mrc_header(data, step=box_warp / (volume.shape[0] - 1), origin=-box_warp / 2))
        file.write(data.data)  # not tofile, which does not notice when a disk is full at the end


def _mrc_header(data: np.ndarray, *, step: float, origin: float) -> bytes:
    """The 1024 bytes before the densities `data` [Z, Y, X]."""
    sides = data.shape[::-1]
    statistics = (float(data.min()), float(data.max()), float(data.mean(dtype=np.float64)))
    words = struct.pack("<10i", *sides, 2, 0, 0, 0, *sides)  # mode 2: float32
    words += struct.pack("<6f", *(step * side for side in sides), 90.0, 90.0, 90.0)
    words += struct.pack("<3i", 1, 2, 3) + struct.pack("<3f", *statistics)
    words += struct.pack("<2i", 1, 0) + bytes(8) + bytes(4) + struct.pack("<i", 20140) + bytes(84)
    words += struct.pack("<3f", origin, origin, origin) + b"MAP " + bytes([0x44, 0x44, 0, 0])
    words += struct.pack("<f", float(data.std(dtype=np.float64))) + struct.pack("<i", 1)
    return (words + b"raw density, world units".ljust(80)).ljust(1024, b"\0")
