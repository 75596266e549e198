"""Single facts of a published network: a sub-module, a size, an attribute of the right type and within usual bounds.

Every function refuses (RefusedPickleError, what is wrong in a few words) where the fact is not there or is strange.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eg3d.checkpoints.inert_pickle import refuse, shown
from eg3d.checkpoints.inert_tensors import InertTensor
from eg3d.checkpoints.pickle_records import Record
from eg3d.checkpoints.size_limits import MOST, MOST_REAL, most_of
from eg3d.networks.block_options import CONV_CLAMP


def child(record: Record, path: str) -> Record:
    """The sub-module at a dotted path."""
    for name in path.split("."):
        found = record.children().get(name)
        if not isinstance(found, Record):
            refuse(f"has no sub-module {path}")
        record = found
    return record


def channels(tensors: Mapping[str, InertTensor], prefix: str, suffix: str) -> dict[int, int]:
    """Output channels of the layer `suffix` in every block {prefix}{resolution}, by resolution."""
    found = {}
    for name, tensor in tensors.items():
        number = name.removeprefix(prefix).removesuffix(f".{suffix}")
        if name == f"{prefix}{number}.{suffix}" and number.isdecimal() and len(number) < 6 and tensor.shape:
            found[int(number)] = tensor.shape[0]
    bad = [side for side, size in found.items() if not (4 <= side <= MOST and 0 < size <= MOST)]
    if not found or bad:
        refuse(f"has no blocks {prefix}N of usual sizes")
    return found


def num_reduced(root: Record, path: str) -> int:
    """Blocks that run in reduced precision. All layers have to clamp at CONV_CLAMP if there are any, else none."""
    blocks = child(root, path) if path else root
    sides = sorted((name for name in blocks.children() if name[1:].isdecimal() and name != "b4"), key=len)
    reduced = [name for name in sides if flag(child(blocks, name).state, "use_fp16", False)]
    for name in sides:
        check_clamp(child(blocks, f"{name}.conv1"), CONV_CLAMP if reduced else None)
    return len(reduced)


def check_clamp(layer: Record, wanted: float | None) -> None:
    """Refuse a layer that clamps at another value than `wanted`; None = not at all."""
    found = layer.state.get("conv_clamp", wanted)
    if not (found is None if wanted is None else type(found) in (int, float) and found == wanted):
        refuse(f"has layers clamped at {shown(found)} where networks here clamp at {wanted}")


def num_layers(tensors: Mapping[str, InertTensor], prefix: str) -> int:
    """Layers {prefix}0, {prefix}1, ... of a mapping."""
    count, most = 0, most_of("mapping_layers")
    while f"{prefix}{count}.weight" in tensors:
        count += 1
    if not 1 <= count <= most:
        refuse(f"has {count} mapping layers {prefix}N; 1 to {most} are built")
    return count


def size(tensors: Mapping[str, InertTensor], name: str, dim: int) -> int:
    """One side of a tensor."""
    tensor = tensors.get(name)
    if tensor is None or len(tensor.shape) <= dim:
        refuse(f"has no tensor {name}")
    if not 0 < tensor.shape[dim] <= MOST:
        refuse(f"has a tensor {name} of size {tensor.shape[dim]}; at most {MOST} is built")
    return tensor.shape[dim]


def table(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A table of attributes, empty where there is none."""
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _value(values: Mapping[str, Any], key: str, default: Any) -> Any:
    value = values.get(key, default)
    if value is None:
        refuse(f"lacks {key}")
    return value


def whole(values: Mapping[str, Any], key: str, default: int | None = None, *, low: int = 1) -> int:
    """A whole number, at least `low`."""
    value = _value(values, key, default)
    if type(value) is not int or not low <= value <= most_of(key):
        refuse(f"has {key} = {shown(value)}; a whole number from {low} to {most_of(key)} belongs there")
    return value


def number(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A finite number of usual size."""
    value = _value(values, key, default)
    if type(value) not in (int, float) or not abs(value) <= MOST_REAL:
        refuse(f"has {key} = {shown(value)}; a number belongs there")
    return float(value)


def limit(values: Mapping[str, Any], key: str) -> float | str:
    """A number, or "auto"."""
    return "auto" if values.get(key) == "auto" else number(values, key)


def flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    """True or false."""
    value = _value(values, key, default)
    if type(value) is not bool:
        refuse(f"has {key} = {shown(value)}; true or false belongs there")
    return value


def text(values: Mapping[str, Any], key: str, default: str) -> str:
    """A word."""
    value = _value(values, key, default)
    if type(value) is not str or len(value) > 200:
        refuse(f"has {key} = {shown(value)}; a word belongs there")
    return value
