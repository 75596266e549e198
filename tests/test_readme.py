"""The README keeps its word: its Python runs, and its table of equations names what is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EQUATIONS = re.search(r"(?ms)^## From equation to function\n(.*?)^## ", README)[1]  # type: ignore[index]
ROWS = [row for row in EQUATIONS.splitlines() if row.startswith("| ") and "`" in row]


def test_the_python_example_runs_as_shown() -> None:
    (example,) = re.findall(r"(?s)```python\n(.*?)```", README)
    names: dict[str, Any] = {}
    for line in example.splitlines():  # as one would type it
        exec(line, names)
    assert list(names["image"].shape) == [1, 3, 64, 64]
    assert len(names["mesh"].vertices) > 1000
    assert list(names["score"].shape) == [1]


@pytest.mark.parametrize("row", ROWS)
def test_every_equation_has_its_function_and_its_test(row: str) -> None:
    *_, functions, tests = (cell.strip() for cell in row.strip("|").split("|"))
    for name in re.findall(r"`([\w.]+)`", functions):
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__
    for path in re.findall(r"`([\w/.]+)`", tests):
        text = (ROOT / path).read_text(encoding="utf-8")
        used = [name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", functions)]
        assert any(name in text for name in used), f"{path} says nothing of {', '.join(used)}"


@pytest.mark.parametrize(
    "page", ["README.md", "docs/architecture.md", "benchmarks/README.md", "paper_artifacts/README.md"]
)
def test_links_and_folders_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or ((ROOT / page).parent / target).exists(), target


def test_the_architecture_is_one_page() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 80
    for path in re.findall(r"`((?:eg3d|reward_model_training|paper_result_analyses|tests)/[\w/]+(?:\.py)?)`?", page):
        if "NAME" not in path:
            assert (ROOT / path).exists(), path
