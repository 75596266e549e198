"""What fuzzers share: damage to bytes, JSON and zips from a seed, a guard of time and memory, and the report.

A fuzzer makes a case from `random.Random`, reads it inside `unexpected`, and puts what that returns into a FuzzReport.
The same seed gives the same cases.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import resource
import shutil
import signal
import tempfile
import threading
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

CLEAN = (ValueError, FileNotFoundError)  # what a reader may raise, in one line that names the file
NASTY_NUMBERS = (
    "0", "-1", "1e39", "-1e308", "1e999", "NaN", "Infinity", "-Infinity", "1" + "0" * 400, "9" * 5000,
    "9223372036854775808", "4294967296", "2147483648", "-0.0", "1e-320", "0.1",
)  # fmt: skip
NASTY_JSON = (
    "null", "true", '""', "[]", "{}", '"x"', '"\\ud800"', '"\\u0000"', '"../../x.png"', '"/etc/passwd"', '"a\\nb"',
    "[[]]", '{"a": 1, "a": 2}', "[" * 2000 + "]" * 2000, "[" * 100_000, '{"a":' * 50_000, '"' + "x" * 100_000 + '"',
)  # fmt: skip
NASTY_NAMES = (
    "../x", "/x", "C:\\x", "..\\x", "./x", "x/../y", "__MACOSX/x", ".x", "x/.y", "x\\y", "x\ny", "x" * 300, "é",
    "\udcff", "x//y", "dataset.json", "codes.npy", "DATASET.JSON", "x/dataset.json", "x.pdf", "x.png/",
)  # fmt: skip
_MARK = "@@nasty@@"


@dataclass
class FuzzReport:
    """How many cases were read, how many of them were refused as they should be, and what went wrong."""

    cases: int = 0
    unexpected: list[str] = field(default_factory=list)  # one line each: the case, then what happened
    refused: int = 0

    def line(self) -> str:
        return f"{self.cases} cases, {self.refused} refused in one line, {len(self.unexpected)} unexpected"


def fuzzed(
    cases: int, seed: int, damaged: Callable[[random.Random, Path], Path], read: Callable[[Path], None]
) -> FuzzReport:
    """Read so many damaged files: `damaged(rng, folder)` makes one in an empty folder, errors must name its path."""
    report = FuzzReport()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        for index in range(cases):
            path = damaged(random.Random(f"{seed}/{index}"), folder)
            tried(report, f"{seed}/{index} {read.__name__}", functools.partial(read, path), file=path)
            for other in folder.iterdir():
                shutil.rmtree(other) if other.is_dir() else other.unlink()
    finally:
        shutil.rmtree(folder)
    return report


class TimeIsUp(BaseException):
    """A case took too long; no `except Exception` of the code under test stops it."""


@contextlib.contextmanager
def guard(*, seconds: float, megabytes: int) -> Iterator[None]:
    """Raise TimeIsUp after so many seconds in the block, MemoryError for more than so much memory on top."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp(f"more than {seconds:g} seconds")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20, hard))
    is_timed = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, ring) if is_timed else None
    if is_timed:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        if is_timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def tried(
    report: FuzzReport,
    name: str,
    read: Callable[[], None],
    *,
    file: Path,
    clean: tuple[type[BaseException], ...] = CLEAN,
    seconds: float = 20.0,
    megabytes: int = 1000,
) -> None:
    """Count one case: `read` may return, or raise a clean error of one line with the file's name in it."""
    report.cases += 1
    try:
        with warnings.catch_warnings(), guard(seconds=seconds, megabytes=megabytes):
            warnings.simplefilter("ignore")
            read()
    except clean as error:
        text = str(error)
        report.refused += 1
        if "\n" in text or str(file) not in text:
            report.unexpected.append(f"{name}: not one line with the file's name: {text[:300]!r}")
    except (Exception, TimeIsUp) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        report.unexpected.append(
            f"{name}: {type(error).__name__}: {str(error)[:200]!r} ({where.filename}:{where.lineno})"
        )


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """The bytes with one to four pieces of damage: flips, cuts, holes, repeats, other numbers."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        at = rng.randrange(len(data))
        size = min(rng.choice((1, 2, 4, 8, 64)), len(data) - at)
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + size] = rng.randbytes(size)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + size]
        elif kind == 4:
            data[at:at] = data[at : at + size] * rng.choice((1, 3, 100))
        elif kind == 5:
            data[at : at + size] = bytes([rng.choice((0, 255, 127, 128))]) * size
        else:
            data[at : at + size] = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63)).to_bytes(8, "little")[:size]
    return bytes(data)


def mutated_json(rng: random.Random, value: Any) -> bytes:
    """JSON of a value with one node replaced, removed or repeated, or with its text damaged."""
    value = json.loads(json.dumps(value))
    if rng.random() < 0.15:
        return mutated_bytes(rng, json.dumps(value).encode())
    places = list(_places(value))
    if not places:
        return rng.choice(NASTY_JSON).encode()
    parent, key = rng.choice(places)
    kind = rng.randrange(10)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(key, parent[key])
    else:
        parent[key] = _MARK
    nasty = rng.choice(NASTY_NUMBERS if rng.random() < 0.6 else NASTY_JSON)
    encoding = rng.choice(("utf-8",) * 8 + ("utf-8-sig", "utf-16"))
    return json.dumps(value).replace(f'"{_MARK}"', nasty).encode(encoding)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def mutated_names(rng: random.Random, members: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """The members of a folder or zip with one of them renamed, removed, emptied, repeated, or something added."""
    found = list(members.items())
    at = rng.randrange(len(found))
    name, content = found[at]
    nasty = rng.choice(NASTY_NAMES)
    kind = rng.randrange(8)
    if kind == 0:
        found[at] = (rng.choice((nasty, nasty + name, name.replace("/", "\\"), name.upper(), name + ".jpg")), content)
    elif kind == 1:
        del found[at]
    elif kind == 2:
        found[at] = (name, b"")
    elif kind == 3:
        found.append((name, content))
    elif kind == 4:
        found.append((nasty, content))
    elif kind == 5:
        found = [(f"{rng.choice(('set/', 'a/b/', './', '../', '/', nasty))}{other}", data) for other, data in found]
    elif kind == 6:
        found[at] = (name, rng.choice(list(members.values())))
    else:
        found.append((f"{name[:-4]}{rng.choice(('.jpg', '.png', '.pdf', ''))}", rng.randbytes(40)))
    return found


def write_zip(rng: random.Random, path: Path, members: list[tuple[str, bytes]]) -> None:
    """A zip of the members; in one of ten, one member is packed, perhaps in a way that is not welcome."""
    packed = rng.randrange(len(members)) if members and rng.random() < 0.1 else -1
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as handle:
        warnings.simplefilter("ignore")  # of names that stand there twice: they are meant
        for index, (name, content) in enumerate(members):
            packings = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            packing = rng.choice(packings) if index == packed else zipfile.ZIP_STORED
            handle.writestr(name.encode("utf-8", "replace").decode(), content, packing)


def write_folder(path: Path, members: list[tuple[str, bytes]]) -> None:
    """A folder of the members; names that a folder cannot hold, or that would lie outside of it, are left out."""
    path.mkdir()
    for name, content in members:
        target = path / name.lstrip("/")
        if ".." in target.parts:
            continue
        with contextlib.suppress(OSError, UnicodeError):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
