"""What a strict validator of glTF 2.0 asks of a binary file with one kind of triangle meshes, as one list of faults.

Source: glTF 2.0 specification, sections 3.6 (buffers), 3.7 (meshes) and 4.4 (binary files).
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
TRIANGLES = 4


def glb_faults(data: bytes) -> list[str]:
    """All faults of a .glb file, empty if there is none; whatever cannot be read at all raises."""
    tree, binary, faults = _chunks(data)
    if tree["asset"]["version"] != "2.0":
        faults.append(f"asset version {tree['asset']['version']}")
    if tree["buffers"][0]["byteLength"] not in range(len(binary) - 3, len(binary) + 1):
        faults.append(f"buffer of {tree['buffers'][0]['byteLength']} bytes in a chunk of {len(binary)}")
    faults += _references(tree)
    used = {name for material in tree.get("materials", []) for name in material.get("extensions", {})}
    faults += [f"extension {name} is not announced" for name in used - set(tree.get("extensionsUsed", []))]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            faults += _primitive(tree, binary, primitive)
    return faults


def read_glb(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON tree, and the arrays of the first primitive: POSITION, NORMAL, ..., and `indices`."""
    tree, binary, _ = _chunks(data)
    primitive = tree["meshes"][0]["primitives"][0]
    wanted = {**primitive["attributes"], "indices": primitive["indices"]}
    return tree, {name: _array(tree, binary, index)[0] for name, index in wanted.items()}


def _chunks(data: bytes) -> tuple[dict[str, Any], bytes, list[str]]:
    magic, version, length = struct.unpack_from("<4sII", data)
    faults = [] if (magic, version, length) == (b"glTF", 2, len(data)) else [f"header {magic!r} {version} {length}"]
    parts, at = [], 12
    while at < len(data):
        size, kind = struct.unpack_from("<I4s", data, at)
        faults += [f"chunk of {size} bytes"] if size % 4 else []
        parts.append((kind, data[at + 8 : at + 8 + size]))
        at += 8 + size
    faults += [] if [kind for kind, _ in parts] == [b"JSON", b"BIN\0"] else ["chunks are not JSON and BIN"]
    faults += [] if at == len(data) else ["chunks do not end with the file"]
    return json.loads(parts[0][1]), parts[1][1], faults


def _references(tree: dict[str, Any]) -> list[str]:
    """Indices of scenes, nodes, meshes and materials that point beyond their lists."""
    counts = {name: len(tree.get(name, [])) for name in ("scenes", "nodes", "meshes", "materials", "accessors")}
    found = [("scenes", tree.get("scene", 0))]
    found += [("nodes", node) for scene in tree["scenes"] for node in scene["nodes"]]
    for node in tree["nodes"]:
        found += [("nodes", child) for child in node.get("children", [])]
        found += [("meshes", node["mesh"])] if "mesh" in node else []
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            found += [("accessors", index) for index in (*primitive["attributes"].values(), primitive["indices"])]
            found += [("materials", primitive["material"])] if "material" in primitive else []
    return [f"{name} {index} of {counts[name]}" for name, index in found if not 0 <= index < counts[name]]


def _array(tree: dict[str, Any], binary: bytes, index: int) -> tuple[np.ndarray, list[str]]:
    """The numbers [count, width] of an accessor, and its faults."""
    accessor = tree["accessors"][index]
    view = tree["bufferViews"][accessor["bufferView"]]
    kind, width = np.dtype(COMPONENTS[accessor["componentType"]]), WIDTHS[accessor["type"]]
    offset, count = accessor.get("byteOffset", 0), accessor["count"]
    start = view.get("byteOffset", 0) + offset
    faults = []
    if start % kind.itemsize or view.get("byteStride", 4) % 4 or "byteStride" in view:
        faults.append(f"accessor {index} is not aligned, or has a stride")
    size = count * width * kind.itemsize
    if count < 1 or offset + size > view["byteLength"] or view.get("byteOffset", 0) + view["byteLength"] > len(binary):
        faults.append(f"accessor {index} reaches beyond its view or buffer")
    values = np.frombuffer(binary, kind, count * width, start).reshape(count, width)
    for name, found in (("min", values.min(0)), ("max", values.max(0))):
        if name in accessor and not np.array_equal(np.asarray(accessor[name], kind), found):
            faults.append(f"accessor {index} says {name} {accessor[name]}, the data has {found.tolist()}")
    if kind.kind == "f" and not np.isfinite(values).all():
        faults.append(f"accessor {index} has numbers that are not finite")
    return values, faults


def _primitive(tree: dict[str, Any], binary: bytes, primitive: dict[str, Any]) -> list[str]:
    arrays, faults = {}, []
    for name, index in {**primitive["attributes"], "indices": primitive["indices"]}.items():
        arrays[name], found = _array(tree, binary, index)
        faults += found
    position, indices = arrays["POSITION"], arrays["indices"].reshape(-1)
    accessor = tree["accessors"][primitive["attributes"]["POSITION"]]
    faults += [] if {"min", "max"} <= accessor.keys() else ["POSITION has no bounds"]
    faults += [f"mode {primitive['mode']}"] if primitive.get("mode", TRIANGLES) != TRIANGLES else []
    faults += [
        f"{name} has {len(a)} items" for name, a in arrays.items() if name != "indices" and len(a) != len(position)
    ]
    if indices.dtype.kind != "u" or len(indices) % 3 or indices.max() >= len(position):
        return [*faults, "indices are not whole triangles within the vertices"]
    if indices.max() == np.iinfo(indices.dtype).max:
        faults.append("an index that would restart the primitive")
    if len(np.unique(indices)) < len(position):
        faults.append(f"{len(position) - len(np.unique(indices))} vertices are in no triangle")
    a, b, c = (position[indices[corner::3]].astype(np.float64) for corner in range(3))
    flat = int((np.linalg.norm(np.cross(b - a, c - a), axis=1) == 0).sum())
    faults += [f"{flat} triangles without area"] if flat else []
    if "NORMAL" in arrays:
        off = np.abs(np.linalg.norm(arrays["NORMAL"].astype(np.float64), axis=1) - 1)
        faults += [f"{int((off > 1e-3).sum())} normals are not of unit length"] if (off > 1e-3).any() else []
    return faults
