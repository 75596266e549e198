"""Every module imports anywhere; packages import one way; nothing loads data that could run code."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("eg3d", "dataset_preprocessing", "reward_model_training", "paper_result_analyses", "sculpting_nerf")
MAY_IMPORT = {
    "eg3d": {"eg3d"},
    "dataset_preprocessing": {"eg3d", "dataset_preprocessing"},
    "reward_model_training": {"eg3d", "reward_model_training"},
    "paper_result_analyses": {*PACKAGES} - {"sculpting_nerf"},
    "sculpting_nerf": set(PACKAGES),
}
# From the ground up: a module may import its own layer and those before it. A name stands for all below it.
LAYERS = (
    ("eg3d.one_line", "eg3d.clean_errors", "eg3d.config_checks", "eg3d.config_families", "eg3d.stop_signals",
     "eg3d.child_processes", "eg3d.file_hash", "eg3d.code_hash", "eg3d.folder_lock", "eg3d.multirun",
     "eg3d.safe_write", "eg3d.progress", "eg3d.png", "eg3d.seeds", "eg3d.cameras", "eg3d.random_streams",
     "eg3d.pictures", "eg3d.leftovers", "eg3d.array_files", "eg3d.data_files", "eg3d.camera_checks",
     "eg3d.data_labels", "eg3d.plain_data", "eg3d.head_model_file", "eg3d.raster", "eg3d.installation",
     "eg3d.program", "eg3d.threads"),
    ("eg3d.run_folder", "eg3d.hydra_command", "eg3d.click_command", "eg3d.data"),
    ("eg3d.networks", "eg3d.rendering"),
    ("eg3d.ops",),
    ("eg3d.fields",),
    ("eg3d.generators",),
    ("eg3d.samples", "eg3d.checkpoints", "eg3d.head_fit", "eg3d.head_model"),
    ("eg3d.representations",),
    ("eg3d.training", "eg3d.metrics", "eg3d.viewing"),
    ("eg3d.finetuning",),
    ("eg3d",),  # its commands
    ("dataset_preprocessing", "reward_model_training"),
    ("paper_result_analyses",),
    ("sculpting_nerf",),
)  # fmt: skip
RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def _sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, ("." * node.level) + (node.module or "")


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression that is a name or an attribute; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _keywords(call: ast.Call) -> dict[str, object]:
    return {k.arg: k.value.value for k in call.keywords if k.arg and isinstance(k.value, ast.Constant)}


def forbidden(tree: ast.AST) -> list[str]:
    """Calls and imports that could run what a file holds, as `line N: what`."""
    found = [f"line {line}: import {name}" for line, name in _imports(tree) if name.split(".")[0] in RUNS_CODE]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, keywords = _dotted(node.func), _keywords(node)
        is_bad = name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen")
        is_bad |= name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.hub.load", "pd.read_pickle")
        is_bad |= (
            name.split(".")[-1] == "load" and name.startswith("torch.") and keywords.get("weights_only") is not True
        )
        is_bad |= keywords.get("allow_pickle") is True or keywords.get("shell") is True
        if is_bad:
            found.append(f"line {node.lineno}: {name}(...)")
    return found


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way_and_nothing_runs_from_files(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = path.relative_to(ROOT).parts[0]
    ours = {(line, name.split(".")[0]) for line, name in _imports(tree) if name.split(".")[0] in PACKAGES}
    assert [f"line {line}: {name}" for line, name in sorted(ours) if name not in MAY_IMPORT[package]] == []
    assert forbidden(tree) == []
    named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)}
    strangers = tuple(f"{other}." for other in PACKAGES if other not in MAY_IMPORT[package])
    assert [text for text in named - docstrings if text.startswith(strangers)] == []  # importlib and `_target_` by name


def layer(module: str) -> int:
    """Position of the layer that a module of ours belongs to: that of the longest name above it."""
    above = [
        (len(name), place)
        for place, names in enumerate(LAYERS)
        for name in names
        if f"{module}.".startswith(f"{name}.")
    ]
    return max(above)[1]


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_arrow_goes_up(path: Path) -> None:
    tree, own = ast.parse(path.read_text(encoding="utf-8")), layer(_module(path))
    names = [(line, name) for line, name in _imports(tree) if name.split(".")[0] in PACKAGES and "." in name]
    assert [f"line {line}: {name}" for line, name in names if layer(name) > own] == []


def test_the_layers_see_an_arrow_that_goes_up() -> None:
    assert layer("eg3d.samples") < layer("eg3d.representations.sigma_field") < layer("eg3d.finetuning.objective")
    assert (
        layer("eg3d.train")
        > layer("eg3d.training.loop")
        > layer("eg3d.generators.eg3d")
        > layer("eg3d.fields.triplane")
    )
    assert max(layer(_module(path)) for path in _sources()) == len(LAYERS) - 1


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "torch.load(f)", "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)", "yaml.load(f, Loader=yaml.Loader)", "eval('1')", "exec(text)",
        "subprocess.run(text, shell=True)", "pd.read_pickle(f)",
    ],
)  # fmt: skip
def test_the_check_finds_what_it_looks_for(line: str) -> None:
    assert len(forbidden(ast.parse(line))) == 1


@pytest.mark.parametrize(
    "line", ["torch.load(f, weights_only=True)", "np.load(f, allow_pickle=False)", "model.eval()", "yaml.safe_load(f)"]
)
def test_the_check_lets_good_lines_pass(line: str) -> None:
    assert forbidden(ast.parse(line)) == []


# What takes long to load, and commands that start without it. (PyTorch's first optimiser loads its compiler.)
HEAVY = (
    "torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "torch.distributed.tensor", "sympy",
    "torch.utils.tensorboard", "pytorch_lightning", "lightning_fabric", "torchmetrics", "matplotlib", "scipy",
    "skimage", "trimesh", "pandas", "statsmodels", "viser", "rich",
)  # fmt: skip
CLICK_COMMANDS = ("eg3d.gen_samples", "eg3d.gen_videos", "eg3d.view", "eg3d.convert", "eg3d.calc_metrics")
LIGHT_COMMANDS = (
    *(*CLICK_COMMANDS, "eg3d.train", "eg3d.train_rlhf", "reward_model_training.train", "reward_model_training.score"),
    *("reward_model_training.rank", "dataset_preprocessing.dataset_tool"),
)


@pytest.mark.parametrize("name", LIGHT_COMMANDS)
def test_commands_start_without_what_takes_long_to_load(name: str) -> None:
    heavy = [*HEAVY, *(["hydra"] if name in CLICK_COMMANDS else [])]
    code = f"import json, sys, {name}\nprint(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


IMPORT_ALL = """
import importlib, json, os, sys
failures = {}
before = set(os.listdir("."))
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except BaseException as error:
        failures[name] = f"{type(error).__name__}: {error}"
import torch
failures |= {"GPU": "initialised"} if torch.cuda.is_initialized() else {}
failures |= {"files": str(set(os.listdir(".")) - before)} if set(os.listdir(".")) != before else {}
print(json.dumps(failures))
"""


def test_every_module_imports_without_a_gpu(tmp_path: Path) -> None:
    modules = [name for name in map(_module, _sources()) if not name.endswith(".__main__")]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    environment.pop("DISPLAY", None)
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        input=json.dumps(modules), capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {}
