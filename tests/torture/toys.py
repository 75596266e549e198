"""Commands in miniature: toy inputs in `toys/`, command lines with paths relative to the folder they run in, and what
of their results is promised to be the same bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from run_records import CLOCK
from safetensors import safe_open
from tiny import flat_overrides, tiny_discriminator_config, tiny_train_config

from dataset_preprocessing.human_heads.codes import NUM_CODES
from tests.analyses.tiny_run import save_tiny_networks, save_tiny_reward, tiny_generator

NETWORKS, PICKLE, REWARD = "toys/networks.safetensors", "toys/networks.pkl", "toys/reward"
IMAGES, PHOTOS, RANKINGS = "toys/images", "toys/photos", "toys/rankings.csv"
ANCHORS = [f"data.anchors.num_{split}={count}" for split, count in (("train", 4), ("val", 2), ("test", 2))]
SLAB = ["data.representation.resolution=16", "data.representation.grid=exact"]
RANKED = [f"data.rankings={RANKINGS}", f"data.generator={NETWORKS}", *ANCHORS]
# Files that differ from run to run: times, process numbers, how often the run was started.
_UNPROMISED = re.compile(
    r"(run\.json|.*/run\.json|.*run\.lock|.*/events\.out\..*|events\.out\..*|.*/csv/.*|.*/stages/.*|.*/report\.html"
    r"|.*/tables/.*\.json|.*hparams\.yaml)"
)
_COUNTED = ((r"events\.out\..*", "events"), (r"version_\d+", "version"))  # names with a clock or a count in them
LEFTOVER = re.compile(r"(^|/)\.[^/]+-[a-z0-9_]{8}(\.[^./]*)?(/|$)")


@dataclass(frozen=True)
class Command:
    """A command with one command line."""

    name: str
    module: str  # has a function `main`
    words: list[str]
    inputs: tuple[str, ...]  # files that it reads, of those in toys/
    share: float = 1.0  # of the kills and faults, against the others
    state: tuple[str, ...] = field(default=())  # its own files that it goes on from, by their path


def _train_words() -> list[str]:
    cfg = tiny_train_config(Path("run"), Path(IMAGES))
    return [*flat_overrides(cfg), "snapshot_ticks=1"]


def _finetune_words() -> list[str]:
    return [
        f"start={NETWORKS}", f"data={IMAGES}", "out=run", "device=cpu", "threads=1", "workers=1", "batch=4",
        "total_kimg=0.012", "tick_kimg=0.004", "snapshot_ticks=1", "grid=[2,1]", "loss.blur_init_sigma=0",
        "reward._target_=reward_model_training.bundle.load_reward", f"reward.path={REWARD}",
        "reward_term.micro_batch=4", "consistency.resolution=8", "consistency.grid=exact", "tracking.num_seeds=3",
    ]  # fmt: skip


def _reward_words() -> list[str]:
    return [
        "out=reward", *RANKED, *SLAB, "data.storage=disk", "data.store_dir=store", "data.batch_size=4",
        "model.backbone.f_maps=[2,4]", "model.backbone.num_groups=2", "model.backbone.final_size_out=8",
        "model.heads.trunk_hidden=[4,4]", "model.heads.trunk_out=4", "model.heads.head_hidden=[3,3]", "max_epochs=2",
        "num_threads=1", "device=cpu", "state_every_n_steps=1", "shows_progress=false",
    ]  # fmt: skip


_SHORT = (
    "batch=4 total_kimg=0.008 tick_kimg=0.004 grid=[2,1] reward_term.micro_batch=4 consistency.resolution=8 "
    "consistency.grid=exact tracking.num_seeds=3 loss.blur_init_sigma=0"
)
_PIPELINE = [
    "out=run", "data=heads.zip", "device=cpu", f"generator={NETWORKS}", f"reward={REWARD}",
    "heads='num_images=8 resolution=16 workers=1'", f"++finetuning.tuned='{_SHORT}'",
    f"++finetuning.control='{_SHORT} reward_term.weight=0'", "geometry.num_seeds=2", "geometry.grid_resolution=16",
    "before_after.num_seeds=2", "image_change.num_seeds=3", "pictures.num_seeds=1", "pictures.grid_resolution=16",
    "pictures.resolution=16", "truth.num_seeds=1", "truth.resolution=16", "truth.grid_resolution=16",
]  # fmt: skip
_STATE = ("run/state.safetensors", "run/config.yaml", "run/run.json")

COMMANDS = {
    command.name: command
    for command in (
        Command("train", "eg3d.train", _train_words(), (IMAGES,), 2.0, (*_STATE, "run/stats.jsonl")),
        Command("train_rlhf", "eg3d.train_rlhf", _finetune_words(), (IMAGES, NETWORKS, REWARD), 2.0,
                (*_STATE, "run/trajectories.csv")),
        Command("reward train", "reward_model_training.train", _reward_words(), (RANKINGS, NETWORKS), 2.0,
                ("reward/last.ckpt", "reward/best.ckpt", "reward/config.yaml", "reward/run.json")),
        Command("rank", "reward_model_training.rank", [
            f"generator={NETWORKS}", "out=rank/rankings.csv", "count=6", "batch_size=3", "slab.resolution=20",
            "slab.grid=exact"], (NETWORKS,), 1.0, ("rank/scores.csv", "rank/config.yaml", "rank/run.json")),
        Command("human_heads zip", "dataset_preprocessing.human_heads.__main__", [
            "out=made/heads.zip", "num_images=8", "resolution=16", "workers=1", "depths=true"], (), 0.7),
        Command("human_heads folder", "dataset_preprocessing.human_heads.__main__", [
            "out=made/heads", "num_images=8", "resolution=16", "workers=1"], (), 0.7),
        Command("dataset_tool zip", "dataset_preprocessing.dataset_tool", [
            "--source", PHOTOS, "--dest", "made/set.zip", "--transform", "center-crop", "--resolution", "8x8",
            "--mirror", "--workers", "1"], (PHOTOS,), 0.7),
        Command("dataset_tool folder", "dataset_preprocessing.dataset_tool", [
            "--source", IMAGES, "--dest", "made/set", "--resolution", "8x8", "--workers", "1"], (IMAGES,), 0.7),
        Command("convert", "eg3d.convert", [PICKLE, "made/networks.safetensors", "--force"], (PICKLE,)),
        Command("gen_samples", "eg3d.gen_samples", [
            "--network", NETWORKS, "--seeds", "0-3", "--outdir", "made", "--shapes", "--shape-res", "24", "--device",
            "cpu"], (NETWORKS,)),
        Command("score", "reward_model_training.score", [
            f"reward={REWARD}", f"generator={NETWORKS}", "num_seeds=12", "out=made/scores.csv", "device=cpu"],
            (NETWORKS, REWARD)),
        Command("evaluate", "reward_model_training.evaluate", [
            f"reward={REWARD}", *RANKED, "data.storage=disk", "data.store_dir=store", "out=made/metrics.csv",
            "device=cpu"], (NETWORKS, REWARD, RANKINGS)),
        Command("calc_metrics", "eg3d.calc_metrics", [
            "--network", NETWORKS, "--data", IMAGES, "--metrics", "fid10_full,kid10", "--detector",
            "random_convolutions", "--cache-dir", "cache", "--out", "made", "--device", "cpu"], (NETWORKS, IMAGES)),
        Command("pipeline", "paper_result_analyses.pipeline", _PIPELINE, (NETWORKS, REWARD), 0.5,
                ("run/stages/tuned.json", "run/sfield/state.safetensors", "run/tables/before_after.csv")),
    )
}  # fmt: skip


def make_toys(folder: Path) -> None:
    """Every input, in `folder`/toys, always the same bytes."""
    from official_pickle import official_file

    from eg3d.networks.discriminator import DualDiscriminator
    from reward_model_training.preferences.rankings import Ranking, write_rankings

    root, rng = folder / "toys", np.random.RandomState(0)
    _make_images(root / "images", rng)
    (root / "photos" / "more").mkdir(parents=True)
    for index, size in enumerate([(12, 9), (9, 12), (16, 16), (10, 10), (20, 8), (8, 8)]):
        pixels = rng.randint(0, 256, (*size, 3), dtype=np.uint8)
        name = f"more/{index}.jpg" if index % 2 else f"{index}.png"
        PIL.Image.fromarray(pixels).save(root / "photos" / name)
    save_tiny_networks(root / "networks.safetensors", z_dim=NUM_CODES)  # measure truth: the code of a head
    torch.manual_seed(0)
    D = DualDiscriminator(tiny_discriminator_config())
    (root / "networks.pkl").write_bytes(official_file(tiny_generator(), D, G_ema=tiny_generator(), p=0.5))
    save_tiny_reward(root / "reward")
    rows = [Ranking(n, tuple(int(s) for s in 100 + 3 * n + rng.permutation(3)), "simulated") for n in range(14)]
    write_rankings(root / "rankings.csv", rows)
    lines = ["seed,roughness,stray,holes,score,relief,asymmetry"]
    lines += [f"{s},0,0,0,{score},0,0" for row in rows for s, score in zip(row.seeds, (10, 9, 8), strict=True)]
    (root / "scores.csv").write_text("\n".join(lines) + "\n")


def _make_images(folder: Path, rng: np.random.RandomState) -> None:
    from eg3d.cameras import CameraConfig

    (folder / "00000").mkdir(parents=True)
    yaw, pitch = torch.from_numpy(rng.uniform(-0.4, 0.4, (2, 12))).float()
    labels = CameraConfig().label(yaw, pitch)
    names = [f"00000/img{index:08d}.png" for index in range(12)]
    for name in names:
        pixels = rng.randint(0, 256, (4, 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        PIL.Image.fromarray(pixels).save(folder / name)
    table = {"labels": [[name, label.tolist()] for name, label in zip(names, labels, strict=True)]}
    (folder / "dataset.json").write_text(json.dumps(table), encoding="utf-8")
    np.save(folder / "codes.npy", rng.randn(12, 5).astype(np.float32))
    np.save(folder / "depths.npy", rng.uniform(2.3, 2.8, (12, 16, 16)).astype(np.float32))


def results_of(folder: Path) -> dict[str, str]:
    """What a command left in its folder besides toys/: name -> digest, or an empty text for what only has to be there.

    Raises what its readers raise for a file that is not whole.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.startswith("toys/") or LEFTOVER.search(name):
            continue
        plain = name
        for pattern, word in _COUNTED:
            plain = re.sub(pattern, word, plain)
        found[plain] = "" if _UNPROMISED.fullmatch(name) else _digest(path)
    return found


def _digest(path: Path) -> str:
    read = next((read for pattern, read in _READERS if re.fullmatch(pattern, path.name)), Path.read_bytes)
    content = read(path)
    data = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:20]


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(CLOCK) and k != "timestamp"} for line in lines]


def _last_line(path: Path) -> dict[str, Any]:
    """A measurement that was repeated stands there twice; the last one counts."""
    line = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    return {k: v for k, v in line.items() if k not in ("total_time", "total_time_str", "timestamp")}


def _tensors(path: Path) -> dict[str, Any]:
    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return {**(file.metadata() or {}), "tensors": {name: _of_tensor(value) for name, value in tensors.items()}}


def _checkpoint(path: Path) -> dict[str, Any]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    steps = {name: state[name] for name in ("epoch", "global_step")}
    return {**steps, "tensors": {name: _of_tensor(value) for name, value in state["state_dict"].items()}}


def _of_tensor(tensor: torch.Tensor) -> str:
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode() + data).hexdigest()[:20]


_READERS: tuple[tuple[str, Callable[[Path], Any]], ...] = (
    (r"stats\.jsonl", _lines),
    (r"metric-.*\.jsonl", _last_line),
    (r".*\.safetensors", _tensors),
    (r".*\.ckpt", _checkpoint),
)


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders that were left."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if LEFTOVER.search("/" + path.name)]
