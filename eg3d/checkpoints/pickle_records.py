"""A published pickle as records: networks, their attributes and tensors, without running what the file carries.

The names below are all that a file may use. Classes of the official package become records of the same name; the
source code that a file carries for them is hashed, so that a reader can say which code wrote it, and dropped.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eg3d.checkpoints.inert_pickle import Inert, Limits, Names, RefusedPickleError, Rule, read_values, refuse, shown
from eg3d.checkpoints.inert_tensors import tensor_names

PERSISTENT_VERSION = 6
_RELATIVES = {  # classes of other head generators that build on EG3D's code
    "TriPlaneSingSphGenerator_flatten": "HyPlaneHead", "TriGridGenerator": "HyPlaneHead",
    "SHDiscriminator": "HyPlaneHead", "HoloDiscriminator": "SphereHead",
    "MaskDualDiscriminatorV2": "PanoHead", "MaskDualDiscriminator": "PanoHead",
}  # fmt: skip
_RELATIVE_PARTS = {"ConvA": "SphereHead", "t_mapping": "PanoHead", "bcg_synthesis": "PanoHead"}  # under EG3D's class
_PLAIN_CLASSES = (
    ("torch.nn.modules.activation", "Softplus"),
    ("torch.nn.modules.container", "Sequential"),
    ("training.triplane", "OSGDecoder"),
    ("training.volumetric_rendering.ray_marcher", "MipRayMarcher2"),
    ("training.volumetric_rendering.ray_sampler", "RaySampler"),
    ("training.volumetric_rendering.renderer", "ImportanceRenderer"),
)
_BUILTINS = ("builtins", "__builtin__")


@dataclass
class Record(Inert):
    """An object of a file: the name of its class and its attributes as data."""

    class_name: str
    state: dict[str, Any]
    source_sha256: str | None = None  # of the module source that the file carries for the class

    def build(self, state: Any) -> None:
        """Attributes of an object that was made without any."""
        if self.source_sha256 is not None or self.state or not isinstance(state, dict):
            refuse(f"hands a second or strange state to an object of {shown(self.class_name)}")
        self.state = state

    def parts(self) -> Iterable[Any]:
        """Its attributes."""
        return (self.state,)

    def children(self) -> dict[str, Record]:
        """Sub-modules by name."""
        return {name: child for name, child in self._entries("_modules").items() if child is not None}

    def tensors(self, kind: str) -> dict[str, Any]:
        """Own parameters or buffers (`_parameters`, `_buffers`) by name, those that are saved and not None."""
        skipped = self.state.get("_non_persistent_buffers_set") or ()
        is_listed = isinstance(skipped, (set, frozenset, list))
        return {
            name: value
            for name, value in self._entries(kind).items()
            if value is not None and not (is_listed and name in skipped)
        }

    def _entries(self, key: str) -> dict[str, Any]:
        entries = self.state.get(key, {})
        if not isinstance(entries, dict) or not all(type(name) is str for name in entries):
            refuse(f"has an object of {shown(self.class_name)} whose {key} is not a table by name")
        return entries


def read_published(path: str | os.PathLike[str], *, limits: Limits | None = None) -> dict[str, Any]:
    """The top-level table of a published file, networks as records.

    The file is mapped, not read: tensors are views that copy nothing until asked for. Raises FileNotFoundError without
    a file, RefusedPickleError (one line, with the path) for one that is not as described.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no network file at {path}")
    try:
        return _top_level(_mapped(path), limits)
    except RefusedPickleError as error:
        raise RefusedPickleError(f"{path} {error}") from None


def _mapped(path: Path) -> memoryview:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            refuse("is empty")
        # Private and writable, so that torch takes views of it; nothing writes, and nothing could reach the file.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _top_level(data: memoryview, limits: Limits | None) -> dict[str, Any]:
    if data[:4] == b"PK\x03\x04":
        refuse("is a zip archive (torch.save's newer format, or a data set), not a published pickle of EG3D")
    root, end = read_values(data, official_names(), limits=limits)
    if end != len(data):
        refuse(f"goes on for {len(data) - end} bytes after its end")
    if isinstance(root, Record):
        refuse_relatives(root)
        refuse(
            f"holds one network by itself ({shown(root.class_name)}), not the table of networks that training writes; "
            "have the code that made it save {'G_ema': network} instead"
        )
    if not isinstance(root, dict):
        refuse(f"holds a {type(root).__name__} instead of a table of networks")
    return root


def refuse_relatives(network: Record) -> None:
    """Refuse the networks of projects that share class names with EG3D, by the name that people know them by."""
    parts = [family for part, family in _RELATIVE_PARTS.items() if part in network.children()]
    family = _RELATIVES.get(network.class_name) or next(iter(parts), None)
    if family is not None:
        refuse(f"is a {family} network; it is not read yet, only networks of EG3D are")


# ---------------------------------------------------------------------------------------------- names


def official_names() -> Names:
    """The closed list for one file: what is costly is counted, or done once for a value that the file repeats."""
    return {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): Rule(call=_persistent_maker()),
        ("dnnlib.util", "EasyDict"): Rule(new=dict),
        ("collections", "OrderedDict"): Rule(call=_empty_dict, new=dict),
        ("dnnlib.tflib.network", "Network"): Rule(
            refusal="a network of the TensorFlow era, which no EG3D model is; give a pickle of EG3D"
        ),
        ("_codecs", "encode"): Rule(call=_latin_maker()),
        **{(module, "bytes"): Rule(call=_no_bytes) for module in _BUILTINS},
        **{(module, "set"): Rule(call=_items) for module in _BUILTINS},
        **{(module, "frozenset"): Rule(call=_items) for module in _BUILTINS},
        **{(module, name): Rule() for module in _BUILTINS for name in ("object", "dict")},
        **{(module, "_reconstructor"): Rule(call=_reconstructor) for module in ("copyreg", "copy_reg")},
        **{(module, name): Rule(new=functools.partial(_plain, name)) for module, name in _PLAIN_CLASSES},
        **tensor_names(),
    }


def _plain(class_name: str) -> Record:
    return Record(class_name, {})


def _persistent_maker() -> Any:
    digests: dict[str, str] = {}

    def make(arguments: tuple[Any, ...]) -> Record:
        fields = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], dict) else {}
        if set(fields) != {"type", "version", "module_src", "class_name", "state"} or fields["type"] != "class":
            refuse("has a persistent object that is not described by type, version, source, class and state")
        version, source, state = fields["version"], fields["module_src"], fields["state"]
        if type(version) is not int or version != PERSISTENT_VERSION:
            refuse(f"has a persistent object of version {shown(version)}; version {PERSISTENT_VERSION} is known")
        if type(source) is not str or type(fields["class_name"]) is not str or not isinstance(state, dict):
            refuse("has a persistent object whose source, class name or state is of another type")
        if source not in digests:
            digests[source] = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        return Record(fields["class_name"], state, digests[source])

    return make


def _latin_maker() -> Any:
    """Bytes of protocols 0 to 2, which stand in the file as text."""
    encoded: dict[str, bytes] = {}

    def make(arguments: tuple[Any, ...]) -> bytes:
        is_text = len(arguments) == 2 and type(arguments[0]) is str
        if not is_text or arguments[1] not in ("latin1", "latin-1"):
            refuse("encodes something other than bytes written as text")
        text = arguments[0]
        if text not in encoded:
            try:
                encoded[text] = text.encode("latin-1")
            except UnicodeEncodeError:
                refuse("encodes a text that is not bytes written as text")
        return encoded[text]

    return make


def _no_bytes(arguments: tuple[Any, ...]) -> bytes:
    """Protocols 0 to 2 write bytes of length 0 as a call without arguments."""
    if arguments:
        refuse("makes bytes by a call")
    return b""


def _empty_dict(arguments: tuple[Any, ...]) -> dict[str, Any]:
    if arguments:
        refuse("fills an ordered table by a call")
    return {}


def _items(arguments: tuple[Any, ...]) -> list[Any]:
    """A set of protocols 0 to 3 stays the list that it was written as; nothing is copied."""
    if len(arguments) > 1 or not all(isinstance(items, list) for items in arguments):
        refuse("makes a set of something that is not a list")
    return arguments[0] if arguments else []


def _reconstructor(arguments: tuple[Any, ...]) -> Any:
    """Objects of protocols 0 and 1: (class, base, state of the base)."""
    if len(arguments) != 3:
        refuse("makes an object of protocol 0 or 1 from other than three arguments")
    callee, base, state = arguments
    rule = getattr(callee, "rule", None)
    if rule is None or rule.new is None:
        refuse(f"makes an object of {shown(str(callee)) if rule else type(callee).__name__}")
    if str(base).endswith(".dict") and isinstance(state, dict):
        return state
    if not str(base).endswith(".object") or state is not None:
        refuse("makes an object of protocol 0 or 1 on a strange base")
    return rule.new()
