"""No file of production code is longer than a reader holds in mind, and no constructor only passes things on."""

from __future__ import annotations

import ast
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
SUFFIXES = {".py", ".cpp", ".cu", ".h"}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in SUFFIXES)
MOST_LINES = 450
LONGER = {"eg3d/checkpoints/inert_pickle.py"}  # the pickle interpreter: one table of instructions
MOST_ARGUMENTS = 8


def test_no_file_is_too_long() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name for name, count in lines.items() if count > MOST_LINES} == LONGER


def large_constructors(tree: ast.AST) -> list[str]:
    """Classes with an `__init__` of more than MOST_ARGUMENTS; settings beyond that are a value, a dataclass."""
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name == "__init__"
        if len(item.args.posonlyargs + item.args.args + item.args.kwonlyargs) - 1 > MOST_ARGUMENTS
    ]


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.suffix == ".py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_constructor_passes_on_a_crowd(path: Path) -> None:
    assert large_constructors(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_check_sees_a_crowd() -> None:
    names = ", ".join(f"a{i}" for i in range(MOST_ARGUMENTS))
    assert large_constructors(ast.parse(f"class A:\n def __init__(self, {names}): ...")) == []
    assert large_constructors(ast.parse(f"class A:\n def __init__(self, {names}, *, b=1): ...")) == ["A"]
