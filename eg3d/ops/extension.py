"""Native code of the fused operations: found, built and loaded here, on first call.

The C++ and CUDA sources know nothing of torch: they take pointers, and are bound by ctypes. One library per device is
built with torch's extension builder (ninja), into a folder of the user's cache that is named by a hash of everything
that the result depends on. EG3D_OPS = auto | native | reference says what runs; "auto" falls back to the reference
with one warning, "native" makes a failed build an error. Kernels of a device that they never ran on wait for "native".
EG3D_OPS_ARCH says for which processor: "native", this one, or one of ARCHITECTURES, whose registers set the width of
the kernels' lanes (vector.h).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

MODES = ("auto", "native", "reference")
SOURCES = {"cpu": "*/cpu.cpp", "cuda": "*/cuda.cu"}
# What a processor must have, as Linux names it, to run what is built for an architecture; "armv8-a" has NEON.
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "native": (),
    "x86-64": (),
    "x86-64-v2": ("ssse3", "sse4_1", "sse4_2", "popcnt"),
    "x86-64-v3": ("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"),
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    "armv8-a": (),
}
CUDA_FLAGS = (
    "-std=c++17",
    "-O3",
    *(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in (80, 86, 89, 90)),
    "-gencode=arch=compute_90,code=compute_90",  # PTX for what is newer
)
X86 = ("x86_64", "amd64")
PROVEN = ("cpu",)  # device types whose kernels have run. CUDA's compile and pass as C++, but no GPU has run them yet
GPU_ROOM = 64  # channels or features that kernels have room for
_HERE = Path(__file__).resolve().parent


def mode() -> str:
    """The setting EG3D_OPS, "auto" unless set; ValueError for a word that is not one of MODES."""
    value = os.environ.get("EG3D_OPS", "auto")
    if value not in MODES:
        raise ValueError(f"EG3D_OPS: {value!r} is not one of {', '.join(MODES)}")
    return value


def architecture() -> str:
    """The setting EG3D_OPS_ARCH, "native" unless set; ValueError for a word that is not one of ARCHITECTURES.

    "v2", "v3" and "v4" are short for those of x86-64.
    """
    value = os.environ.get("EG3D_OPS_ARCH", "native")
    value = f"x86-64-{value}" if f"x86-64-{value}" in ARCHITECTURES else value
    if value not in ARCHITECTURES:
        raise ValueError(f"EG3D_OPS_ARCH: {value!r} is not one of {', '.join(ARCHITECTURES)}")
    return value


def cpu_flags(arch: str) -> list[str]:
    """What the compiler is told for one of ARCHITECTURES."""
    is_x86 = arch.startswith("x86") or (arch == "native" and platform.machine().lower() in X86)
    width = ["-mprefer-vector-width=512"] if is_x86 else []  # or GCC keeps to 256 bits where there are 512
    return ["-std=c++17", "-O3", f"-march={arch}", *width, "-fopenmp", "-Wno-psabi"]


def check_processor(arch: str) -> None:
    """RuntimeError, with what is missing, unless this processor runs what is built for one of ARCHITECTURES.

    What the system does not tell (abilities are read on Linux alone) is taken to be there.
    """
    machine = platform.machine().lower()
    if arch != "native" and arch.startswith("x86") != (machine in X86):
        raise RuntimeError(f"EG3D_OPS_ARCH={arch}: this processor is {machine}; use native")
    has = set(_processor().split()) if Path("/proc/cpuinfo").exists() else set(ARCHITECTURES[arch])
    missing = [ability for ability in ARCHITECTURES[arch] if ability not in has]
    if missing:
        raise RuntimeError(f"EG3D_OPS_ARCH={arch}: this processor has no {', '.join(missing)}; use native")


def library(like: Tensor, operation: str) -> ctypes.CDLL | None:
    """The native library for `operation` on the device of `like` (any shape), or None where the reference is to run.

    "auto" takes kernels of PROVEN devices only. Raises RuntimeError if EG3D_OPS=native and there is none.
    """
    setting, arch = mode(), architecture()
    if setting == "reference" or (setting == "auto" and like.device.type not in PROVEN):
        return None
    loaded, fault = _library(like.device.type, arch)
    if loaded is not None and not hasattr(loaded, f"{operation}_forward_f32"):
        loaded, fault = None, f"{operation} has no kernel for {like.device.type}"
    if loaded is None and setting == "native":
        raise RuntimeError(f"EG3D_OPS=native, but {fault}; install what is missing or set EG3D_OPS=auto")
    return loaded


def fits(planes: Tensor, w2: Tensor) -> bool:
    """Whether samples of planes [N, 3, C, S, S] and outputs w2 [1 + K, H] fit the registers of a GPU thread."""
    return planes.device.type != "cuda" or max(planes.shape[2], len(w2) - 1) <= GPU_ROOM


def suffix(dtype: torch.dtype) -> str:
    """How the functions for `dtype` end."""
    return {torch.float32: "f32", torch.float64: "f64"}[dtype]


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of the first element of a tensor of any shape; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def call(
    native: ctypes.CDLL, operation: str, step: str, spec: ctypes.Structure, tensors: Sequence[Tensor | None]
) -> None:
    """Run `operation`_`step`_f32 or _f64 on tensors of one device, the first of which names device and type.

    They have any shapes: the caller has checked them, and `spec` carries their sizes. GPU libraries get a workspace and
    the current stream as well, and report what went wrong with a launch.
    """
    first = tensors[0]
    assert first is not None
    end = suffix(first.dtype)
    function, pointers = getattr(native, f"{operation}_{step}_{end}"), [pointer(tensor) for tensor in tensors]
    sizes = getattr(native, f"{operation}_workspace_{end}", None)
    if sizes is None:
        function(ctypes.byref(spec), *pointers)
        return
    sizes.restype = function.restype = ctypes.c_int64
    workspace = first.new_empty(sizes(ctypes.byref(spec), ctypes.c_int64(step == "backward")))
    stream = torch.cuda.current_stream(first.device).cuda_stream if first.is_cuda else None
    with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
        code = function(ctypes.byref(spec), *pointers, pointer(workspace), ctypes.c_void_p(stream))
    if code != 0:
        raise RuntimeError(
            f"{operation} {step} on {first.device}: CUDA error {code} at launch; EG3D_OPS=reference avoids it"
        )


def gradients(
    values: Tensor | Sequence[Tensor],
    inputs: Sequence[Tensor],
    upstream: Tensor | Sequence[Tensor],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients, in the shapes of `inputs` (any shapes), of values of the reference; None for those that need none.

    They are themselves differentiable. `upstream` has the shapes of `values`.
    """
    wanted = [tensor for tensor, flag in zip(inputs, needed) if flag]
    found = iter(torch.autograd.grad(values, wanted, upstream, create_graph=True))
    return [next(found) if flag else None for flag in needed[: len(inputs)]]


@functools.cache
def _library(device: str, arch: str) -> tuple[ctypes.CDLL | None, str]:
    """The library of a device type and what kept it from loading; tried, and warned about, once per process."""
    try:
        return ctypes.CDLL(str(built(device, arch))), ""
    except Exception as error:  # a compiler can fail in any way; whatever it is, the reference works
        fault = f"native operations for {device} are not available ({gist(str(error))})"
        if mode() == "auto":
            warnings.warn(f"{fault}; using the slower reference, EG3D_OPS=reference silences this", stacklevel=3)
        return None, fault


def gist(message: str) -> str:
    """The line of a build log that says most: its first error, or else its first line; at most 200 characters."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["no message"]
    telling = [line for line in lines if "error" in line.lower() and "Error building" not in line]
    return (telling or lines)[0][:200]


def built(device: str, arch: str) -> Path:
    """Path of the library of a device type for one of ARCHITECTURES, built if need be: RuntimeError if it cannot be.

    Safe for processes that start together.
    """
    if device not in SOURCES:
        raise RuntimeError(f"no kernels for device type {device!r}")
    if device == "cpu":
        check_processor(arch)
    compiler = "nvcc" if device == "cuda" else os.environ.get("CXX", "c++")
    sources = sorted(_HERE.glob(SOURCES[device]))
    folder = _cache_folder() / f"{device}-{_key(device, arch, compiler, sources)}"
    path = folder / f"eg3d_ops_{device}.so"
    if not path.exists():
        if shutil.which(compiler) is None and not (device == "cuda" and _cuda_home()):
            raise RuntimeError(f"compiler {compiler} not found")
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            if not path.exists():
                _build(device, arch, sources, folder, path)
    return path


def _cuda_home() -> str | None:
    from torch.utils.cpp_extension import CUDA_HOME

    return CUDA_HOME


def _build(device: str, arch: str, sources: list[Path], folder: Path, path: Path) -> None:
    """Compile in a scratch folder, then rename: a library is whole or not there."""
    from torch.utils import cpp_extension

    name = f"eg3d_ops_{device}"
    scratch = Path(tempfile.mkdtemp(prefix="build-", dir=folder))
    try:
        cpp_extension.load(
            name,
            [str(_named_apart(source, scratch)) for source in sources],
            extra_cflags=cpu_flags(arch),
            extra_cuda_cflags=list(CUDA_FLAGS),
            extra_ldflags=["-fopenmp"] if device == "cpu" else [],
            build_directory=str(scratch),
            with_cuda=device == "cuda",
            is_python_module=False,
        )
        os.replace(next(scratch.glob(f"{name}*.so")), path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _named_apart(source: Path, folder: Path) -> Path:
    """A file of a name of its own that includes `source`: the builder names objects by the file's name alone."""
    path = folder / f"{source.parent.name}_{source.name}"
    path.write_text(f'#include "{source.as_posix()}"\n')
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system drops if the process dies; without one (Windows) two builds may run, harmlessly."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _key(device: str, arch: str, compiler: str, sources: list[Path]) -> str:
    """Hash of sources, headers, flags, versions and, because of "native", the processor."""
    digest = hashlib.sha256()
    for path in [*sources, *sorted(_HERE.rglob("*.h"))]:
        digest.update(path.read_bytes())
    flags = cpu_flags(arch) if device == "cpu" else CUDA_FLAGS
    facts = [compiler, flags, torch.__version__, sys.platform, platform.machine(), _processor()]
    digest.update(repr([device, *facts]).encode())
    return digest.hexdigest()[:20]


def _processor() -> str:
    """Name and abilities of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    return "\n".join(
        line for line in info.read_text().split("\n\n")[0].splitlines() if "flags" in line or "model" in line
    )


def _cache_folder() -> Path:
    """A folder of the user that can be written to."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eg3d_ops"
    try:
        base.mkdir(parents=True, exist_ok=True)
        if os.access(base, os.W_OK):
            return base
    except OSError:
        pass
    return Path(tempfile.gettempdir()) / f"eg3d_ops-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
