"""Every file under configs/: it composes, its first lines tell the truth, and the reported ones are pinned whole."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from finetuning.toy_reward import ToyReward
from omegaconf import OmegaConf
from tiny import tiny_discriminator_config, tiny_generator_config

from eg3d.checkpoints.store import save_networks
from eg3d.config_checks import faults_of
from eg3d.finetuning.config import FinetuneConfig
from eg3d.finetuning.judge import judge_from
from eg3d.finetuning.loop import finetune
from eg3d.generators.eg3d import GeneratorConfig, TriPlaneGenerator
from eg3d.hydra_command import CONFIG_DIR, compose_config, experiments_for
from eg3d.networks.discriminator import DualDiscriminator
from eg3d.networks.superresolution import SUPERRESOLUTION_KINDS
from eg3d.training.config import TrainConfig
from eg3d.training.loop import train

EXPERIMENTS = sorted((CONFIG_DIR / "experiment").glob("*.yaml"))
PINS = Path(__file__).parent / "experiments"
# What a reported experiment says beyond its pinned parent.
FFHQ = {
    "ffhq_sfield": {},
    "ffhq_control": {"out": "runs/ffhq_control", "reward_term.weight": 0.0},
    "ffhq_continuation": {"out": "runs/ffhq_continuation", "reward_term.weight": 0.0, "consistency.weight": 0.0},
}


def _first(pattern: str, path: Path) -> str:
    found = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{path.name} has no line like {pattern}"
    return found.group(1)


def _entry_of(module: str) -> tuple[str, type]:
    """Config name and schema of the command `python -m module`."""
    if importlib.util.find_spec(module).submodule_search_locations:  # type: ignore[union-attr]
        module += ".__main__"
    command = importlib.import_module(module).main
    run = inspect.getclosurevars(command).nonlocals["run"]  # what the command does, between the signals' handlers
    known = inspect.getclosurevars(run).nonlocals
    return known["config_name"], known["schema"]


def _composed(path: Path, *overrides: str) -> Any:
    module = _first(r"^# command: python -m (\S+) experiment=", path)
    config_name, schema = _entry_of(module)
    return compose_config(config_name, schema, [f"experiment={path.stem}", *overrides])


def _name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", EXPERIMENTS, ids=_name)
def test_an_experiment_says_how_to_run_it_and_composes(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# @package _global_"
    config_name = _first(r"^# config: (\S+)$", path)
    module = _first(rf"^# command: python -m (\S+) experiment={path.stem}$", path)
    assert _entry_of(module)[0] == config_name
    assert path.stem in experiments_for(config_name)
    assert [line for line in lines[3:6] if line.startswith("# ")], "the claim that it serves is missing"
    assert faults_of(_composed(path)) == []


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.glob("*.yaml")), ids=_name)
def test_a_primary_config_names_its_command(path: Path) -> None:
    module = _first(r"^# The command: python -m ([\w.]+?)\.?(?:\s|$)", path)
    assert _entry_of(module)[0] == path.stem


@pytest.mark.parametrize("name", sorted(p.stem for p in EXPERIMENTS if p.stem.startswith("ffhq_")))
def test_reported_experiments_are_pinned_whole(name: str) -> None:
    """A change here changes what is reported: renew the pin with experiments/write_pins.py, in its own commit."""
    assert name in FFHQ, f"{name} is not pinned; add it to FFHQ"
    wanted = OmegaConf.load(PINS / "ffhq_sfield.yaml")
    for key, value in FFHQ[name].items():
        OmegaConf.update(wanted, key, value)
    found = compose_config("finetune", FinetuneConfig, [f"experiment={name}"])
    assert OmegaConf.to_container(OmegaConf.structured(found)) == OmegaConf.to_container(wanted)


def test_the_reported_run_is_the_published_one() -> None:
    """The values of the released configuration that decide the run, each by its published name."""
    cfg = compose_config("finetune", FinetuneConfig, ["experiment=ffhq_sfield"])
    published = {
        "lambda_rwd_model": (cfg.reward_term.weight, 10),
        "rwd_clamp_min": (cfg.reward_term.clip_low, -10),
        "rwd_clamp_max": (cfg.reward_term.clip_high, 10),
        "lambda_sigma_l1": (cfg.consistency.weight, 0.01),
        "consistency psi": (cfg.consistency.psi, 0.7),
        "G_sample_truncation_psi": (cfg.reward_term.psi, 1),
        "G_sample_truncation_cutoff": (cfg.reward_term.truncation_cutoff, 14),
        "gen_c_mult_rwd": (cfg.reward_term.camera_factor, 1),
        "batch_size": (cfg.batch, 16),
        "accum_steps": (cfg.batch // cfg.micro_batch, 16),
        "gamma": (cfg.loss.r1_gamma, 20),
        "lazy gain": (cfg.loss.lazy_gain, False),
        "density_reg": (cfg.loss.density_reg, 0.25),
        "density_reg_every": (cfg.loss.density_reg_interval, 4),
        "gpc_reg_prob": (cfg.loss.swap_final, 0.5),
        "reward Adam": (cfg.reward_lr, 0.0025),
        "iterations": (round(1000 * cfg.total_kimg / cfg.batch), 1261),
        "iterations a tick": (round(1000 * cfg.tick_kimg / cfg.batch), 63),
        "plot seeds": ((cfg.tracking.first_seed, cfg.tracking.num_seeds), (300000, 200)),
        "mode": (cfg.mode, "separate"),
    }
    assert {name: found for name, (found, wanted) in published.items() if found != wanted} == {}


TRAININGS = [path for path in EXPERIMENTS if _first(r"^# config: (\S+)$", path) in ("train", "finetune")]


@pytest.mark.parametrize("path", TRAININGS, ids=_name)
def test_the_smoke_overlay_composes(path: Path) -> None:
    cfg = _composed(path, "+overlay=smoke")
    assert (cfg.batch, cfg.total_kimg, cfg.snapshot_ticks) == (4, 0.008, 1)
    assert cfg.loss == _composed(path).loss


def _toy_generator(cfg: GeneratorConfig) -> GeneratorConfig:
    """The same kind of generator with the sizes of the tests."""
    tiny = tiny_generator_config()
    factor = 1 if cfg.superresolution == "none" else 4 if SUPERRESOLUTION_KINDS[cfg.superresolution].first_up else 2
    side = tiny.img_resolution // factor
    rendering = dataclasses.replace(cfg.rendering, depth_resolution=4, depth_resolution_importance=2)
    kept = {name: getattr(cfg, name) for name in ("superresolution", "mapping_layers", "camera", "condition_on_camera")}
    sizes = {"sr_input_resolution": side, "neural_rendering_resolution": side}
    return dataclasses.replace(tiny, **kept, **sizes, rendering=rendering)


def _toy(cfg: TrainConfig, out: Path, data: Path) -> Any:
    """The experiment with its losses, phases, rates and modes, at the sizes of the tests and for two steps."""
    generator = _toy_generator(cfg.generator)
    discriminator = dataclasses.replace(tiny_discriminator_config(), mapping_layers=cfg.discriminator.mapping_layers)
    out.mkdir()
    start = out / "start.safetensors"
    networks = {"G": TriPlaneGenerator(generator), "D": DualDiscriminator(discriminator)}
    networks["G_ema"] = networks["G"]
    save_networks(start, networks, configs={name: network.cfg for name, network in networks.items()})
    changes: dict[str, Any] = {
        "out": str(out), "data": str(data), "start": str(start) if cfg.start else None, "device": "cpu", "threads": 1,
        "workers": 1, "batch": 2, "micro_batch": min(cfg.micro_batch, 2), "total_kimg": 0.004, "tick_kimg": 0.002,
        "grid": [1, 1], "generator": generator, "discriminator": discriminator,
        "loss": dataclasses.replace(cfg.loss, density_reg_points=20),
        "warm_start": dataclasses.replace(cfg.warm_start, discriminator_kimg=0.0),
    }  # fmt: skip
    if isinstance(cfg, FinetuneConfig):
        changes["reward"] = {"_target_": "toy_reward.load"}
        changes["consistency"] = dataclasses.replace(cfg.consistency, resolution=6)
        changes["tracking"] = dataclasses.replace(cfg.tracking, num_seeds=2)
        changes["judge"] = cfg.judge | {"num_seeds": 2}
    return dataclasses.replace(cfg, **changes)


@pytest.mark.parametrize("path", TRAININGS, ids=_name)
def test_an_experiment_builds_and_steps_at_toy_size(path: Path, tmp_path: Path, toy_images: Path) -> None:
    cfg = _toy(_composed(path), tmp_path / "run", toy_images)
    assert faults_of(cfg) == []
    if isinstance(cfg, FinetuneConfig):
        run = finetune(cfg, ToyReward(), judge=judge_from(cfg, device="cpu"))
    else:
        run = train(cfg)
    assert run.num_images == 4
