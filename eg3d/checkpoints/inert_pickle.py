"""An interpreter of pickle that builds nothing but data.

Python's unpickler is a machine that calls what a file names. A subclass with a closed `find_class` is not enough: it
still calls whatever that returns (REDUCE), sets attributes (BUILD), takes names from copyreg's registry (EXT), and
allocates what a file announces before it has read it. Here the file's opcodes are read by a machine of its own, which
has no operation that imports, calls or sets an attribute. What it can make:

- numbers, text, bytes (views into the file, never copies) and Python's own containers;
- for a pair (module, name) that stands in the caller's closed table, the inert value that the table's own rule makes.

Everything else is refused with RefusedPickleError, which names what was asked for. There is no unsafe switch. Work and
memory are bounded: operations, the length of text and numbers, depth, and the size after shared values are expanded.
Sources: Python's documentation of pickle and pickletools (protocols 0 to 5).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

_LINE_BYTES = 256  # of a number, a name or a memo index written as text
_LONG_BYTES = 16  # of an integer; the longest one in official files has 10
_KEYS = (str, int, bool, type(None))  # what may be a key or a set's item: hashes that no file can make collide


class RefusedPickleError(ValueError):
    """A file that the reader does not take. The text says what was asked for or what is wrong, in one line."""


@dataclass(frozen=True)
class Limits:
    """What a file may cost; a published file with three networks needs less than a tenth of the first and last."""

    operations: int = 1_000_000  # opcodes
    text_bytes: int = 64 << 20  # one string
    depth: int = 64  # containers inside containers
    values: int = 2_000_000  # of the result, a shared value counted wherever it stands


class Inert:
    """A value made by a rule of the table. Subclasses hold data and have no behaviour that a file can reach."""

    def build(self, state: Any) -> None:
        """Take the state that BUILD hands over; most values have none."""
        refuse(f"hands a state to {type(self).__name__}, which takes none")

    def parts(self) -> Iterable[Any]:
        """The values inside, for the limits on depth and size."""
        return ()


@dataclass(frozen=True)
class Rule:
    """What a name of the closed table may be used for. A name without `call` and `new` is only a value."""

    call: Callable[[tuple[Any, ...]], Any] | None = None  # REDUCE: arguments -> inert value
    new: Callable[[], Any] | None = None  # NEWOBJ without arguments -> inert value
    refusal: str = ""  # why a name that people do meet is refused


@dataclass(frozen=True)
class Name(Inert):
    """A name of the closed table on the machine's stack."""

    module: str
    name: str
    rule: Rule

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


Names = Mapping[tuple[str, str], Rule]
Persistent = Callable[[Any], Any]


def refuse(what: str) -> NoReturn:
    """Raise RefusedPickleError."""
    raise RefusedPickleError(what)


def shown(text: object) -> str:
    """A value of the file for an error line: plain ASCII, short."""
    line = ascii(text) if isinstance(text, (str, int, float, bytes, bool, type(None))) else type(text).__name__
    return line if len(line) <= 120 else f"{line[:116]}..."


def read_values(
    data: memoryview,
    names: Names,
    *,
    start: int = 0,
    persistent: Persistent | None = None,
    limits: Limits | None = None,
) -> tuple[Any, int]:
    """The value of one pickle that begins at byte `start`, and the byte after its end.

    `names` is the closed table; `persistent` makes inert values of persistent ids (None: there must be none).
    Containers are Python's; bytes are views into `data`. Raises RefusedPickleError, nothing else.
    """
    limits = limits or Limits()
    machine = _Machine(data, start, names, persistent, limits)
    value = machine.run()
    _check_tree(value, limits)
    return value, machine.position


class _Machine:
    """Stack, marks and memo of one pickle. Operations are the functions of _OPERATIONS below."""

    def __init__(self, data: memoryview, start: int, names: Names, persistent: Persistent | None, limits: Limits):
        self.data, self.position = data, start
        self.names, self.persistent, self.limits = names, persistent, limits
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below each open mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(self.limits.operations):
            at, opcode = self.position, self.unsigned(1)
            if opcode == _STOP:
                break
            operation = _OPERATIONS.get(opcode)
            if operation is None:
                what = _REFUSED_OPERATIONS.get(opcode, "which no pickle of ours needs")
                refuse(f"uses the operation {bytes([opcode])!r} at byte {at}, {what}")
            operation(self)
        else:
            refuse(f"has more than {self.limits.operations} operations")
        if self.marks or len(self.stack) != 1:
            refuse(f"ends with {len(self.stack)} values and {len(self.marks)} open marks instead of one value")
        return self.stack.pop()

    # ------------------------------------------------------------------------------------------ the file

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.data):
            refuse(f"announces {count} bytes at byte {self.position} and ends after {len(self.data)}: cut short")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self, limit: int = _LINE_BYTES) -> bytes:
        """The bytes up to the next line end, without it."""
        start, at, step = self.position, self.position, _LINE_BYTES
        last = min(start + limit, len(self.data))
        while at < last:  # in growing steps: most lines are short, and a source text of protocol 0 is one line
            found = bytes(self.data[at : min(at + step, last)]).find(b"\n")
            if found >= 0:
                self.position = at + found + 1
                return bytes(self.data[start : at + found])
            at, step = at + step, 2 * step
        refuse(f"has no line end within {limit} bytes of byte {start}")

    def text(self, count: int, encoding: str = "utf-8") -> str:
        if count > self.limits.text_bytes:
            refuse(f"has a text of {count} bytes; at most {self.limits.text_bytes} are read")
        return _decoded(bytes(self.take(count)), encoding)

    # ------------------------------------------------------------------------------------------ the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            refuse(f"takes a value from an empty stack before byte {self.position}")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        if not self.marks:
            refuse(f"closes a mark that was never set before byte {self.position}")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def top(self, kind: type) -> Any:
        """The value on top, which must be of exactly this type."""
        value = self.pop()
        if type(value) is not kind:
            refuse(f"adds items to a {type(value).__name__} as if it were a {kind.__name__}")
        self.push(value)
        return value

    def name(self, module: Any, name: Any) -> None:
        """Push a name of the closed table; the only way in which a file names anything."""
        rule = self.names.get((module, name)) if type(module) is str and type(name) is str else None
        if rule is None:
            refuse(f"asks for {shown(f'{module}.{name}')}, which is not on the closed list of harmless names")
        if rule.refusal:
            refuse(f"asks for {shown(f'{module}.{name}')}: {rule.refusal}")
        self.push(Name(module, name, rule))


# ---------------------------------------------------------------------------------------------- operations

_STOP = ord(".")
_OPERATIONS: dict[int, Callable[[_Machine], None]] = {}
_REFUSED_OPERATIONS = {
    ord("P"): "a persistent id as text",
    ord("i"): "which names and calls a class",
    ord("o"): "which calls a class",
    0x92: "which calls a class with keywords",
    0x82: "a name from copyreg's registry",
    0x83: "a name from copyreg's registry",
    0x84: "a name from copyreg's registry",
    0x97: "a buffer outside the file",
    0x98: "a buffer outside the file",
}


def _operation(*opcodes: int | str) -> Callable[[Callable[[_Machine], None]], Callable[[_Machine], None]]:
    def register(function: Callable[[_Machine], None]) -> Callable[[_Machine], None]:
        _OPERATIONS.update({ord(code) if isinstance(code, str) else code: function for code in opcodes})
        return function

    return register


def _pushes(opcode: int | str, make: Callable[[_Machine], Any]) -> None:
    _operation(opcode)(lambda machine: machine.push(make(machine)))


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        refuse(f"has a text that is not {encoding}")


def _whole(line: bytes, what: str = "whole number") -> int:
    if not re.fullmatch(rb"-?[0-9]{1,39}", line):
        refuse(f"has {shown(line)} where a {what} belongs")
    return int(line)


def _real(line: bytes) -> float:
    if not re.fullmatch(rb"[-+0-9.eE]{1,40}|-?inf|nan", line):
        refuse(f"has {shown(line)} where a number belongs")
    try:
        return float(line)
    except ValueError:
        refuse(f"has {shown(line)} where a number belongs")


def _line_integer(machine: _Machine) -> int | bool:
    line = machine.line()
    return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else _whole(line)


def _long(size_bytes: int) -> Callable[[_Machine], int]:
    def read(machine: _Machine) -> int:
        size = machine.unsigned(size_bytes)
        if size > _LONG_BYTES:
            refuse(f"has an integer of {size} bytes; at most {_LONG_BYTES} are read")
        return int.from_bytes(machine.take(size), "little", signed=True)

    return read


def _quoted(machine: _Machine) -> str:
    line = machine.line(machine.limits.text_bytes)
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1] or b"\\" in line:
        refuse("has a quoted text with escapes or without quotes")
    return _decoded(line[1:-1], "ascii")


def _constant(value: bool | None) -> Callable[[_Machine], Any]:
    return lambda machine: value


def _fresh(kind: type) -> Callable[[_Machine], Any]:
    return lambda machine: kind()


def _unsigned(size: int) -> Callable[[_Machine], int]:
    return lambda machine: machine.unsigned(size)


def _text(size: int, encoding: str = "utf-8") -> Callable[[_Machine], str]:
    return lambda machine: machine.text(machine.unsigned(size), encoding)


def _bytes(size: int) -> Callable[[_Machine], memoryview]:
    return lambda machine: machine.take(machine.unsigned(size))


def _tuple(count: int) -> Callable[[_Machine], tuple[Any, ...]]:
    return lambda machine: tuple([machine.pop() for _ in range(count)][::-1])


_MAKERS: dict[int | str, Callable[[_Machine], Any]] = {
    "N": _constant(None), 0x88: _constant(True), 0x89: _constant(False),
    "]": _fresh(list), "}": _fresh(dict), ")": _fresh(tuple), 0x8F: _fresh(set),
    "K": _unsigned(1), "M": _unsigned(2), 0x8A: _long(1), 0x8B: _long(4),
    "J": lambda machine: int.from_bytes(machine.take(4), "little", signed=True),
    "I": _line_integer,
    "L": lambda machine: _whole(machine.line().removesuffix(b"L")),
    "F": lambda machine: _real(machine.line()),
    "G": lambda machine: struct.unpack(">d", machine.take(8))[0],
    "X": _text(4), 0x8C: _text(1), 0x8D: _text(8),
    "T": _text(4, "latin-1"), "U": _text(1, "latin-1"),  # text of Python 2
    "S": _quoted,
    "V": lambda machine: _decoded(machine.line(machine.limits.text_bytes), "raw-unicode-escape"),
    "B": _bytes(4), "C": _bytes(1), 0x8E: _bytes(8), 0x96: _bytes(8),
    0x85: _tuple(1), 0x86: _tuple(2), 0x87: _tuple(3),
    "t": lambda machine: tuple(machine.since_mark()),
    "l": lambda machine: machine.since_mark(),
    "d": lambda machine: _with_items({}, machine.since_mark()),
    0x91: lambda machine: frozenset(map(_key, machine.since_mark())),
}  # fmt: skip
for _opcode, _make in _MAKERS.items():
    _pushes(_opcode, _make)


@_operation(0x80)
def _protocol(machine: _Machine) -> None:
    version = machine.unsigned(1)
    if version > 5:
        refuse(f"is of pickle protocol {version}; protocols 0 to 5 are known")


@_operation(0x95)
def _frame(machine: _Machine) -> None:
    size = machine.unsigned(8)
    if size > len(machine.data) - machine.position:
        refuse(f"announces a frame of {size} bytes at byte {machine.position}: cut short")


@_operation("(")
def _mark(machine: _Machine) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


@_operation("0")
def _pop(machine: _Machine) -> None:
    machine.pop() if machine.stack else machine.since_mark()


@_operation("1")
def _pop_mark(machine: _Machine) -> None:
    machine.since_mark()


@_operation("2")
def _duplicate(machine: _Machine) -> None:
    value = machine.pop()
    machine.stack += [value, value]


def _key(key: Any) -> Any:
    if type(key) not in _KEYS or (type(key) is int and not -(1 << 63) <= key < 1 << 64):
        refuse(f"uses a {type(key).__name__} as a key; text and whole numbers are read")
    return key


def _with_items(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        refuse("has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_key(key)] = value
    return target


@_operation("a")
def _append(machine: _Machine) -> None:
    value = machine.pop()
    machine.top(list).append(value)


@_operation("e")
def _appends(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.top(list).extend(items)


@_operation("s")
def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _with_items(machine.top(dict), [key, value])


@_operation("u")
def _set_items(machine: _Machine) -> None:
    items = machine.since_mark()
    _with_items(machine.top(dict), items)


@_operation(0x90)
def _add_items(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.top(set).update(map(_key, items))


def _remembers(opcode: int | str, index: Callable[[_Machine], int]) -> None:
    def put(machine: _Machine) -> None:
        value = machine.pop()
        machine.push(value)
        machine.memo[index(machine)] = value

    _operation(opcode)(put)


def _recalls(opcode: int | str, index: Callable[[_Machine], int]) -> None:
    def get(machine: _Machine) -> None:
        wanted = index(machine)
        if wanted not in machine.memo:
            refuse(f"recalls the memo's entry {wanted}, which was never written")
        machine.push(machine.memo[wanted])

    _operation(opcode)(get)


_remembers("p", lambda machine: _whole(machine.line(), "memo index"))
_remembers("q", lambda machine: machine.unsigned(1))
_remembers("r", lambda machine: machine.unsigned(4))
_remembers(0x94, lambda machine: len(machine.memo))
_recalls("g", lambda machine: _whole(machine.line(), "memo index"))
_recalls("h", lambda machine: machine.unsigned(1))
_recalls("j", lambda machine: machine.unsigned(4))


@_operation("c")
def _global(machine: _Machine) -> None:
    module, name = (_decoded(machine.line(), "utf-8") for _ in range(2))
    machine.name(module, name)


@_operation(0x93)
def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _callee(value: Any) -> Name:
    if type(value) is not Name:
        refuse(f"calls a {type(value).__name__}")
    return value


@_operation("R")
def _reduce(machine: _Machine) -> None:
    arguments, callee = machine.pop(), _callee(machine.pop())
    if callee.rule.call is None or type(arguments) is not tuple:
        refuse(f"calls {callee} with a {type(arguments).__name__}, which the closed list does not provide for")
    machine.push(callee.rule.call(arguments))


@_operation(0x81)
def _new_object(machine: _Machine) -> None:
    arguments, callee = machine.pop(), _callee(machine.pop())
    if callee.rule.new is None or arguments != ():
        refuse(f"makes an object of {callee} with arguments or where none is provided for")
    machine.push(callee.rule.new())


@_operation("b")
def _build(machine: _Machine) -> None:
    state, target = machine.pop(), machine.pop()
    if not isinstance(target, Inert):
        refuse(f"hands a state to a {type(target).__name__}")
    target.build(state)
    machine.push(target)


@_operation("Q")
def _persistent_id(machine: _Machine) -> None:
    if machine.persistent is None:
        refuse("refers to an object outside the file by a persistent id")
    machine.push(machine.persistent(machine.pop()))


# ---------------------------------------------------------------------------------------------- the whole result


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple)):
        return value
    return value.parts() if isinstance(value, Inert) else ()


@dataclass
class _Measured:
    """A container on the path from the root, with what is known of it so far."""

    value: Any
    parts: Iterator[Any]
    depth: int = 0
    size: int = 1

    def add(self, depth: int, size: int, limits: Limits) -> None:
        self.depth, self.size = max(self.depth, depth + 1), self.size + size
        if self.size > limits.values:
            refuse(f"expands to more than {limits.values} values")
        if self.depth > limits.depth:
            refuse(f"is nested more than {limits.depth} deep")


def _check_tree(root: Any, limits: Limits) -> None:
    """Refuse values inside themselves, deeper than the limit, or too many when shared ones are counted each time."""
    finished: dict[int, tuple[int, int]] = {}  # id of a container -> depth and size
    path, open_ids = [_Measured(root, iter(_parts(root)))], {id(root)}
    while path:
        here = path[-1]
        for part in here.parts:
            is_container = isinstance(part, (dict, list, tuple, Inert))
            if id(part) in open_ids and is_container:
                refuse("holds a container inside itself")
            known = finished.get(id(part)) if is_container else (-1, 1)
            if known is None:
                open_ids.add(id(part))
                path.append(_Measured(part, iter(_parts(part))))
                break
            here.add(*known, limits)
        else:
            path.pop()
            open_ids.discard(id(here.value))
            finished[id(here.value)] = here.depth, here.size
            if path:
                path[-1].add(here.depth, here.size, limits)
        if len(path) > limits.depth:
            refuse(f"is nested more than {limits.depth} deep")
