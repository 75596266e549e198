"""Whoever calls a public function on tensors finds their shapes in a docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "eg3d",
    "dataset_preprocessing",
    "reward_model_training",
    "paper_result_analyses",
    "sculpting_nerf",
    "benchmarks",
)
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# [N, 3], [25] or [...], but not the ranges [0, 1] and [-1, 1]; or what has no shape or any.
SHAPE = re.compile(
    r"\[[^\[\]]*(?:[A-Za-z]|\.\.\.)[^\[\]]*\]|\[[1-9]\d*(?:, [1-9]\d*)*\]"
    r"|\b[Ss]calars?\b|\bany shapes?\b|\b[Ss]tate dict\b"
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Method:
    """A function and the class it stands in, if any."""

    function: Function
    owner: ast.ClassDef | None

    @property
    def name(self) -> str:
        return f"{self.owner.name}.{self.function.name}" if self.owner else self.function.name


def has_shape(node: Function | ast.ClassDef) -> bool:
    return bool(SHAPE.search(ast.get_docstring(node) or ""))


def takes_or_gives_tensors(function: Function) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [a.annotation for a in arguments] + [function.returns]
    return any(a is not None and re.search(r"\bTensor\b", ast.unparse(a)) for a in annotations)


def public_methods(body: Sequence[ast.stmt], owner: ast.ClassDef | None = None) -> Iterator[Method]:
    """Functions of a module, and methods of its classes, whose name has no leading underscore; and `__call__`."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_methods(node.body, node)
        elif isinstance(node, Function) and (not node.name.startswith("_") or node.name == "__call__"):
            yield Method(node, owner)


@cache
def classes() -> dict[str, ast.ClassDef]:
    """Our classes by name."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES)
    return {node.name: node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def bases(node: ast.ClassDef) -> list[ast.ClassDef]:
    """The class and those of our classes that it is made from."""
    found = [node]
    for base in node.bases:
        parent = classes().get(ast.unparse(base).split("[")[0].split(".")[-1])
        found += bases(parent) if parent is not None else []
    return found


def members(node: ast.ClassDef) -> dict[str, ast.stmt]:
    """Methods and annotated attributes, own and of our bases."""
    found: dict[str, ast.stmt] = {}
    for each in reversed(bases(node)):
        for item in each.body:
            if isinstance(item, Function):
                found[item.name] = item
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                found[item.target.id] = item
    return found


def is_promised(method: Method) -> bool:
    """Whether somebody else's docstring gives the shapes: a base class's, or that of a protocol which the class keeps.

    A class keeps a protocol that asks for this method if it has all that the protocol asks for; attributes set in
    `__init__` do not show here, so that methods alone decide.
    """
    if method.owner is None:
        return False
    own = members(method.owner)
    for promise in classes().values():
        asked = {name: item for name, item in members(promise).items() if isinstance(item, Function)}
        is_base = promise is not method.owner and promise in bases(method.owner)
        is_kept = any("Protocol" in ast.unparse(base) for base in promise.bases) and asked.keys() <= own.keys()
        promised = asked.get(method.function.name)
        if (is_base or is_kept) and promised is not None and has_shape(promised):
            return True
    return False


def is_told_by_its_class(method: Method) -> bool:
    """Whether the docstring of the class gives shapes, and names the method unless it is what a call of it runs."""
    if method.owner is None or not has_shape(method.owner):
        return False
    text = ast.get_docstring(method.owner) or ""
    return method.function.name in ("forward", "__call__") or f"`{method.function.name}`" in text


def silent(body: Sequence[ast.stmt]) -> list[str]:
    """`line N: name` of every public function on tensors whose shapes nobody gives."""
    return [
        f"line {method.function.lineno}: {method.name}"
        for method in public_methods(body)
        if takes_or_gives_tensors(method.function)
        and not (has_shape(method.function) or is_promised(method) or is_told_by_its_class(method))
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_on_tensors_give_shapes(path: Path) -> None:
    assert silent(ast.parse(path.read_text(encoding="utf-8")).body) == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("def f(x: Tensor): ...", ["f"]),
        ("def f(x: int) -> list[Tensor]:\n '''Numbers in [0, 1].'''", ["f"]),
        ("def f(x: Tensor):\n '''x [N, 3].'''", []),
        ("def f(x: Tensor):\n '''A scalar.'''", []),
        ("def _f(x: Tensor): ...", []),
        ("class A:\n def density(self, points: Tensor) -> Tensor: ...", ["A.density"]),
        ("class A(TriPlaneField):\n def density(self, points: Tensor) -> Tensor: ...", []),  # the protocol Field
        ("class A:\n '''Takes [N, 3].'''\n def forward(self, x: Tensor): ...\n def g(self, x: Tensor): ...", ["A.g"]),
    ],
)
def test_the_check_finds_what_it_looks_for(text: str, names: list[str]) -> None:
    assert [line.split(": ")[1] for line in silent(ast.parse(text).body)] == names
