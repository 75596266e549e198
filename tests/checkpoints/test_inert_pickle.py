"""The pickle machine: what Python writes comes back as data, and whatever else a file is, one error type comes out."""

from __future__ import annotations

import io
import pickle  # writes only: what is read here is read by the machine under test
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import generator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_pickle import official_file, refusal

from eg3d.checkpoints import inert_tensors
from eg3d.checkpoints.inert_pickle import Limits, RefusedPickleError, read_values
from eg3d.checkpoints.inert_tensors import STORAGES, InertArray, InertTensor, as_tensor
from eg3d.checkpoints.pickle_records import official_names
from eg3d.checkpoints.store import load_generator

PROTOCOLS = range(6)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(data: bytes, limits: Limits | None = None) -> Any:
    value, end = read_values(memoryview(data), official_names(), limits=limits)
    assert end == len(data)
    return value


def plain(value: Any) -> Any:
    """Views of bytes as bytes, and sets of old protocols, which stay lists, as sets."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, (list, tuple)) else value


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False)
leaves = scalars | st.text() | st.binary(max_size=300)
keys = st.text() | st.integers(-(2**31), 2**31)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner), max_leaves=20
)


@FEW
@given(value=trees, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data_comes_back(value: Any, protocol: int) -> None:
    assert plain(read(pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_and_ordered_containers(protocol: int) -> None:
    shared = [1, 2]
    value = read(pickle.dumps({"a": shared, "b": shared, "c": OrderedDict(x=1), "d": set(), "e": {3}}, protocol))
    assert value["a"] is value["b"]
    assert (value["c"], set(value["d"]), set(value["e"])) == ({"x": 1}, set(), {3})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", STORAGES)
def test_tensors_of_every_kind(kind: str, protocol: int) -> None:
    dtype = STORAGES[kind]
    base = (torch.arange(24).reshape(2, 3, 4) % 2 if dtype is torch.bool else torch.arange(24).reshape(2, 3, 4)).to(
        dtype
    )
    tensors = [base, base.permute(2, 0, 1)[1:, :, ::2], base[1, 2, 3], base[:0], base[None, :, None]]
    for tensor, found in zip(tensors, read(pickle.dumps(tensors, protocol)), strict=True):
        assert isinstance(found, InertTensor)
        assert (found.shape, found.numel, found.dtype) == (tuple(tensor.shape), tensor.numel(), tensor.dtype)
        assert torch.equal(found.tensor(), tensor)
        assert found.tensor().is_contiguous()
        assert found.is_contiguous == tensor.is_contiguous() or tensor.numel() == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_parameters_arrays_and_numbers(protocol: int) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    parameter = torch.nn.Parameter(torch.ones(2))
    values = [
        parameter,
        array,
        np.asfortranarray(array),
        np.float64(0.1),
        np.int64(-7),
        np.bool_(True),
        torch.Size([2, 3]),
    ]
    found = read(pickle.dumps(values, protocol))
    assert isinstance(found[0], InertTensor)
    assert isinstance(found[1], InertArray)
    for k in (1, 2):
        tensor = as_tensor(found[k])
        assert tensor is not None and np.array_equal(tensor.tensor().numpy(), array)
    assert found[3:] == [0.1, -7, True, (2, 3)]
    assert read(pickle.dumps(torch.device("cuda:1"), protocol)) == "cuda"


def test_names_of_numpy_before_its_second_version() -> None:
    data = pickle.dumps(np.float64(0.1), 2)
    assert read(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")) == 0.1


def test_tensors_share_the_memory_of_the_file() -> None:
    data = bytearray(pickle.dumps(torch.zeros(1000), 4))
    tensor = read_values(memoryview(data), official_names())[0]
    view, copy = tensor.view(), tensor.tensor()
    at = data.rindex(b"\0" * 4000)
    data[at : at + 4] = np.float32(5).tobytes()
    assert (float(view[0]), float(copy[0])) == (5.0, 0.0)


@pytest.mark.parametrize(
    ("make", "limits", "said"),
    [
        (lambda: pickle.dumps("x" * 2000), Limits(text_bytes=1000), "has a text of 2000 bytes; at most 1000 are read"),
        (lambda: pickle.dumps(list(range(100))), Limits(operations=50), "has more than 50 operations"),
        (lambda: pickle.dumps([[[[]]]]), Limits(depth=2), "is nested more than 2 deep"),
        (lambda: pickle.dumps(list(range(100))), Limits(values=99), "expands to more than 99 values"),
    ],
)
def test_limits(make: Callable[[], bytes], limits: Limits, said: str) -> None:
    read(make())
    with pytest.raises(RefusedPickleError, match=said):
        read(make(), limits)


def test_storages_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps([torch.zeros(1) for _ in range(4)])
    read(data)
    monkeypatch.setattr(inert_tensors, "MAX_STORAGES", 3)
    with pytest.raises(RefusedPickleError, match="reads more than 3 storages"):
        read(data)


def test_lines_of_any_length() -> None:
    for size in (0, 1, 255, 256, 257, 767, 768, 769, 5000):
        assert read(b"V" + b"x" * size + b"\n.") == "x" * size


@FEW
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for head in (b"", b"\x80\x04"):
        refusal(lambda head=head: read_values(memoryview(head + data), official_names()))


@FEW
@given(codes=st.lists(st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes]), max_size=60))
def test_any_order_of_operations_is_read_or_refused(codes: list[bytes]) -> None:
    heads = b"ccollections\nOrderedDict\nq\x00cdnnlib.util\nEasyDict\nq\x01"
    with io.BytesIO() as data:
        data.write(heads)
        for code in codes:
            data.write(code + (b"\x01" if code in b"hqKCU\x8c" else b""))
        refusal(lambda: read_values(memoryview(data.getvalue()), official_names()))


# ---------------------------------------------------------------------------------------------- damaged files


@pytest.fixture(scope="module")
def published() -> tuple[bytes, list[int]]:
    """A published file, and where its operations begin; most other bytes are numbers, valid whatever they are."""
    data = official_file(G_ema=generator())
    return data, [at for _, _, at in pickletools.genops(data) if at is not None]


def damage(data: bytes, at: int, what: str, amount: int, value: int) -> bytes:
    """One fault: a flipped bit, another byte, a piece that is missing, repeated or moved, or an end too early."""
    piece = data[at : at + amount]
    return {
        "flip": lambda: data[:at] + bytes([data[at] ^ (1 << value % 8)]) + data[at + 1 :],
        "byte": lambda: data[:at] + bytes([value]) + data[at + 1 :],
        "drop": lambda: data[:at] + data[at + amount :],
        "repeat": lambda: data[:at] + piece + data[at:],
        "cut": lambda: data[:at],
        "insert": lambda: data[:at] + bytes([value] * (amount % 9 + 1)) + data[at:],
    }[what]()


faults = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 12),
    st.sampled_from(["flip", "byte", "drop", "repeat", "cut", "insert"]),
    st.integers(1, 40),
    st.integers(0, 255),
)


@FEW
@given(some=st.lists(faults, min_size=1, max_size=3))
def test_damaged_files_load_or_are_refused(
    published: tuple[bytes, list[int]], tmp_path_factory: pytest.TempPathFactory, some: list[Any]
) -> None:
    data, positions = published
    for share, beside, what, amount, value in some:
        at = min(positions[int(share * len(positions))] + beside, len(data) - 1)
        data = damage(data, max(at, 0), what, amount, value) or b"N"
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(data)
    assert refusal(lambda: load_generator(path)).startswith((str(path), "loaded"))


def test_damage_is_mostly_noticed(published: tuple[bytes, list[int]], tmp_path: Path) -> None:
    """Files whose every operation in turn is turned into another one; the sample would pass if nothing were checked."""
    data, positions = published
    path = tmp_path / "damaged.pkl"
    for at in positions[:: len(positions) // 40]:
        path.write_bytes(damage(data, at, "byte", 1, 0xFF))
        assert refusal(lambda: load_generator(path)) != "loaded"
