"""Tensors and arrays inside a pickle, decoded from the bytes of the file.

A tensor of a published file is a call that names a storage; the storage is a complete stream of torch.save's older
format inside a bytes value. Both are read here: counts must agree, every element must lie in its storage, and where a
storage once lived ("cuda:0") is ignored. Nothing is copied until a tensor is asked for.
Sources: the documented pickle output of torch.save (legacy layout) and numpy.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eg3d.checkpoints.inert_pickle import Inert, Limits, Name, Names, Rule, read_values, refuse, shown

MAGIC = 0x1950A86A20F9469CFC6C
STREAM_PROTOCOL = 1001
STORAGES = {
    "Float": torch.float32, "Half": torch.float16, "Double": torch.float64, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip
_NUMPY_STORAGES = {
    "f4": "Float", "f2": "Half", "f8": "Double", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char", "u1": "Byte",
    "b1": "Bool",
}  # fmt: skip
_SCALARS = {"f4": "<f", "f2": "<e", "f8": "<d", "i8": "<q", "i4": "<i", "i2": "<h", "i1": "<b", "u1": "<B", "b1": "<?"}
_MAX_DIMENSIONS = 8
MAX_STORAGES = 20_000  # in one file; a published file with three networks has 448
_STREAM_LIMITS = Limits(operations=100, text_bytes=1024, depth=4, values=100)


@dataclass(frozen=True)
class Storage(Inert):
    """A run of numbers of one kind: a view into the file."""

    kind: str  # of STORAGES
    data: memoryview

    @property
    def dtype(self) -> torch.dtype:
        """Number format."""
        return STORAGES[self.kind]

    @property
    def count(self) -> int:
        """Numbers in it."""
        return len(self.data) // self.dtype.itemsize


@dataclass(frozen=True)
class InertTensor(Inert):
    """A strided view of a storage; every element is known to lie inside it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Number format."""
        return self.storage.dtype

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements stand one after another in the file."""
        wanted = 1
        for size, stride in zip(self.shape[::-1], self.stride[::-1], strict=True):
            if size != 1 and stride != wanted:
                return False
            wanted *= size
        return True

    def view(self) -> Tensor:
        """The elements, of any shape, as they lie in the file: no copy, maybe strided and unaligned. Read only."""
        if self.numel == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        flat = torch.frombuffer(self.storage.data, dtype=self.dtype)
        return flat.as_strided(self.shape, self.stride, self.offset)

    def tensor(self) -> Tensor:
        """A contiguous copy, of any shape, that does not depend on the file."""
        if self.numel == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        size = self.dtype.itemsize
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        window = bytearray(self.storage.data[self.offset * size : (last + 1) * size])  # aligned, unlike the file
        strided = torch.frombuffer(window, dtype=self.dtype).as_strided(self.shape, self.stride)
        return strided.clone(memory_format=torch.contiguous_format)


def strided(storage: Any, offset: Any, shape: Any, stride: Any) -> InertTensor:
    """A checked view of a storage; refuses numbers out of range and views larger than their storage."""
    if not isinstance(storage, Storage):
        refuse(f"makes a tensor of a {type(storage).__name__} instead of a storage")
    for name, numbers in (("size", shape), ("stride", stride), ("offset", (offset,))):
        _check_numbers(name, numbers)
    if len(shape) != len(stride):
        refuse(f"has a tensor with {len(shape)} sizes and {len(stride)} strides")
    tensor = InertTensor(storage, offset, shape, stride)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if tensor.numel > storage.count or (tensor.numel and last >= storage.count):
        refuse(f"has a tensor {list(shape)} that reaches beyond its storage of {storage.count} numbers")
    return tensor


def _check_numbers(name: str, numbers: Any) -> None:
    is_short = isinstance(numbers, tuple) and len(numbers) <= _MAX_DIMENSIONS
    if not is_short or not all(type(n) is int and 0 <= n < 1 << 40 for n in numbers):
        refuse(f"has a tensor whose {name} is not up to {_MAX_DIMENSIONS} whole numbers from 0 on")


# ---------------------------------------------------------------------------------------------- storages


@dataclass(frozen=True)
class _StorageKey(Inert):
    kind: str
    key: str
    count: int


def read_storage(stream: Any) -> Storage:
    """The one storage of a nested stream: five small pickles, a count, the numbers.

    Its pickles may hold plain data and the names of storage classes; anything else is refused.
    """
    if not isinstance(stream, (memoryview, bytes)):
        refuse(f"reads a storage from a {type(stream).__name__}")
    data = memoryview(stream)
    if data[:2] == b"PK":
        refuse("holds a storage as a zip archive; published files hold them in the older stream format")
    values, position = [], 0
    for _ in range(5):
        value, position = read_values(
            data, _STORAGE_NAMES, start=position, persistent=_storage_key, limits=_STREAM_LIMITS
        )
        values.append(value)
    magic, protocol, system, storage, keys = values
    if type(magic) is not int or magic != MAGIC or type(protocol) is not int or protocol != STREAM_PROTOCOL:
        refuse("holds a storage stream with another magic number or protocol")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        refuse("holds a storage that was not written on a little-endian machine")
    if not isinstance(storage, _StorageKey) or keys != [storage.key]:
        refuse("holds a storage stream that does not name exactly one storage")
    size = STORAGES[storage.kind].itemsize
    count, numbers = int.from_bytes(data[position : position + 8], "little"), data[position + 8 :]
    if count != storage.count or len(numbers) != count * size:
        refuse(f"holds a storage of {len(numbers)} bytes that announces {storage.count} and {count} numbers")
    return Storage(storage.kind, numbers)


def _storage_key(value: Any) -> _StorageKey:
    """('storage', class, key, location, count, None): the location is of no interest."""
    if not isinstance(value, tuple) or len(value) != 6 or value[0] != "storage" or value[5] is not None:
        refuse("holds a storage stream whose persistent id is not that of one whole storage")
    _, kind, key, location, count, _ = value
    if not isinstance(kind, Name) or type(key) is not str or type(location) is not str or type(count) is not int:
        refuse("holds a storage stream whose persistent id has values of other types")
    return _StorageKey(kind.name.removesuffix("Storage"), key, count)


_STORAGE_NAMES: Names = {(module, f"{kind}Storage"): Rule() for module in ("torch", "torch.cuda") for kind in STORAGES}


# ---------------------------------------------------------------------------------------------- torch


def _storage_reader() -> Callable[[tuple[Any, ...]], Storage]:
    """_load_from_bytes of one file, which may call it only so often: a storage costs more than an operation."""
    calls = itertools.count(1)

    def read(arguments: tuple[Any, ...]) -> Storage:
        if len(arguments) != 1:
            refuse(f"reads a storage with {len(arguments)} arguments instead of one")
        if next(calls) > MAX_STORAGES:
            refuse(f"reads more than {MAX_STORAGES} storages")
        return read_storage(arguments[0])

    return read


def _rebuild_tensor(arguments: tuple[Any, ...]) -> InertTensor:
    """(storage, offset, size, stride) and, of no interest, whether it wants gradients and its hooks."""
    if len(arguments) not in (4, 6, 7) or (len(arguments) == 7 and arguments[6]):
        refuse(f"makes a tensor from {len(arguments)} arguments that are not those of a plain one")
    return strided(*arguments[:4])


def _rebuild_parameter(arguments: tuple[Any, ...]) -> InertTensor:
    if len(arguments) not in (3, 4) or not isinstance(arguments[0], InertTensor):
        refuse("makes a parameter of something that is not a tensor")
    return arguments[0]


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) != 1 or not isinstance(arguments[0], tuple):
        refuse("makes a size of something that is not a tuple")
    return arguments[0]


def _device(arguments: tuple[Any, ...]) -> str:
    if not 1 <= len(arguments) <= 2 or type(arguments[0]) is not str:
        refuse("makes a device of something that is not its name")
    return arguments[0]


# ---------------------------------------------------------------------------------------------- numpy


class _NumberFormat(Inert):
    """numpy.dtype: the code of a kind of number, little-endian."""

    def __init__(self, code: str) -> None:
        self.code = code

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
            refuse("has numbers that are not little-endian")


class InertArray(Inert):
    """numpy.ndarray: empty when named, a tensor once its state has come."""

    tensor: InertTensor | None = None

    def build(self, state: Any) -> None:
        """(version, shape, number format, whether columns come first, bytes)."""
        if self.tensor is not None or not isinstance(state, tuple) or len(state) != 5:
            refuse("has a numpy array with a state of another form")
        self.tensor = _array(state[4], state[2], state[1], state[3])


def _array(data: Any, number_format: Any, shape: Any, is_fortran: Any) -> InertTensor:
    kind = _NUMPY_STORAGES.get(number_format.code) if isinstance(number_format, _NumberFormat) else None
    if kind is None or not isinstance(data, (memoryview, bytes)) or type(is_fortran) is not bool:
        refuse("has a numpy array that is not one of plain numbers")
    _check_numbers("shape", shape)
    ordered = shape if is_fortran else shape[::-1]
    stride = tuple(math.prod(ordered[:k]) for k in range(len(ordered)))
    size = STORAGES[kind].itemsize
    if len(data) != math.prod(ordered) * size:
        refuse(f"has a numpy array whose shape asks for other than its {len(data)} bytes")
    return strided(Storage(kind, memoryview(data)), 0, shape, stride if is_fortran else stride[::-1])


def _dtype(arguments: tuple[Any, ...]) -> _NumberFormat:
    if not arguments or type(arguments[0]) is not str or arguments[0] not in _SCALARS:
        refuse(f"has numbers of the format {shown(arguments[0]) if arguments else 'none'}")
    return _NumberFormat(arguments[0])


def _scalar(arguments: tuple[Any, ...]) -> float | int | bool:
    layout = _SCALARS.get(getattr(arguments[0], "code", "")) if len(arguments) == 2 else None
    if layout is None or not isinstance(arguments[1], (memoryview, bytes)):
        refuse("has a numpy scalar that is not one plain number")
    if len(arguments[1]) != struct.calcsize(layout):
        refuse(f"has a numpy scalar of {len(arguments[1])} bytes where {struct.calcsize(layout)} belong")
    return struct.unpack(layout, arguments[1])[0]


def _reconstruct(arguments: tuple[Any, ...]) -> InertArray:
    if len(arguments) != 3 or not isinstance(arguments[0], Name) or arguments[0].name != "ndarray":
        refuse("makes something other than a plain numpy array")
    return InertArray()


def _frombuffer(arguments: tuple[Any, ...]) -> InertArray:
    if len(arguments) != 4 or arguments[3] not in ("C", "F"):
        refuse("has a numpy array in a buffer of another form")
    data, number_format, shape, order = arguments
    array = InertArray()
    array.build((1, shape, number_format, order == "F", data))
    return array


def as_tensor(value: Any) -> InertTensor | None:
    """The tensor of a tensor or array record, else None."""
    return value.tensor if isinstance(value, InertArray) else value if isinstance(value, InertTensor) else None


def tensor_names() -> Names:
    """The part of the closed list that makes tensors, arrays and numbers, for one file."""
    numpy_versions = ("numpy.core", "numpy._core")
    return {
        ("torch.storage", "_load_from_bytes"): Rule(call=_storage_reader()),
        ("torch._utils", "_rebuild_tensor"): Rule(call=_rebuild_tensor),
        ("torch._utils", "_rebuild_tensor_v2"): Rule(call=_rebuild_tensor),
        ("torch._utils", "_rebuild_parameter"): Rule(call=_rebuild_parameter),
        ("torch._utils", "_rebuild_parameter_with_state"): Rule(call=_rebuild_parameter),
        ("torch", "Size"): Rule(call=_size),
        ("torch", "device"): Rule(call=_device),
        ("numpy", "dtype"): Rule(call=_dtype),
        ("numpy", "ndarray"): Rule(),
        **{(f"{numpy}.multiarray", "scalar"): Rule(call=_scalar) for numpy in numpy_versions},
        **{(f"{numpy}.multiarray", "_reconstruct"): Rule(call=_reconstruct) for numpy in numpy_versions},
        **{(f"{numpy}.numeric", "_frombuffer"): Rule(call=_frombuffer) for numpy in numpy_versions},
        **{("torch", str(dtype).removeprefix("torch.")): Rule() for dtype in STORAGES.values()},
    }
