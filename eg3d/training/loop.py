"""The training loop: batches, phases, weight average, ticks, snapshots, resume. Losses live in objective.py."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from eg3d.checkpoints.store import load_discriminator, load_generator, save_networks
from eg3d.data import Batch, ImageDataset, batches
from eg3d.generator import TriPlaneGenerator
from eg3d.networks.discriminator import DualDiscriminator
from eg3d.runs import choose_device, command_line, write_run_record
from eg3d.training import grids, schedules
from eg3d.training.config import TrainConfig
from eg3d.training.objective import AdversarialObjective, Progress, adversarial_phases
from eg3d.training.phases import Draw
from eg3d.training.state import load_state, save_state
from eg3d.training.stats import Stats, StatsWriter

log = logging.getLogger(__name__)
GRID_SEED_OFFSET = 1_000_003  # the sample pictures' own random stream, apart from training's


@dataclass(frozen=True)
class TrainingRun:
    """Where a run left its results."""

    folder: Path
    snapshot: Path
    num_images: int


class Trainer:
    """One training run in one process. `phases` may be extended before `run()`; hooks are called at every tick."""

    def __init__(self, cfg: TrainConfig) -> None:
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        self.cfg, self.folder = cfg, Path(cfg.out)
        self.device = choose_device(cfg.device)
        self.dataset = ImageDataset(cfg.data)
        self.progress, self.stats = Progress(), Stats()
        self.rng = torch.Generator(self.device).manual_seed(cfg.seed)
        self.generator, self.discriminator = self._networks()
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        if cfg.start:
            self.average.load_state_dict(load_generator(cfg.start, net="G_ema").state_dict())
        self.objective = AdversarialObjective(
            cfg, self.generator, self.discriminator, self.progress, self.rng, self.stats
        )
        self.phases = adversarial_phases(self.objective)
        self.tick_hooks: list[Callable[[Trainer], None]] = []
        self._grid = self._fixed_grid()

    @property
    def state_path(self) -> Path:
        return self.folder / "state.safetensors"

    def run(self) -> TrainingRun:
        """Train to `total_kimg`, from the saved state where there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        write_run_record(self.folder, self.cfg, seed=self.cfg.seed)
        is_new = self.progress.tick == 0
        writer = StatsWriter(self.folder, num_images=-1 if is_new else self.progress.num_images)
        if is_new:
            self._save_reals()
            self._tick(writer, seconds=0.0, images=0)
        stream = batches(
            self.dataset, self.cfg.batch, seed=self.cfg.seed, start=self.progress.num_images, workers=self.cfg.workers
        )
        total, started, shown = 1000 * self.cfg.total_kimg, time.monotonic(), self.progress.num_images
        while self.progress.num_images < total:
            self.step(next(stream).to(self.device))
            is_last = self.progress.num_images >= total
            if self.progress.num_images - shown >= 1000 * self.cfg.tick_kimg or is_last:
                now = time.monotonic()
                self._tick(writer, seconds=now - started, images=self.progress.num_images - shown, is_last=is_last)
                started, shown = now, self.progress.num_images
        writer.close()
        return TrainingRun(self.folder, self.snapshot_path(), self.progress.num_images)

    def step(self, real: Batch) -> None:
        """One iteration: every phase that is due, then the weight average."""
        for phase in self.phases:
            if phase.is_due(self.progress.iteration, self.progress.num_images):
                draw = Draw(self._latents(), self._labels(), real)
                phase.step(
                    draw, micro_batch=self.cfg.micro_batch or self.cfg.batch, num_images=self.progress.num_images
                )
                for term, norm in phase.norms.items():
                    self.stats.report(f"GradNorm/{phase.name}/{term}", norm)
        self._update_average()
        self.progress.num_images += self.cfg.batch
        self.progress.iteration += 1

    def snapshot_path(self) -> Path:
        return self.folder / f"network-snapshot-{self.progress.num_images // 1000:06d}.safetensors"

    def save_snapshot(self) -> Path:
        """Write G, D and G_ema with their configs; returns the path."""
        path, resolution = self.snapshot_path(), self.objective.neural_resolution
        cfg = dataclasses.replace(self.generator.cfg, neural_rendering_resolution=resolution)
        save_networks(
            path,
            {"G": self.generator, "D": self.discriminator, "G_ema": self.average},
            configs={"G": cfg, "D": self.discriminator.cfg, "G_ema": cfg},
            extra={"num_images": self.progress.num_images, "command": command_line()},
        )
        return path

    def _networks(self) -> tuple[TriPlaneGenerator, DualDiscriminator]:
        if self.cfg.start:
            generator = load_generator(self.cfg.start, net=self.cfg.start_net)
            discriminator = load_discriminator(self.cfg.start)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.cfg.seed)
                generator = TriPlaneGenerator(self.cfg.generator)
                discriminator = DualDiscriminator(self.cfg.discriminator)
            scale_styles(generator, self.cfg.warm_start.style_scale)
        if generator.cfg.img_resolution != self.dataset.resolution:
            raise ValueError(
                f"data: {self.dataset.path} has {self.dataset.resolution}-pixel images, the generator makes "
                f"{generator.cfg.img_resolution}; give a data set of that size"
            )
        generator.requires_grad_(False)
        discriminator.requires_grad_(False)
        return generator.to(self.device).train(), discriminator.to(self.device).train()

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        named: dict[str, torch.optim.Optimizer] = {}
        for phase in self.phases:
            if not any(phase.optimizer is known for known in named.values()):
                named[phase.name] = phase.optimizer
        return named

    def _saved_networks(self) -> dict[str, nn.Module]:
        return {"G": self.generator, "D": self.discriminator, "G_ema": self.average}

    def _resume(self) -> None:
        if not self.state_path.exists():
            return
        if not self.cfg.resume:
            raise ValueError(f"out: {self.folder} holds a run already; give resume=true, another out, or delete it")
        saved = load_state(
            self.state_path,
            networks=self._saved_networks(),
            optimizers=self._optimizers(),
            rng=self.rng,
            progress=self.progress,
        )
        for key, value in saved.items():
            if getattr(self.cfg, key) != value:
                raise ValueError(
                    f"{key}: the run in {self.folder} has {value}, not {getattr(self.cfg, key)}; "
                    f"give {key}={value} to continue it, or another out"
                )
        log.info("resuming at %.1f kimg from %s", self.progress.num_images / 1000, self.state_path)

    def _save_state(self) -> None:
        save_state(
            self.state_path,
            networks=self._saved_networks(),
            optimizers=self._optimizers(),
            rng=self.rng,
            progress=self.progress,
            extra={"seed": self.cfg.seed, "batch": self.cfg.batch},
        )

    def _latents(self) -> Tensor:
        shape = (self.cfg.batch, self.generator.cfg.z_dim)
        return torch.randn(shape, device=self.device, generator=self.rng)

    def _labels(self) -> Tensor:
        indices = torch.randint(len(self.dataset), (self.cfg.batch,), device=self.device, generator=self.rng)
        return self.dataset.labels[indices.cpu()].to(self.device)

    def _update_average(self) -> None:
        ema_kimg = self.cfg.ema_kimg if self.cfg.ema_kimg is not None else self.cfg.batch * 10 / 32
        beta = schedules.ema_beta(
            self.progress.num_images, batch=self.cfg.batch, ema_kimg=ema_kimg, rampup=self.cfg.ema_rampup
        )
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                mean.copy_(value.lerp(mean, beta))
            for kept, buffer in zip(self.average.buffers(), self.generator.buffers(), strict=True):
                kept.copy_(buffer)
        self.average.neural_rendering_resolution = self.objective.neural_resolution

    def _tick(self, writer: StatsWriter, *, seconds: float, images: int, is_last: bool = False) -> None:
        progress = self.progress
        self.stats.report("Progress/tick", progress.tick)
        self.stats.report("Progress/kimg", progress.num_images / 1000)
        self.stats.report("Timing/sec_per_tick", seconds)
        self.stats.report("Timing/sec_per_kimg", 1000 * seconds / max(images, 1))
        self.stats.report("Resources/cpu_mem_gb", psutil.Process().memory_info().rss / 2**30)
        if self.device.type == "cuda":
            self.stats.report("Resources/peak_gpu_mem_gb", torch.cuda.max_memory_allocated(self.device) / 2**30)
        for hook in self.tick_hooks:
            hook(self)
        collected = self.stats.collect()
        writer.write(collected, num_images=progress.num_images)
        log.info("%s", status_line(collected, self.cfg.total_kimg))
        if is_last or progress.tick % self.cfg.snapshot_ticks == 0:
            self._save_samples()
            self.save_snapshot()
        progress.tick += 1
        self._save_state()

    def _fixed_grid(self) -> tuple[Tensor, Tensor]:
        columns, rows = self.cfg.grid
        rng = torch.Generator().manual_seed(self.cfg.seed + GRID_SEED_OFFSET)
        z = torch.randn(columns * rows, self.generator.cfg.z_dim, generator=rng)
        return z, self.dataset.labels[torch.randint(len(self.dataset), (columns * rows,), generator=rng)]

    def _save_reals(self) -> None:
        columns, rows = self.cfg.grid
        indices = list(range(min(columns * rows, len(self.dataset))))
        images = self.dataset.images(indices).float() / 127.5 - 1
        grids.save_grid(images, self.folder / "reals.png", columns=columns)

    @torch.no_grad()
    def _save_samples(self) -> None:
        made: dict[str, list[Tensor]] = {"image": [], "image_raw": [], "image_depth": []}
        for z, c in zip(*(part.split(4) for part in self._grid), strict=True):
            z, c = z.to(self.device), c.to(self.device)
            rendered = self.average(z, c)
            for name, parts in made.items():
                parts.append(rendered[name].cpu())
        kimg, columns = self.progress.num_images // 1000, self.cfg.grid[0]
        pictures = {"": torch.cat(made["image"]), "_raw": torch.cat(made["image_raw"])}
        pictures["_depth"] = grids.depth_to_rgb(torch.cat(made["image_depth"]))
        for suffix, images in pictures.items():
            grids.save_grid(images, self.folder / f"fakes{kimg:06d}{suffix}.png", columns=columns)


@torch.no_grad()
def scale_styles(generator: TriPlaneGenerator, factor: float) -> None:
    """Multiply the weights (not the biases) of all style affines: near 0 every latent makes the same head at first."""
    for name, parameter in generator.named_parameters():
        if name.endswith("affine.weight"):
            parameter.mul_(factor)


def train(cfg: TrainConfig) -> TrainingRun:
    """Train a generator from a data set, or continue the run in `cfg.out`."""
    return Trainer(cfg).run()


def status_line(collected: dict[str, dict[str, float]], total_kimg: float) -> str:
    """One line a tick: where the run is, its losses, its speed and how long it will take."""
    mean = {name: stat["mean"] for name, stat in collected.items()}
    kimg, speed = mean["Progress/kimg"], mean["Timing/sec_per_kimg"]
    remaining = max(total_kimg - kimg, 0) * speed
    shown = {name: value for name, value in mean.items() if name.startswith(("Loss/", "Reward/"))}
    losses = "  ".join(f"{k.removeprefix('Loss/')} {v:.3g}" for k, v in shown.items() if math.isfinite(v))
    return (
        f"tick {mean['Progress/tick']:.0f}  kimg {kimg:.1f}/{total_kimg:g}  sec/kimg {speed:.1f}  "
        f"mem {mean['Resources/cpu_mem_gb']:.2f} GB  eta {duration(remaining)}  {losses}"
    )


def duration(seconds: float) -> str:
    """Seconds as 1d 02h, 2h 03m, 4m 05s or 6s."""
    seconds = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size}{unit} {seconds % size // part:02d}{smaller}"
    return f"{seconds}s"
