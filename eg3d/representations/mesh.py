"""Density volume -> surface: marching cubes in world units, a few facts about the mesh, GLB/PLY/OBJ files.

A volume has the order (x, y, z) of eg3d/representations/sigma_field.py; X, Y, Z are its sides. A triangle winds
counter-clockwise seen from outside, where the density is lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from eg3d.representations.flat_faces import without_flat_faces
from eg3d.safe_write import atomic_path

if TYPE_CHECKING:
    import trimesh

LEVEL = 10.0  # raw density of the surface, as published
BORDER_FILL = -1000.0  # raw density that hides the border, as published
MESH_SUFFIXES = (".glb", ".ply", ".obj")
_MATT = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.8}}
_UNLIT = "KHR_materials_unlit"
_UNIT_TOLERANCE = 1e-4  # how far the length of a normal may be from 1; glTF's validator allows a little more


class NoSurface(ValueError):
    """No density of the volume crosses the level."""


def extract_mesh(
    volume: np.ndarray | Tensor,
    *,
    level: float = LEVEL,
    box_warp: float = 1.0,
    resolution: int,
    origin_index: Sequence[int] = (0, 0, 0),
    border: float | Sequence[float] = 0.0,
) -> trimesh.Trimesh:
    """The surface where raw density `volume` [X, Y, Z] crosses `level`, as a mesh in world units.

    resolution: points per side of the whole cube, whose side is `box_warp`; origin_index: the grid index of
    volume[0, 0, 0] (the starts of slab_slices for a slab). border: fraction of the cube that is hidden at each side,
    one number or six (x low, x high, y low, y high, z low, z high); int(fraction * resolution) points are filled with
    -1000, which also closes the surface there. Raises NoSurface if nothing crosses the level.
    """
    import trimesh

    vertices, faces = surface(hide_border(volume, border, resolution=resolution, origin_index=origin_index), level)
    world = (vertices + np.asarray(origin_index)) * (box_warp / (resolution - 1)) - box_warp / 2
    return trimesh.Trimesh(vertices=world, faces=faces, process=False)


def surface(volume: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Marching cubes: vertices [V, 3] in voxels (float32), faces [F, 3] wound outward. NoSurface without one.

    Every face has an area and every vertex a face, also where the density hits the level exactly.
    """
    from skimage.measure import marching_cubes

    low, high = float(volume.min()), float(volume.max())
    if not low < level < high or min(volume.shape) < 2:  # not <: also refuses NaN
        raise NoSurface(
            f"no surface: density of the {'x'.join(map(str, volume.shape))} volume spans {low:.4g} to {high:.4g} "
            f"and does not cross level {level:g}; give a level inside that range or a smaller border"
        )
    # "ascent" winds the faces outward for a density that rises inwards, whatever the name suggests (tested).
    vertices, faces, _, _ = marching_cubes(volume, level, gradient_direction="ascent", method="lewiner")
    used, faces = without_flat_faces(vertices, faces)
    if not len(faces):
        raise NoSurface(f"no surface: density touches level {level:g} in points or lines only; give another level")
    return vertices[used], faces


def hide_border(
    volume: np.ndarray | Tensor,
    border: float | Sequence[float],
    *,
    resolution: int,
    origin_index: Sequence[int] = (0, 0, 0),
) -> np.ndarray:
    """A float32 copy of `volume` [X, Y, Z] with -1000 at the border of the cube that it is part of."""
    values = volume.detach().cpu().numpy() if isinstance(volume, Tensor) else np.asarray(volume)
    if values.ndim != 3:
        raise ValueError(f"volume must be [X, Y, Z], got {list(values.shape)}; pass one sample")
    fractions = np.broadcast_to(np.asarray(border, dtype=float).reshape(-1), (6,)).reshape(3, 2)
    if (fractions < 0).any() or (fractions.sum(1) >= 1).any():
        raise ValueError(f"border: expected fractions >= 0 that leave something, got {border}")
    hidden = np.array(values, dtype=np.float32, copy=True)
    for axis, (low, high) in enumerate(fractions):
        index = np.arange(values.shape[axis]) + origin_index[axis]
        is_border = (index < int(low * resolution)) | (index >= resolution - int(high * resolution))
        np.moveaxis(hidden, axis, 0)[is_border] = BORDER_FILL
    return hidden


def export_mesh(mesh: trimesh.Trimesh, path: str | Path) -> None:
    """Write the mesh atomically as .glb, .ply or .obj, by the suffix of `path`; ValueError for any other suffix."""
    data = mesh_bytes(mesh, Path(path).suffix.lower())
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def mesh_bytes(mesh: trimesh.Trimesh, suffix: str) -> bytes:
    """A mesh as the contents of a .glb, .ply or .obj file; ValueError for any other suffix.

    Files carry unit vertex normals (mean of the faces around a vertex) and, if the mesh has them, vertex colours. Faces
    without area in float32, as files hold positions, and vertices that no face uses are left out.
    """
    if suffix not in MESH_SUFFIXES:
        raise ValueError(f"a mesh file ends in {', '.join(MESH_SUFFIXES)}, not in {suffix!r}")
    written = _as_written(mesh, has_linear_colors=suffix == ".glb")
    if suffix == ".ply":
        data = written.export(file_type="ply", vertex_normal=True)
    elif suffix == ".obj":
        data = written.export(file_type="obj", include_normals=True)
    else:
        finish = _make_unlit if getattr(written.visual, "kind", None) == "vertex" else _make_matt
        data = written.export(file_type="glb", include_normals=True, tree_postprocessor=finish)
    return data.encode("utf-8") if isinstance(data, str) else bytes(data)  # type: ignore[arg-type]


def _as_written(mesh: trimesh.Trimesh, *, has_linear_colors: bool) -> trimesh.Trimesh:
    """The mesh with float32 positions, without what a file must not have, and with a unit normal at every vertex."""
    import trimesh
    from trimesh.visual import ColorVisuals

    positions = np.asarray(mesh.vertices).astype(np.float32)
    used, faces = without_flat_faces(positions, np.asarray(mesh.faces), shortest=0.0, least_area=0.0)
    if not len(faces):
        raise ValueError("there is no mesh to write: none of its faces has an area")
    written = trimesh.Trimesh(vertices=positions[used], faces=faces, process=False)
    written.vertex_normals = _unit_normals(written)  # type: ignore[method-assign]
    if getattr(mesh.visual, "kind", None) == "vertex":
        colors = np.asarray(mesh.visual.vertex_colors)[used, :3]  # type: ignore[union-attr]
        written.visual = ColorVisuals(written, vertex_colors=_linear(colors) if has_linear_colors else colors)
    return written


def _unit_normals(mesh: trimesh.Trimesh) -> np.ndarray:
    """Vertex normals [V, 3]; where the faces around a vertex cancel, as in a sheet without thickness, that of one."""
    normals = np.array(mesh.vertex_normals)
    lost = np.abs(np.linalg.norm(normals, axis=1) - 1) > _UNIT_TOLERANCE
    if lost.any():
        a, b, c = (np.asarray(mesh.vertices)[mesh.faces[:, corner]] for corner in range(3))
        cross = np.cross(b - a, c - a)
        one = np.empty(len(normals), dtype=np.int64)
        one[mesh.faces.reshape(-1)] = np.repeat(np.arange(len(mesh.faces)), 3)
        normals[lost] = cross[one[lost]] / np.linalg.norm(cross[one[lost]], axis=1, keepdims=True)
    return normals


def _make_matt(tree: dict[str, Any]) -> None:
    """Without a material, glTF 2.0 (5.19) takes a surface for metal: black where there is nothing to mirror."""
    _set_material(tree, dict(_MATT))


def _make_unlit(tree: dict[str, Any]) -> None:
    """Colours of a field have their light in them; a viewer's own would light them twice. KHR_materials_unlit."""
    _set_material(tree, {**_MATT, "extensions": {_UNLIT: {}}})  # viewers without it light a matt surface
    tree["extensionsUsed"] = [_UNLIT]


def _set_material(tree: dict[str, Any], material: dict[str, Any]) -> None:
    tree["materials"] = [material]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0


def _linear(colors: np.ndarray) -> np.ndarray:
    """glTF 2.0 (3.9.2) takes vertex colours uint8 [V, 3] as linear light; ours are display values, like images'."""
    display = colors / 255.0
    linear = np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
    return (linear * 255 + 0.5).astype(np.uint8)
