"""The training loop: batches, phases, weight average, ticks, snapshots, resume. Losses live in objective.py."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from eg3d.checkpoints.store import load_discriminator, load_triplane_generator, save_networks
from eg3d.data import Batch, ImageDataset, batches
from eg3d.generators.eg3d import TriPlaneGenerator
from eg3d.networks.augment import AugmentPipe
from eg3d.networks.discriminator import DualDiscriminator
from eg3d.pictures import depth_to_rgb, save_grid
from eg3d.progress import duration
from eg3d.run_folder import command_line, write_run_record
from eg3d.training import schedules
from eg3d.training.augmentation import adapted_p
from eg3d.training.config import TrainConfig
from eg3d.training.objective import AdversarialObjective, Progress, adversarial_phases
from eg3d.training.phases import Draw, Phase, draw_samples
from eg3d.training.ranks import join_ranks, whole_groups
from eg3d.training.state import load_state, save_state
from eg3d.training.stats import Stats, StatsWriter
from eg3d.training.transfer import transfer

log = logging.getLogger(__name__)
STATE_NAME = "state.safetensors"
GRID_SEED_OFFSET = 1_000_003  # the sample pictures' own random stream, apart from training's


@dataclass(frozen=True)
class TrainingRun:
    """Where a run left its results."""

    folder: Path
    snapshot: Path
    num_images: int


class Trainer:
    """One training run, or one process's share of it. `phases` may be extended before `run()`.

    `tick_hooks` are called at every tick and `snapshot_hooks` with the path of every snapshot just written (metrics go
    there), both in the first process only; the others wait for it.
    """

    def __init__(self, cfg: TrainConfig) -> None:
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        self.cfg, self.folder = cfg, Path(cfg.out)
        self.ranks = join_ranks(cfg.device)
        self.device = self.ranks.device
        _set_backends(cfg)
        self.dataset = ImageDataset(cfg.data, max_images=cfg.max_images, mirror=cfg.mirror, seed=cfg.seed)
        self.progress, self.stats = Progress(), Stats()
        self.generator, self.discriminator, self.average = self._networks()
        self.augment = self._augmentation()
        self.objective = AdversarialObjective(
            cfg, self.generator, self.discriminator, self.progress, self.stats, self.augment
        )
        self.phases = adversarial_phases(self.objective)
        self.tick_hooks: list[Callable[[Trainer], None]] = []
        self.snapshot_hooks: list[Callable[[Trainer, Path], None]] = []
        self._grid = self._fixed_grid()
        self.share = shared_batch(
            cfg.batch, cfg.micro_batch, num_ranks=self.ranks.size, group=self.discriminator.cfg.mbstd_group_size
        )
        if self.share.micro_batch == 1 and cfg.batch > 1:
            log.info("one image a forward pass: the minibatch-std feature is constant and no cameras are swapped")

    @property
    def state_path(self) -> Path:
        return self.folder / STATE_NAME

    def run(self) -> TrainingRun:
        """Train to `total_kimg`, from the saved state where there is one."""
        self._resume()
        is_new, writer = self.progress.tick == 0, None
        self.ranks.wait()  # the first process writes only when all have read
        if self.ranks.is_first:
            write_run_record(self.folder, self.cfg, seed=self.cfg.seed)
            writer = StatsWriter(self.folder, num_images=-1 if is_new else self.progress.num_images)
        if is_new:
            self._tick(writer, seconds=0.0, images=0)
        stream = batches(
            self.dataset,
            self.cfg.batch,
            seed=self.cfg.seed,
            start=self.progress.num_images,
            workers=self.cfg.workers,
            rows=self.share.rows[self.ranks.rank],
        )
        total, started, shown = 1000 * self.cfg.total_kimg, time.monotonic(), self.progress.num_images
        while self.progress.num_images < total:
            self.step(next(stream).to(self.device))
            is_last = self.progress.num_images >= total
            if self.progress.num_images - shown >= 1000 * self.cfg.tick_kimg or is_last:
                now = time.monotonic()
                self._tick(writer, seconds=now - started, images=self.progress.num_images - shown, is_last=is_last)
                started, shown = now, self.progress.num_images
        if writer is not None:
            writer.close()
        self.ranks.leave()
        return TrainingRun(self.folder, self.snapshot_path(), self.progress.num_images)

    def step(self, real: Batch) -> None:
        """One iteration: every phase that is due, then the weight average."""
        for phase in self.phases:
            if phase.is_due(self.progress.iteration, self.progress.num_images):
                phase.step(
                    self._draw(phase, real),
                    micro_batch=self.share.micro_batch,
                    num_images=self.progress.num_images,
                    ranks=self.ranks,
                )
                for term, norm in phase.norms.items():
                    self.stats.report(f"GradNorm/{phase.name}/{term}", norm)
        self._update_average()
        self.progress.num_images += self.cfg.batch
        self.progress.iteration += 1
        self._adapt_augmentation()

    def snapshot_path(self) -> Path:
        return self.folder / f"network-snapshot-{self.progress.num_images // 1000:06d}.safetensors"

    def save_snapshot(self) -> Path:
        """Write G, D and G_ema with their configs; returns the path."""
        path, resolution = self.snapshot_path(), self.objective.neural_resolution
        cfg = dataclasses.replace(self.generator.cfg, neural_rendering_resolution=resolution)
        configs = {"G": cfg, "D": self.discriminator.cfg, "G_ema": cfg}
        if self.augment is not None:
            configs["augment_pipe"] = self.augment.cfg
        save_networks(
            path,
            self._saved_networks(),
            configs=configs,
            extra={"num_images": self.progress.num_images, "command": command_line()},
        )
        return path

    def _networks(self) -> tuple[TriPlaneGenerator, DualDiscriminator, TriPlaneGenerator]:
        """G, D and the average of G, on the device; their weights follow from config, seed and `start` alone."""
        cfg = self.cfg
        if cfg.start and cfg.start_config == "file":
            generator, discriminator = (
                load_triplane_generator(cfg.start, net=cfg.start_net),
                load_discriminator(cfg.start),
            )
            average = load_triplane_generator(cfg.start, net="G_ema")
        else:
            generator, discriminator = self._new_networks()
            average = copy.deepcopy(generator)
            if cfg.start:
                transfer(
                    generator, load_triplane_generator(cfg.start, net=cfg.start_net), f"{cfg.start}, {cfg.start_net}"
                )
                transfer(discriminator, load_discriminator(cfg.start), f"{cfg.start}, D")
                transfer(average, load_triplane_generator(cfg.start, net="G_ema"), f"{cfg.start}, G_ema")
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            if network.cfg.img_resolution != self.dataset.resolution:
                raise ValueError(
                    f"data: {self.dataset.path} has {self.dataset.resolution}-pixel images, the {name} makes "
                    f"{network.cfg.img_resolution}; give a data set of that size"
                )
        for network in (generator, discriminator, average):
            network.to(self.device).requires_grad_(False)
        return generator.train(), discriminator.train(), average.eval()

    def _new_networks(self) -> tuple[TriPlaneGenerator, DualDiscriminator]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.cfg.seed)
            generator = TriPlaneGenerator(self.cfg.generator)
            discriminator = DualDiscriminator(self.cfg.discriminator)
        scale_styles(generator, self.cfg.warm_start.style_scale)
        if self.cfg.generator.c_dim:
            generator.get_buffer("dataset_label_std").copy_(self.dataset.label_std())
        return generator, discriminator

    def _augmentation(self) -> AugmentPipe | None:
        augmentation = self.cfg.augmentation
        if augmentation.mode == "none":
            return None
        return AugmentPipe(augmentation.pipe, augmentation.p if augmentation.mode == "fixed" else 0.0).to(self.device)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        named: dict[str, torch.optim.Optimizer] = {}
        for phase in self.phases:
            if not any(phase.optimizer is known for known in named.values()):
                named[phase.name] = phase.optimizer
        return named

    def _saved_networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"G": self.generator, "D": self.discriminator, "G_ema": self.average}
        return networks if self.augment is None else networks | {"augment_pipe": self.augment}

    def _resume(self) -> None:
        if not self.state_path.exists():
            return
        if not self.cfg.resume:
            raise ValueError(f"out: {self.folder} holds a run already; give resume=true, another out, or delete it")
        saved = load_state(
            self.state_path,
            networks=self._saved_networks(),
            optimizers=self._optimizers(),
            progress=self.progress,
        )
        for key, value in saved.items():
            if getattr(self.cfg, key) != value:
                raise ValueError(
                    f"{key}: the run in {self.folder} has {value}, not {getattr(self.cfg, key)}; "
                    f"give {key}={value} to continue it, or another out"
                )
        if not self.ranks.is_first:  # the saved sums are those of all processes; the first one keeps them
            self.progress.real_signs = self.progress.real_count = 0.0
        log.info("resuming at %.1f kimg from %s", self.progress.num_images / 1000, self.state_path)

    def _save_state(self) -> None:
        save_state(
            self.state_path,
            networks=self._saved_networks(),
            optimizers=self._optimizers(),
            progress=self.progress,
            extra={name: getattr(self.cfg, name) for name in ("seed", "batch", "mirror", "max_images")},
        )

    def _draw(self, phase: Phase, real: Batch) -> Draw:
        """This process's share of what a phase works on at this iteration."""
        return draw_samples(
            self.dataset.labels,
            real,
            z_dim=self.generator.cfg.z_dim,
            batch=self.cfg.batch,
            key=(self.cfg.seed, self.progress.iteration, zlib.crc32(phase.name.encode())),
            device=self.device,
            rows=self.share.rows[self.ranks.rank],
            group=self.share.group,
        )

    def _adapt_augmentation(self) -> None:
        augmentation, progress = self.cfg.augmentation, self.progress
        if self.augment is None or augmentation.mode != "ada" or progress.iteration % augmentation.interval:
            return
        signs = torch.tensor([progress.real_signs, progress.real_count], device=self.device)
        total, count = self.ranks.sum(signs).tolist()
        progress.real_signs = progress.real_count = 0.0
        if count > 0:
            p, shown = float(self.augment.p), self.cfg.batch * augmentation.interval
            p = adapted_p(p, total / count, target=augmentation.target, num_images=shown, kimg=augmentation.kimg)
            self.augment.p.fill_(p)

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

    def _tick(self, writer: StatsWriter | None, *, seconds: float, images: int, is_last: bool = False) -> None:
        """Statistics, pictures, snapshot and state; only the first process has a writer, and writes."""
        progress, collected = self.progress, self.stats.collect(self.ranks)
        signs = self.ranks.sum(torch.tensor([progress.real_signs, progress.real_count], device=self.device))
        if writer is not None:
            self._report_progress(seconds, images)
            for hook in self.tick_hooks:
                hook(self)
            collected |= self.stats.collect()
            writer.write(collected, num_images=progress.num_images)
            log.info("%s", status_line(collected, self.cfg.total_kimg))
            if progress.tick == 0:
                self._save_reals()
            if is_last or progress.tick % self.cfg.snapshot_ticks == 0:
                self._save_samples()
                path = self.save_snapshot()
                for snapshot_hook in self.snapshot_hooks:
                    snapshot_hook(self, path)
        progress.tick += 1
        if writer is not None:
            progress.real_signs, progress.real_count = signs.tolist()
            self._save_state()
        else:
            progress.real_signs = progress.real_count = 0.0
        self.ranks.wait()

    def _report_progress(self, seconds: float, images: int) -> None:
        self.stats.report("Progress/tick", self.progress.tick)
        self.stats.report("Progress/kimg", self.progress.num_images / 1000)
        if self.augment is not None:
            self.stats.report("Progress/augment", self.augment.p)
        self.stats.report("Timing/sec_per_tick", seconds)
        self.stats.report("Timing/sec_per_kimg", 1000 * seconds / max(images, 1))
        self.stats.report("Resources/cpu_mem_gb", psutil.Process().memory_info().rss / 2**30)
        if self.device.type == "cuda":
            self.stats.report("Resources/peak_gpu_mem_gb", torch.cuda.max_memory_allocated(self.device) / 2**30)
            self.stats.report("Resources/peak_gpu_mem_reserved_gb", torch.cuda.max_memory_reserved(self.device) / 2**30)

    def _fixed_grid(self) -> tuple[Tensor, Tensor]:
        columns, rows = self.cfg.grid
        rng = torch.Generator().manual_seed(self.cfg.seed + GRID_SEED_OFFSET)
        z = torch.randn(columns * rows, self.generator.cfg.z_dim, generator=rng)
        return z, self.dataset.labels[torch.randint(len(self.dataset), (columns * rows,), generator=rng)]

    def _save_reals(self) -> None:
        columns, rows = self.cfg.grid
        indices = list(range(min(columns * rows, len(self.dataset))))
        images = self.dataset.images(indices).float() / 127.5 - 1
        save_grid(images, self.folder / "reals.png", columns=columns)

    @torch.no_grad()
    def _save_samples(self) -> None:
        made: dict[str, list[Tensor]] = {"image": [], "image_raw": [], "image_depth": []}
        for z, c in zip(*(part.split(4) for part in self._grid), strict=True):
            z, c = z.to(self.device), c.to(self.device)
            rendered = self.average(z, c)
            for name, parts in made.items():
                parts.append(getattr(rendered, name).cpu())
        kimg, columns = self.progress.num_images // 1000, self.cfg.grid[0]
        pictures = {"": torch.cat(made["image"]), "_raw": torch.cat(made["image_raw"])}
        pictures["_depth"] = depth_to_rgb(torch.cat(made["image_depth"]))
        for suffix, images in pictures.items():
            save_grid(images, self.folder / f"fakes{kimg:06d}{suffix}.png", columns=columns)


@dataclass(frozen=True)
class SharedBatch:
    """How a batch is cut: rows of each process, images a forward pass, samples of an uncut minibatch-std group."""

    rows: list[list[int]]
    micro_batch: int
    group: int


def shared_batch(batch: int, micro_batch: int, *, num_ranks: int = 1, group: int = 1) -> SharedBatch:
    """Cut a batch over processes and forward passes so that every minibatch-std group stays whole.

    Forward passes of one image have no groups: the statistic is then a constant, as in the published fine-tuning.
    Raises ValueError in one line when it cannot be done.
    """
    if batch % num_ranks:
        raise ValueError(f"batch: {batch} does not divide over {num_ranks} processes; give a multiple of {num_ranks}")
    local, group = batch // num_ranks, min(group, batch)
    micro_batch = min(micro_batch or local, local)
    if local % micro_batch:
        raise ValueError(f"micro_batch: {micro_batch} does not divide the {local} images of a process; give a divisor")
    if micro_batch == 1 and batch > 1:
        group = 1
    if batch % group or micro_batch % group:
        what = f"batch: {batch}" if batch % group else f"micro_batch: {micro_batch}"
        raise ValueError(
            f"{what} images cut the discriminator's minibatch-std groups of {group}; give a multiple of {group}, "
            f"or discriminator.mbstd_group_size that divides it"
        )
    return SharedBatch(whole_groups(batch, num_ranks, group), micro_batch, group)


def _set_backends(cfg: TrainConfig) -> None:
    """Published: no TF32 and no fp16 sums; cuDNN may try its algorithms where the config lets it."""
    torch.backends.cudnn.benchmark = cfg.cudnn_benchmark
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


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
    augment = f"  augment {mean['Progress/augment']:.3f}" if "Progress/augment" in mean else ""
    losses = "  ".join(f"{k.removeprefix('Loss/')} {v:.3g}" for k, v in shown.items() if math.isfinite(v))
    return (
        f"tick {mean['Progress/tick']:.0f}  kimg {kimg:.1f}/{total_kimg:g}  sec/kimg {speed:.1f}  "
        f"mem {mean['Resources/cpu_mem_gb']:.2f} GB  eta {duration(remaining)}{augment}  {losses}"
    )
