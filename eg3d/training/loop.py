"""The training loop: batches, phases, weight average, ticks, snapshots, resume."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eg3d.checkpoints.manifest import resolve
from eg3d.data import Batch, ImageDataset, batches
from eg3d.run_folder import Inputs, RunFolder, has_record
from eg3d.stop_signals import HeldStops, Stopped
from eg3d.training.augmentation import adapt, augment_pipe, summed_signs
from eg3d.training.config import FREE, TrainConfig
from eg3d.training.counters import Counters
from eg3d.training.ema import update_average
from eg3d.training.nonfinite import require_finite
from eg3d.training.objective import AdversarialObjective
from eg3d.training.phases import Draw, Phase, draw_samples, optimizers_of
from eg3d.training.ranks import join_ranks
from eg3d.training.recipe import adversarial_phases
from eg3d.training.sample_pictures import SamplePictures
from eg3d.training.shares import shared_batch
from eg3d.training.skips import count_step
from eg3d.training.snapshots import TrainingRun, save_snapshot, snapshot_path
from eg3d.training.start import set_backends, starting_networks
from eg3d.training.state import STATE_NAME, Kept, load_training_state, save_training_state
from eg3d.training.stats import Collected, Stats, StatsWriter
from eg3d.training.status import report_status, status_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hooks:
    """What is called along a run, in the first process only; the others wait for it."""

    tick: Sequence[Callable[[Trainer], None]] = ()  # at every tick
    state: Sequence[Callable[[Trainer], None]] = ()  # whenever the state on disk is that of the run: written, or read
    snapshot: Sequence[Callable[[Trainer, Path], None]] = ()  # with the path of what was just written; metrics go here


class Trainer:
    """One training run, or one process's share of it.

    phases: which phases the run has, given the adversarial objective. A hook that sets `ended` to a reason ends the run
    there. `kept` is what the run keeps in its state besides. `inputs`, `code` and `free` are as RunFolder takes them.
    `given` are dotted names of settings that the user gave. `cfg` of the trainer has the configs of the networks as
    they are, whatever they were loaded from.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        *,
        phases: Callable[[AdversarialObjective], list[Phase]] = adversarial_phases,
        hooks: Hooks | None = None,
        kept: Mapping[str, Kept] | None = None,
        inputs: Inputs | None = None,
        code: Sequence[str] = (),
        free: Sequence[str] = FREE,
        given: Collection[str] = (),
    ) -> None:
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        self.folder = Path(cfg.out)
        self.ranks = join_ranks(cfg.device)
        self.device = self.ranks.device
        set_backends(cudnn_benchmark=cfg.cudnn_benchmark)
        self.dataset = ImageDataset(cfg.data, max_images=cfg.max_images, mirror=cfg.mirror, seed=cfg.seed)
        self.counters, self.stats = Counters(), Stats()
        networks = starting_networks(cfg, self.dataset, self.device, given=given)
        self.generator, self.discriminator, self.average = networks.generator, networks.discriminator, networks.average
        self.cfg = cfg = replace(cfg, generator=self.generator.cfg, discriminator=self.discriminator.cfg)
        self.augment = augment_pipe(cfg.augmentation, self.device)
        self.objective = AdversarialObjective(
            cfg, self.generator, self.discriminator, self.counters, self.stats, self.augment
        )
        self.phases = phases(self.objective)
        self.hooks = hooks or Hooks()
        self.kept, self.ended, self._is_over = kept or {}, "", False
        self.claimed: RunFolder | None = None  # while the run is at work, in the first process
        self.share = shared_batch(
            cfg.batch, cfg.micro_batch, num_ranks=self.ranks.size, group=self.discriminator.cfg.mbstd_group_size
        )
        if self.share.is_alone:
            log.info("one image a forward pass: the minibatch-std feature is constant and no cameras are swapped")
        self._pictures = SamplePictures(
            self.folder, self.dataset, cfg.grid, z_dim=self.generator.cfg.z_dim, seed=cfg.seed
        )
        self._inputs: Inputs = {"data": cfg.data, "start": resolve(cfg.start) if cfg.start else None, **(inputs or {})}
        self._code, self._free = code, free

    def run(self) -> TrainingRun:
        """Train to `total_kimg`, from the saved state where there is one.

        Raises ValueError when the folder holds another run, RuntimeError when another process is at work in it.
        """
        with self._claimed() as self.claimed:
            self._resume()
            self.ranks.wait()  # the first process writes only when all have read
            if self._is_over:
                log.info("%s: nothing is left to do, the run has ended: %s", self.folder, self.ended)
            else:
                with self._stats_writer() as writer, HeldStops() as stops:
                    self._train(writer, stops)
            if self.ranks.is_first and not self.snapshot_path().exists():  # a run that was shortened ends between two
                self._save_snapshot()
            self.ranks.leave()
        return TrainingRun(self.folder, self.snapshot_path(), self.counters.num_images, self.ended)

    def _train(self, writer: StatsWriter | None, stops: HeldStops) -> None:
        cfg, counters = self.cfg, self.counters
        if counters.tick == 0:
            self._tick(writer, seconds=0.0, images=0)
        rows = self.share.rows[self.ranks.rank]
        order: dict[str, Any] = {"seed": cfg.seed, "start": counters.num_images, "rows": rows}
        stream = batches(self.dataset, cfg.batch, workers=cfg.workers, **order)
        total, started, first = 1000 * cfg.total_kimg, time.monotonic(), counters.num_images
        while counters.num_images < total and not self._is_over:
            self.step(next(stream).to(self.device))
            is_last = counters.num_images >= total
            if counters.num_images - counters.tick_images >= 1000 * cfg.tick_kimg or is_last:
                now = time.monotonic()
                self._tick(writer, seconds=now - started, images=counters.num_images - first, is_last=is_last)
                started, first = now, counters.num_images
            if self.ranks.any(stops.is_asked):
                self._stop(stops)

    def _stop(self, stops: HeldStops) -> None:
        """Save where the run is, in the middle of a tick too, and raise `Stopped`."""
        self._check_finite()
        pending = self.stats.pending(self.ranks)
        signs = summed_signs(self.counters, self.ranks)
        if self.ranks.is_first and self.counters.num_images > self.counters.tick_images:
            self.counters.real_signs, self.counters.real_count = signs
            self._save_state(pending)
        self.ranks.leave()
        note = f"the state after {self.counters.num_images} images is saved; the same command goes on from there"
        raise Stopped(stops.number or signal.SIGTERM, note)  # another process may be the one that was asked

    def step(self, real: Batch) -> None:
        """One iteration: every phase that is due, then the weight average."""
        counters = self.counters
        for phase in self.phases:
            if phase.is_due(counters.iteration, counters.num_images):
                how: dict[str, Any] = {"micro_batch": self.share.micro_batch, "nonfinite": self.cfg.nonfinite}
                phase.step(self._draw(phase, real), num_images=counters.num_images, ranks=self.ranks, **how)
                for term, norm in phase.norms.items():
                    self.stats.report(f"GradNorm/{phase.name}/{term}", norm)
                count_step(phase, counters, self.cfg, is_first=self.ranks.is_first)
        update_average(self.average, self.generator, self.cfg, num_images=counters.num_images)
        self.average.neural_rendering_resolution = self.objective.neural_resolution
        counters.num_images += self.cfg.batch
        counters.iteration += 1
        if self.augment is not None:
            adapt(self.augment, self.cfg.augmentation, counters, self.ranks, batch=self.cfg.batch)

    def snapshot_path(self) -> Path:
        """Where the snapshot of this moment lies."""
        return snapshot_path(self.folder, self.counters.num_images)

    def _claimed(self) -> contextlib.AbstractContextManager[Any]:
        """The run folder, held by the first process."""
        if not self.ranks.is_first:
            return contextlib.nullcontext()
        if (self.folder / STATE_NAME).exists() and not has_record(self.folder):
            raise ValueError(f"out: {self.folder} has a {STATE_NAME}, but no record of its run; give another out")
        cfg, facts = self.cfg, {"one image a forward pass": self.share.is_alone}
        decides: dict[str, Any] = {"seed": cfg.seed, "inputs": self._inputs, "facts": facts, "code": self._code}
        return RunFolder.claim(cfg.out, cfg, free=self._free, resume=cfg.resume, **decides)

    def _resume(self) -> None:
        path = self.folder / STATE_NAME
        if not path.exists():
            return
        self.stats.restore(load_training_state(path, **self._state()), self.ranks)
        if not self.ranks.is_first:  # the saved sums are those of all processes; the first one keeps them
            self.counters.forget_signs()
        log.info("resuming at %d images from %s", self.counters.num_images, path)
        self._call_state_hooks()
        self._is_over = self.ranks.any(bool(self.ended))

    def _save_state(self, pending: dict[str, Tensor] | None = None) -> None:
        save_training_state(self.folder / STATE_NAME, **self._state(), pending=pending)
        self._call_state_hooks()

    def _call_state_hooks(self) -> None:
        for hook in self.hooks.state if self.ranks.is_first else ():
            hook(self)

    def _state(self) -> dict[str, Any]:
        """What state.safetensors holds."""
        networks, optimizers = self._saved_networks(), optimizers_of(self.phases)
        return {"networks": networks, "optimizers": optimizers, "counters": self.counters, "kept": self.kept}

    def _saved_networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"G": self.generator, "D": self.discriminator, "G_ema": self.average}
        return networks if self.augment is None else networks | {"augment_pipe": self.augment}

    def _stats_writer(self) -> contextlib.AbstractContextManager[StatsWriter | None]:
        """Only the first process writes."""
        if not self.ranks.is_first:
            return contextlib.nullcontext()
        num_images = self.counters.num_images if self.counters.tick > 0 else -1
        return contextlib.closing(StatsWriter(self.folder, num_images=num_images))

    def _draw(self, phase: Phase, real: Batch) -> Draw:
        """This process's share of what a phase works on at this iteration."""
        key = (self.cfg.seed, self.counters.iteration, zlib.crc32(phase.name.encode()))
        sizes: dict[str, Any] = {"z_dim": self.generator.cfg.z_dim, "batch": self.cfg.batch, "group": self.share.group}
        rows = self.share.rows[self.ranks.rank]
        return draw_samples(self.dataset.labels, real, key=key, device=self.device, rows=rows, **sizes)

    def _tick(self, writer: StatsWriter | None, *, seconds: float, images: int, is_last: bool = False) -> None:
        """Statistics, pictures, snapshot and state; only the first process has a writer, and writes."""
        self._check_finite()
        counters, collected = self.counters, self.stats.collect(self.ranks)
        signs = summed_signs(counters, self.ranks)
        counters.forget_signs()
        if writer is not None:
            self._write_statistics(writer, collected, seconds=seconds, images=images)
            if counters.tick == 0:
                self._pictures.save_reals()
            if is_last or counters.tick % self.cfg.snapshot_ticks == 0:
                self._save_snapshot()
        counters.tick += 1
        counters.tick_images = counters.num_images
        if writer is not None:
            counters.real_signs, counters.real_count = signs
            self._save_state()
        self._is_over = self.ranks.any(bool(self.ended))
        self.ranks.wait()

    def _check_finite(self) -> None:
        """Raise RuntimeError, before anything is written over, when the state is not finite."""
        where = f"{self.folder}: after {self.counters.num_images} images"
        require_finite(self._saved_networks(), optimizers_of(self.phases), where=where)

    def _save_snapshot(self) -> None:
        """Networks and pictures of this moment."""
        path = self.snapshot_path()
        self._pictures.save_fakes(self.average, self.counters.num_images)
        self.save_networks(path)
        for hook in self.hooks.snapshot:
            hook(self, path)

    def save_networks(self, path: Path, facts: Mapping[str, Any] | None = None) -> None:
        """The networks of this moment as any command loads them; `facts` as save_snapshot takes them."""
        how: dict[str, Any] = {"num_images": self.counters.num_images, "facts": facts}
        save_snapshot(path, self._saved_networks(), neural_resolution=self.objective.neural_resolution, **how)

    def _write_statistics(self, writer: StatsWriter, collected: Collected, *, seconds: float, images: int) -> None:
        report_status(self.stats, self.counters, seconds=seconds, images=images, device=self.device)
        if self.augment is not None:
            self.stats.report("Progress/augment", self.augment.p)
        for hook in self.hooks.tick:
            hook(self)
        collected |= self.stats.collect()
        writer.write(collected, num_images=self.counters.num_images)
        log.info("%s", status_line(collected, self.cfg.total_kimg, nonfinite=self.cfg.nonfinite))


def train(cfg: TrainConfig, *, given: Collection[str] = ()) -> TrainingRun:
    """Train a generator from a data set, or continue the run in `cfg.out`; `given` as Trainer takes it."""
    return Trainer(cfg, given=given).run()
