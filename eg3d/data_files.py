"""The files of a data set or of a source of images: a folder with its folders, or a zip, by names with forward slashes.

Whatever is wrong with them is a ValueError of one line that begins with the path of the set. Nothing that a file claims
about itself is believed before it is compared with the bytes that are there.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from eg3d.one_line import one_line

# What a photograph may be called. Pillow's own list of suffixes also has documents, films and scientific data.
_SUFFIXES = """apng avif avifs bmp dib gif j2c j2k jfif jp2 jpc jpe jpeg jpf jpg jpx mpo pbm pgm png pnm ppm qoi sgi tga
tif tiff webp"""
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
MOST_BYTES = 2**29  # of one image file; arrays and tables have limits of their own
_PACKINGS = (
    zipfile.ZIP_STORED,
    zipfile.ZIP_DEFLATED,
)  # other methods unpack a few bytes into gigabytes before one knows
_MOST_DEFLATED = 1040  # bytes out of one byte in, at most
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, EOFError, OverflowError)
# A name that needs no change: relative, forward slashes, no empty part, no dots before a part, no drive.
_PLAIN = re.compile(r"(?:[^/\\.:][^/\\:]*/)*[^/\\.:][^/\\:]*")
_NOT_A_FILE = -1  # size of a link to nothing, a pipe, a device


class DataFiles:
    """A folder or zip opened for reading. Reading is thread-safe.

    Hidden files and the companions that macOS writes (`__MACOSX/`, `._name`, `.DS_Store`) are left out and listed in
    `hidden`. Raises FileNotFoundError if there is nothing at `path`, ValueError if it is neither a folder nor a zip, or
    has a name twice, or a name that leads out of it.
    """

    def __init__(self, path: str | Path, *, what: str, hint: str) -> None:
        """`what` is what a message about a missing path begins with, such as "source: ", and `hint` its end."""
        if not str(path):
            raise ValueError(f"{what}the path is empty; {hint}")
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"{what}{self.path} does not exist; {hint}")
        self._zip = None if self.path.is_dir() else self._opened_zip()
        self._lock = threading.Lock()
        self.hidden: list[str] = []
        self._sizes: dict[str, int] = {}
        self._members: dict[str, zipfile.ZipInfo] = {}  # of a zip
        self._raw: dict[str, str] = {}  # of a folder: names that are spelt otherwise on disk
        self._list()
        self.names: list[str] = sorted(self._sizes)

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def images(self) -> list[str]:
        """Names of the image files, by their suffix, sorted."""
        return [name for name in self.names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]

    def is_packed(self, name: str) -> bool:
        """Whether a zip holds this file compressed."""
        return name in self._members and self._members[name].compress_type != zipfile.ZIP_STORED

    def check_all(self, names: Iterable[str]) -> None:
        """Raise ValueError for files that cannot be read, as far as the list of files shows it: it counts them."""
        faults = {name: fault for name in names if (fault := self._fault(name))}
        if faults:
            name, fault = next(iter(faults.items()))
            more = f" (and {len(faults) - 1} more files are damaged)" if len(faults) > 1 else ""
            raise ValueError(f"{self.path}: {shown(name)} {fault}{more}")

    def read(self, name: str, *, most: int = MOST_BYTES) -> bytes:
        """Contents of one file. Raises ValueError if it has more than `most` bytes or cannot be read whole."""
        fault = self._fault(name, most)
        if fault:
            raise ValueError(f"{self.path}: {shown(name)} {fault}")
        try:
            return self._read_member(name) if self._zip else (self.path / self._raw.get(name, name)).read_bytes()
        except (*_ZIP_ERRORS, OSError, ValueError) as error:
            raise ValueError(f"{self.path}: {shown(name)} cannot be read ({_reason(error)})") from None

    def _read_member(self, name: str) -> bytes:
        assert self._zip is not None
        size = self._sizes[name]
        with self._lock, self._zip.open(self._members[name]) as member:
            content = member.read(size)  # not read(): that unpacks what comes, whatever the size says
        if len(content) != size:
            raise ValueError(f"it ends after {len(content)} of {size} bytes")
        return content

    def _fault(self, name: str, most: int = MOST_BYTES) -> str:
        size, info = self._sizes[name], self._members.get(name)
        if size == _NOT_A_FILE:
            return "is a link to nothing, or no ordinary file"
        if size == 0:
            return "is empty (0 bytes)"
        if size > most:
            return f"has {size} bytes, more than the {most} that it can need"
        if info is None:
            return ""
        if info.flag_bits & 1:
            return "is encrypted; unpack the zip with its password first"
        if info.compress_type not in _PACKINGS:
            return f"is packed by method {info.compress_type}; pack it again, stored (zip -0) or deflated"
        most_out = info.compress_size * (_MOST_DEFLATED if info.compress_type == zipfile.ZIP_DEFLATED else 1)
        if size > most_out or info.header_offset + info.compress_size > self._num_bytes:
            return "ends early: the zip holds fewer bytes of it than it says"
        return ""

    def _opened_zip(self) -> zipfile.ZipFile:
        if not self.path.is_file():
            raise ValueError(f"{self.path} is neither a folder nor a zip file")
        try:
            self._num_bytes = self.path.stat().st_size
            return zipfile.ZipFile(self.path)
        except (*_ZIP_ERRORS, OSError, ValueError) as error:
            reason = _reason(error)
            raise ValueError(f"{self.path} is neither a folder nor a zip file that can be read ({reason})") from None

    def _list(self) -> None:
        if self._zip is not None:
            members = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
            names = [self._plain(info.filename) for info in members]
            self._members = dict(zip(names, members))
            sizes = [info.file_size for info in members]
        else:
            found = list(_folder_files(self.path))
            names, sizes = [self._plain(name) for name, _ in found], [size for _, size in found]
            self._raw = {plain: name for plain, (name, _) in zip(names, found) if plain != name}
        if len(set(names)) < len(names):
            twice, count = Counter(names).most_common(1)[0]
            raise ValueError(f"{self.path}: holds {shown(twice)} {count} times; which one is meant cannot be told")
        self._sizes = dict(zip(names, sizes))
        self.hidden = sorted(filter(is_hidden, names))
        for name in self.hidden:
            del self._sizes[name]

    def _plain(self, name: str) -> str:
        """The name with forward slashes and without needless parts. Raises ValueError if it leads out of the set."""
        plain = plain_name(name)
        if plain is None:
            raise ValueError(
                f"{self.path}: the name {shown(name)} leads out of the data set; make the zip anew without it"
            )
        return plain


def plain_name(name: str) -> str | None:
    """A relative path with forward slashes and without empty parts; None for one that leads out of its folder."""
    if _PLAIN.fullmatch(name):
        return name
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    is_absolute = name.startswith("/") or re.match(r"[A-Za-z]:(/|$)", name)
    return None if is_absolute or ".." in parts or not parts else "/".join(parts)


def is_hidden(name: str) -> bool:
    """Whether a file or one of its folders is hidden, or is what macOS puts beside every file of a zip."""
    return name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name


def shown(name: str) -> str:
    """A name for a message: whole where it is short and printable."""
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= 120 else f"{text[:100]}..."


def _reason(error: BaseException) -> str:
    """What an error of a library says, as one line without what belongs to this process (addresses of objects)."""
    return shown(re.sub(r"<[\w.]+ object at 0x[0-9a-f]+>", "the file", one_line(error)))


def _folder_files(root: Path) -> Iterator[tuple[str, int]]:
    """Relative path and size of every file of a folder and its folders, linked ones included, each folder once."""
    waiting, seen = [(root, "")], set()
    while waiting:
        folder, prefix = waiting.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append((Path(entry.path), f"{prefix}{entry.name}/"))
                else:
                    yield prefix + entry.name, entry.stat().st_size if entry.is_file() else _NOT_A_FILE
