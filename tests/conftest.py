"""Shared toy pieces: networks of a few thousand weights, a data set of a dozen images, runs of a second."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from command_line import Run, runner
from tiny import NUM_CODES, NUM_IMAGES, tiny_discriminator_config, tiny_generator_config, tiny_train_config

from eg3d.cameras import CameraConfig
from eg3d.checkpoints.store import save_networks
from eg3d.finetuning.config import ConsistencyConfig, FinetuneConfig, RewardTermConfig, TrackingConfig
from eg3d.generators.eg3d import GeneratorConfig, TriPlaneGenerator
from eg3d.networks.discriminator import DiscriminatorConfig, DualDiscriminator
from eg3d.training.config import TrainConfig


@pytest.fixture(autouse=True)
def _restored_process_state() -> Iterator[None]:
    """A run sets torch's threads and the root logger; the next test gets them as they were."""
    threads, handlers = torch.get_num_threads(), list(logging.getLogger().handlers)
    yield
    torch.set_num_threads(threads)
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the main function of a command module in this process, in an empty folder."""
    return runner(monkeypatch, capsys, tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # a writer that failed may hold its file still


@pytest.fixture
def generator_config() -> GeneratorConfig:
    return tiny_generator_config()


@pytest.fixture
def discriminator_config() -> DiscriminatorConfig:
    return tiny_discriminator_config()


@pytest.fixture(scope="session")
def toy_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set folder: 12 random 16-pixel images, cameras on the FFHQ sphere, head parameters and depth maps."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.RandomState(0)
    yaw, pitch = torch.from_numpy(rng.uniform(-0.4, 0.4, (2, NUM_IMAGES))).float()
    labels = CameraConfig().label(yaw, pitch)
    names = [f"00000/img{index:08d}.png" for index in range(NUM_IMAGES)]
    (folder / "00000").mkdir()
    for name in names:
        pixels = rng.randint(0, 256, (4, 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        PIL.Image.fromarray(pixels).save(folder / name)
    table = {"labels": [[name, label.tolist()] for name, label in zip(names, labels, strict=True)]}
    (folder / "dataset.json").write_text(json.dumps(table), encoding="utf-8")
    np.save(folder / "codes.npy", rng.randn(NUM_IMAGES, NUM_CODES).astype(np.float32))
    np.save(folder / "depths.npy", rng.uniform(2.3, 2.8, (NUM_IMAGES, 16, 16)).astype(np.float32))
    return folder


@pytest.fixture(scope="session")
def toy_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network file with G, D and G_ema of toy size."""
    path = tmp_path_factory.mktemp("networks") / "toy.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = TriPlaneGenerator(tiny_generator_config()), DualDiscriminator(tiny_discriminator_config())
    networks = {"G": made[0], "D": made[1], "G_ema": made[0]}
    save_networks(path, networks, configs={name: network.cfg for name, network in networks.items()})
    return path


@pytest.fixture
def train_config(tmp_path: Path, toy_images: Path) -> Callable[..., TrainConfig]:
    """Makes variants of `tiny_train_config` in the test's own folder."""

    def make(**changes: Any) -> TrainConfig:
        return dataclasses.replace(tiny_train_config(tmp_path / "run", toy_images), **changes)

    return make


@pytest.fixture
def finetune_config(train_config: Callable[..., TrainConfig], toy_networks: Path) -> Callable[..., FinetuneConfig]:
    """Makes a fine-tuning config of the same length, from the toy networks, with a reward of tests/finetuning."""

    def make(**changes: Any) -> FinetuneConfig:
        base = train_config()
        shared = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
        config = FinetuneConfig(
            **shared | {"start": str(toy_networks), "ema_rampup": None},
            reward={"_target_": "toy_reward.load"},
            reward_term=RewardTermConfig(micro_batch=2),
            consistency=ConsistencyConfig(resolution=6, grid="exact"),
            tracking=TrackingConfig(num_seeds=3, batch=2),
        )
        return dataclasses.replace(config, **changes)

    return make
