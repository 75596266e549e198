"""Files that a reader must refuse: attempts to run something, to exhaust the machine, to pass nonsense as weights."""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle  # writes only
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from official_pickle import (
    Call,
    Easy,
    Global,
    Persistent,
    Plain,
    Sources,
    StoredAt,
    dumps,
    generator_record,
    official_file,
    storage_stream,
    trace_source,
)
from tiny import tiny_generator_config

from eg3d.generators.eg3d import TriPlaneGenerator

SYSTEM = b"\x80\x04\x8c\x02os\x8c\x06system\x93"  # the name os.system on the stack
LOAD = Global("torch.storage", "_load_from_bytes")
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
SOFTPLUS = Global("torch.nn.modules.activation", "Softplus")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def calls(module: str, name: str, *arguments: Any) -> bytes:
    return dumps(Call(Global(module, name), arguments))


def tensor_of(size: Any, stride: Any, offset: Any = 0, numbers: int = 4) -> bytes:
    storage = Call(LOAD, (storage_stream(torch.ones(numbers)),))
    return dumps(Call(REBUILD, (storage, offset, size, stride, False, OrderedDict())))


def generator() -> TriPlaneGenerator:
    torch.manual_seed(0)
    return TriPlaneGenerator(tiny_generator_config())


def changed(change: Callable[[TriPlaneGenerator], None]) -> bytes:
    """A published file of a generator after a change of its tensors."""
    G = generator()
    with torch.no_grad():
        change(G)
    return official_file(G_ema=G)


def edited(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A published file whose generator's state was changed."""
    record = generator_record(generator(), Sources("/nonexistent/trace"))
    change(record.state)
    return dumps({"G_ema": record})


def fill(name: str, value: float) -> Callable[[TriPlaneGenerator], None]:
    return lambda G: G.get_parameter(name).view(-1)[:1].fill_(value)


def laughs(levels: int) -> bytes:
    """Lists of ten references to the list before: short to write, endless to walk."""
    lines = b"\x80\x04](" + b"N" * 10 + b"e\x94"
    for level in range(levels):
        lines += b"0]\x94(" + b"h%c" % level * 10 + b"e"
    return lines + b"."


def nested_stream(system: Any, *, kind: bytes = b"torch\nFloatStorage\n", count: int = 4, tail: bytes = b"") -> bytes:
    heads = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001)]
    middle = system if isinstance(system, bytes) else pickle.dumps(system, 2)
    pointer = b"\x80\x02(" + text("storage") + b"c" + kind + text("1") + text("cpu") + b"K%cNtQ." % count
    return b"".join([*heads, middle, pointer, pickle.dumps(["1"], 2), struct.pack("<q", count), b"\0" * 16, tail])


def loads(stream: bytes) -> bytes:
    return dumps(Call(LOAD, (stream,)))


def zipped(size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * size)
    return buffer.getvalue()


def persistent(**changes: Any) -> bytes:
    meta = {"type": "class", "version": 6, "module_src": "", "class_name": "A", "state": {}} | changes
    return dumps(Call(Global("torch_utils.persistence", "_reconstruct_persistent_obj"), (Easy(meta),)))


def shared_storage() -> bytes:
    """Dozens of layers whose weights are all one storage, so that loading would need far more than the file."""
    G = TriPlaneGenerator(dataclasses.replace(tiny_generator_config(), w_dim=128, mapping_layers=2))
    record = generator_record(G, Sources("/nonexistent/trace"))
    layers = record.state["_modules"]["backbone"].state["_modules"]["mapping"].state["_modules"]
    for k in range(2, 60):
        layers[f"fc{k}"] = layers["fc1"]
    return dumps({"G_ema": record})


SYSTEM_INFO = {"protocol_version": 1001, "little_endian": True}


@functools.cache
def hostile_files(trace: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> bytes and what the one line of refusal must say. Whatever would run would make the file `trace`."""
    shell = f"touch {trace}"
    python = f"open({str(trace)!r}, 'w')"
    return _callers(shell, python) | _machine(shell) | _exhausting() | _tensors(shell) | _networks(trace)


def _callers(shell: str, python: str) -> dict[str, tuple[bytes, str]]:
    reconstruct = Call(Global("copyreg", "_reconstructor"), (Global("subprocess", "Popen"), None, None))
    return {
        "os.system": (calls("os", "system", shell), "asks for 'os.system', which is not on the closed list"),
        "posix.system, protocol 0": (b"cposix\nsystem\n(S'" + shell.encode() + b"'\ntR.", "asks for 'posix.system'"),
        "nt.system": (calls("nt", "system", shell), "asks for 'nt.system'"),
        "subprocess": (calls("subprocess", "Popen", ["touch", shell]), "asks for 'subprocess.Popen'"),
        "eval": (calls("builtins", "eval", python), "asks for 'builtins.eval'"),
        "exec of Python 2": (calls("__builtin__", "exec", python), "asks for '__builtin__.exec'"),
        "compile": (calls("builtins", "compile", python, "x", "exec"), "asks for 'builtins.compile'"),
        "import": (calls("builtins", "__import__", "os"), "asks for 'builtins.__import__'"),
        "import_module": (calls("importlib", "import_module", "os"), "asks for 'importlib.import_module'"),
        "getattr chain": (
            dumps(Call(Global("builtins", "getattr"), (Call(Global("builtins", "getattr"), (0, "real")), "imag"))),
            "asks for 'builtins.getattr'",
        ),
        "resolve_name": (calls("pkgutil", "resolve_name", "os:system"), "asks for 'pkgutil.resolve_name'"),
        "operator": (calls("operator", "methodcaller", "system", shell), "asks for 'operator.methodcaller'"),
        "functools": (calls("functools", "partial", Global("os", "system")), "asks for 'functools.partial'"),
        "torch.load": (calls("torch", "load", "x.pt"), "asks for 'torch.load'"),
        "torch.hub": (calls("torch.hub", "load", "a/b"), "asks for 'torch.hub.load'"),
        "numpy.load": (calls("numpy", "load", "x.npy"), "asks for 'numpy.load'"),
        "pickle.loads": (calls("pickle", "loads", b"cos\nsystem\n."), "asks for 'pickle.loads'"),
        "attribute of a good name": (
            calls("torch.storage", "_load_from_bytes.__globals__", 1),
            "asks for 'torch.storage._load_from_bytes.__globals__'",
        ),
        "attribute of a good module": (calls("collections", "OrderedDict.fromkeys", "a"), "'collections.OrderedDict.f"),
        "a name with control characters": (calls("os\x1b[2J\n", "system\r"), "asks for 'os\\x1b[2J\\n.system\\r'"),
        "TensorFlow network": (calls("dnnlib.tflib.network", "Network"), "a network of the TensorFlow era"),
        "reconstructor": (dumps(reconstruct), "asks for 'subprocess.Popen'"),
        "codec that unpacks": (calls("_codecs", "encode", "x" * 99, "zlib_codec"), "encodes something other than"),
        "decode": (calls("_codecs", "decode", b"x", "zlib_codec"), "asks for '_codecs.decode'"),
        "EasyDict with arguments": (
            b"\x80\x04\x8c\x0bdnnlib.util\x8c\x08EasyDict\x93" + text("a") + b"\x85\x81.",
            "makes an object of dnnlib.util.EasyDict with arguments",
        ),
        "OrderedDict that is filled": (calls("collections", "OrderedDict", [["a", 1]]), "fills an ordered table"),
        "class that is called": (
            dumps(Call(Global("training.triplane", "OSGDecoder"), (1,))), "calls training.triplane.OSGDecoder with",
        ),
        "storage class that is called": (calls("torch", "FloatStorage", 4), "asks for 'torch.FloatStorage'"),
        "set of a text": (calls("builtins", "set", "abc"), "makes a set of something that is not a list"),
    }  # fmt: skip


def _machine(shell: str) -> dict[str, tuple[bytes, str]]:
    name = b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93"
    softplus = b"\x80\x04\x8c\x1btorch.nn.modules.activation\x8c\x08Softplus\x93)\x81"
    good = official_file(G_ema=generator())
    return {
        "INST": (b"(S'" + shell.encode() + b"'\nios\nsystem\n.", "uses the operation b'i' at byte"),
        "OBJ": (b"(cos\nsystem\nS'" + shell.encode() + b"'\no.", "asks for 'os.system'"),
        "OBJ of a good name": (b"(ccollections\nOrderedDict\no.", "uses the operation b'o' at byte"),
        "NEWOBJ_EX": (name + b")}\x92.", "uses the operation b'\\x92' at byte"),
        "EXT1": (b"\x80\x02\x82\x01.", "uses the operation b'\\x82' at byte 2, a name from copyreg's registry"),
        "EXT2": (b"\x80\x02\x83\x01\x00.", "a name from copyreg's registry"),
        "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "a name from copyreg's registry"),
        "buffer outside the file": (b"\x80\x05\x97.", "a buffer outside the file"),
        "persistent id": (b"\x80\x02" + text("storage") + b"Q.", "an object outside the file by a persistent id"),
        "persistent id as text": (b"Pstorage\n.", "uses the operation b'P' at byte"),
        "unknown operation": (b"\x80\x04\xff.", "uses the operation b'\\xff' at byte 2"),
        "protocol of the future": (b"\x80\x09N.", "is of pickle protocol 9"),
        "state for a name": (name + b"}" + text("__setstate__") + text("x") + b"sb.", "hands a state to Name"),
        "state for a dict": (b"\x80\x04}}b.", "hands a state to a dict"),
        "state for a list": (b"\x80\x04]}b.", "hands a state to a list"),
        "second state": (softplus + b"}" + text("a") + b"Nsb}" + text("b") + b"Nsb.", "a second or strange state"),
        "state that is no table": (softplus + b"]b.", "a second or strange state"),
        "slots": (softplus + b"N}\x86b.", "a second or strange state"),
        "state for a persistent object": (
            persistent()[:-1] + b"}" + text("x") + b"Nsb.", "a second or strange state to an object of 'A'",
        ),
        "call of a text": (b"\x80\x04" + text("os.system") + text(shell) + b"\x85R.", "calls a str"),
        "call with a list": (name + b"]R.", "calls collections.OrderedDict with a list"),
        "name from a memo of numbers": (b"\x80\x04K\x01K\x02\x93.", "asks for '1.2'"),
        "memo that was never written": (b"\x80\x04h\x05.", "recalls the memo's entry 5"),
        "memo far away": (b"\x80\x04Nr\xff\xff\xff\x7f0j\xff\xff\xff\x7e.", "which was never written"),
        "empty stack": (b"\x80\x04R.", "takes a value from an empty stack"),
        "mark that was never set": (b"\x80\x04Nt.", "closes a mark that was never set"),
        "mark left open": (b"\x80\x04(N.", "1 open marks instead of one value"),
        "two values": (b"\x80\x04NN.", "ends with 2 values"),
        "no value": (b"\x80\x04.", "ends with 0 values"),
        "bytes after the end": (good + SYSTEM + text(shell) + b"\x85R.", "bytes after its end"),
        "append to a text": (b"\x80\x04" + text("a") + b"Na.", "adds items to a str as if it were a list"),
        "items of a list": (b"\x80\x04]NNs.", "adds items to a list as if it were a dict"),
        "odd items": (b"\x80\x04}(Nu.", "a key without a value"),
        "list as a key": (b"\x80\x04}]Ns.", "uses a list as a key"),
        "tuple as a key": (b"\x80\x04})Ns.", "uses a tuple as a key"),
        "set of lists": (b"\x80\x04\x8f(]\x90.", "uses a list as a key"),
        "number that is none": (b"I1e9\n.", "where a whole number belongs"),
        "text with escapes": (b"S'\\x41'\n.", "a quoted text with escapes"),
        "text that is not UTF-8": (b"\x80\x04\x8c\x01\xff.", "a text that is not utf-8"),
        "a list at the top": (b"\x80\x04].", "holds a list instead of a table of networks"),
        "no networks": (b"\x80\x04}.", "holds none of the networks G_ema, G, D"),
        "empty": (b"", "is empty"),
        "plain text": (b"import os\nos.system('x')\n", "uses the operation b'i'"),
        "cut short": (good[: len(good) // 2], "cut short"),
        "cut in the head": (good[:5], "cut short"),
    }  # fmt: skip


def _exhausting() -> dict[str, tuple[bytes, str]]:
    return {
        "billion laughs": (laughs(30), "expands to more than"),
        "laughter by DUP": (b"\x80\x04]" + b"2\x86" * 50 + b".", "expands to more than"),
        "itself": (b"\x80\x04]\x94h\x00a.", "holds a container inside itself"),
        "itself, by way of a table": (b"\x80\x04]\x94}\x94" + text("a") + b"h\x00sa.", "inside itself"),
        "deep tuples": (b"\x80\x04)" + b"\x85" * 300_000 + b".", "is nested more than"),
        "deep lists": (b"(" * 300_000 + b"l" * 300_000 + b".", "is nested more than"),
        "deep tables": (b"\x80\x04" + (b"}" + text("a")) * 1000 + b"N" + b"s" * 1000 + b".", "is nested more than"),
        "deep objects": (
            dumps(_deep(150)), "is nested more than",
        ),
        "endless operations": (b"\x80\x04" + b"N0" * 600_000 + b"N.", "has more than 1000000 operations"),
        "huge bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.", "announces 1152921504606846976 bytes"),
        "huge text": (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.", "has a text of 1099511627776 bytes"),
        "huge frame": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"N.", "announces a frame"),
        "huge integer": (b"\x80\x02\x8b" + struct.pack("<I", 1 << 30) + b"\1.", "an integer of 1073741824 bytes"),
        "long integer": (b"L" + b"9" * 100_000 + b"L\n.", "has no line end within"),
        "negative size": (b"\x80\x02\x8b\xff\xff\xff\xff\1.", "an integer of 4294967295 bytes"),
        "zip archive": (zipped(10_000_000), "is a zip archive"),
        "zip archive in a storage": (loads(zipped(10_000_000)), "holds a storage as a zip archive"),
        "one storage for many layers": (shared_storage(), "share their numbers and would be larger than the file"),
    }  # fmt: skip


def _deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = Plain(SOFTPLUS, {"a": value})
    return value


def _tensors(shell: str) -> dict[str, tuple[bytes, str]]:
    payload = SYSTEM + text(shell) + b"\x85R."
    inner = Call(LOAD, (storage_stream(torch.ones(2)),))
    objects = Call(Global("numpy", "dtype"), ("O8", False, True))
    return {
        "payload in a storage": (loads(payload), "asks for 'os.system'"),
        "payload in the system table": (loads(nested_stream(payload)), "asks for 'os.system'"),
        "payload as the class": (loads(nested_stream(SYSTEM_INFO, kind=b"os\nsystem\n")), "asks for 'os.system'"),
        "stream in a stream": (loads(nested_stream(dumps(inner))), "asks for 'torch.storage._load_from_bytes'"),
        "storage of complex numbers": (
            loads(nested_stream(SYSTEM_INFO, kind=b"torch\nComplexFloatStorage\n")), "asks for 'torch.ComplexFloatSto",
        ),
        "big-endian storage": (loads(nested_stream({"little_endian": False})), "little-endian machine"),
        "system that is no table": (loads(nested_stream([1])), "little-endian machine"),
        "another magic number": (loads(pickle.dumps(7, 2) + nested_stream({})[14:]), "another magic number"),
        "more numbers than announced": (loads(nested_stream(SYSTEM_INFO, tail=b"\0" * 8)), "a storage of 24 bytes"),
        "fewer numbers than announced": (loads(nested_stream(SYSTEM_INFO, count=9)), "holds a storage of 16 bytes"),
        "storage of nothing": (loads(b""), "cut short"),
        "storage of a text": (dumps(Call(LOAD, ("x",))), "reads a storage from a str"),
        "storage of two things": (dumps(Call(LOAD, (b"", b""))), "with 2 arguments instead of one"),
        "negative stride": (tensor_of((4,), (-1,), 3), "whose stride is not"),
        "negative offset": (tensor_of((1,), (1,), -1), "whose offset is not"),
        "negative size of a tensor": (tensor_of((-4,), (1,)), "whose size is not"),
        "offset beyond the storage": (tensor_of((4,), (1,), 1), "reaches beyond its storage of 4 numbers"),
        "stride beyond the storage": (tensor_of((2, 2), (1 << 30, 1)), "reaches beyond its storage"),
        "huge tensor": (tensor_of((1 << 39,), (1,)), "reaches beyond its storage"),
        "huge tensor of one number": (tensor_of((1 << 20, 1 << 20), (0, 0)), "reaches beyond its storage"),
        "sizes that overflow": (tensor_of((1 << 70,), (1,)), "whose size is not"),
        "sizes that are text": (tensor_of(("4",), (1,)), "whose size is not"),
        "sizes without strides": (tensor_of((4,), ()), "1 sizes and 0 strides"),
        "sizes as a list": (tensor_of([4], [1]), "whose size is not"),
        "too many dimensions": (tensor_of((1,) * 40, (1,) * 40), "whose size is not"),
        "tensor of a text": (calls(REBUILD.module, REBUILD.name, "x", 0, (1,), (1,)), "makes a tensor of a str"),
        "tensor with metadata": (
            dumps(Call(REBUILD, (inner, 0, (2,), (1,), False, OrderedDict(), {"conj": True}))), "from 7 arguments",
        ),
        "parameter of a text": (calls("torch._utils", "_rebuild_parameter", "x", True, {}), "makes a parameter of"),
        "numbers that are objects": (dumps(objects), "has numbers of the format 'O8'"),
        "big-endian numbers": (dumps(objects).replace(b"O8", b"f8")[:-1] + b"(N" + text(">") + b"tb.", "not little"),
        "array of another class": (
            calls("numpy._core.multiarray", "_reconstruct", Global("numpy", "dtype"), (0,), b"b"), "other than a plain",
        ),
        "number of two bytes": (
            calls("numpy.core.multiarray", "scalar", Call(Global("numpy", "dtype"), ("f8",)), b"xx"), "of 2 bytes",
        ),
    }  # fmt: skip


def _networks(trace: Path) -> dict[str, tuple[bytes, str]]:
    source = trace_source("triplane", trace)
    return {
        "NaN": (changed(fill("decoder.net.2.bias", float("nan"))), "NaN or infinite numbers in decoder.net.2.bias"),
        "infinity": (changed(fill("backbone.mapping.fc0.bias", float("inf"))), "numbers in backbone.mapping.fc0.bias"),
        "wrong shape": (
            changed(lambda G: setattr(G.decoder.net[2], "bias", torch.nn.Parameter(torch.zeros(7)))),
            "mis-shaped: decoder.net.2.bias [7] instead of [5]",
        ),
        "missing tensor": (
            changed(lambda G: setattr(G.decoder.net[2], "bias", None)), "fit the network; missing: decoder.net.2.bias",
        ),
        "unknown tensor": (
            changed(lambda G: G.backbone.register_buffer("secret", torch.ones(2))), "unknown: backbone.secret",
        ),
        "whole numbers": (
            changed(lambda G: G.backbone.mapping.register_buffer("w_avg", torch.ones(8, dtype=torch.int64))),
            "not of real numbers: backbone.mapping.w_avg (torch.int64)",
        ),
        "another generator": (dumps({"G_ema": Persistent("Generator", source)}), "is a 'Generator'; a generator here"),
        "another super-resolution": (
            edited(lambda s: setattr(s["_modules"]["superresolution"], "class_name", "SuperresolutionHybrid16X")),
            "has the super-resolution 'SuperresolutionHybrid16X'; known are",
        ),
        "another activation": (
            edited(lambda s: s["_modules"]["decoder"].state["_modules"]["net"].state["_modules"]["0"].state.update(
                activation="swish"
            )), "has the activation 'swish' in 'decoder.net.0.'",
        ),
        "another clamp": (official_file(G_ema=generator(), clamp_mode="relu"), "has the clamp_mode 'relu'"),
        "no rendering": (edited(lambda s: s.pop("rendering_kwargs")), "has no rendering_kwargs"),
        "no box": (official_file(G_ema=generator(), box_warp=None), "lacks box_warp"),
        "a box of text": (official_file(G_ema=generator(), box_warp="1"), "has box_warp = '1'; a number belongs there"),
        "a box of NaN": (official_file(G_ema=generator(), box_warp=float("nan")), "has box_warp = nan"),
        "rays backwards": (official_file(G_ema=generator(), ray_start=9.0), "rendering.ray_start: must be below"),
        "a flag of text": (official_file(G_ema=generator(), white_back="no"), "true or false belongs there"),
        "huge latent": (edited(lambda s: s.update(z_dim=1 << 40)), "has z_dim = 1099511627776"),
        "odd resolution": (edited(lambda s: s.update(img_resolution=24)), "img_resolution: must be a power of two"),
        "other resolution": (edited(lambda s: s.update(img_resolution=32)), "do not fit the network"),
        "planes of another fork": (
            official_file(G_ema=generator(), plane_axes=torch.eye(3).repeat(3, 1, 1)), "has planes that see xy xy xy",
        ),
        "planes that are no axes": (
            official_file(G_ema=generator(), plane_axes=torch.full((3, 3, 3), 0.5)), "see no plain axes",
        ),
        "planes on a list of planes": (
            official_file(G_ema=generator(), plane_axes=StoredAt(torch.ones(3, 3), "cuda:0")), "plane_axes of shape",
        ),
        "module that is a number": (edited(lambda s: s["_modules"].update(x=1)), "has a int where the sub-module 'x'"),
        "tensor that is a number": (edited(lambda s: s["_buffers"].update(x=1)), "has a int where the tensor 'x'"),
        "modules in a list": (edited(lambda s: s.update(_modules=[])), "whose _modules is not a table"),
        "persistent function": (persistent(type="func"), "not described by type, version"),
        "persistent of version 5": (persistent(version=5), "a persistent object of version 5; version 6 is known"),
        "persistent without source": (persistent(module_src=None), "of another type"),
        "persistent with more": (persistent(extra=1), "not described by type, version"),
    }  # fmt: skip
