"""Cutting a batch into micro-batches and over processes changes nothing but the order of sums."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_records import assert_same_run, lines_of, start, state_of
from tiny import flat_overrides, toy_draw
from torch import Tensor

from eg3d.data import batches
from eg3d.networks.augment import pipe_config
from eg3d.random_streams import SampleStreams, normal, uniform
from eg3d.training.config import AdversarialLossConfig, AugmentationConfig, TrainConfig, WarmStartConfig
from eg3d.training.loop import Trainer, train
from eg3d.training.phases import draw_samples
from eg3d.training.shares import shared_batch, whole_groups

Make = Callable[..., TrainConfig]


@pytest.mark.parametrize(
    ("num", "parts", "group"), [(8, 2, 4), (8, 2, 2), (16, 4, 4), (12, 3, 2), (6, 3, 1), (4, 1, 4)]
)
def test_parts_are_made_of_whole_groups(num: int, parts: int, group: int) -> None:
    """The discriminator's groups of the whole batch, found again inside the parts, members in the same order."""

    def groups(rows: list[int]) -> set[tuple[int, ...]]:
        columns = len(rows) // group
        return {tuple(rows[column::columns]) for column in range(columns)}

    found = whole_groups(num, parts, group)
    assert sorted(row for part in found for row in part) == list(range(num))
    assert set().union(*map(groups, found)) == groups(list(range(num)))


def test_a_part_can_be_cut_again() -> None:
    half = whole_groups(16, 2, 4)[1]
    quarters = [[half[row] for row in rows] for rows in whole_groups(8, 2, 4)]
    assert quarters == whole_groups(16, 4, 4)[2:]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((9, 0, 2, 1), "batch: 9 does not divide over 2 processes"),
        ((8, 3, 1, 1), "micro_batch: 3 does not divide the 8 images of a process"),
        ((8, 2, 1, 4), "micro_batch: 2 images cut the discriminator's minibatch-std groups of 4; give a multiple of 4"),
        ((8, 0, 4, 4), "micro_batch: 2 images cut the discriminator's minibatch-std groups of 4"),
        ((6, 0, 1, 4), "batch: 6 images cut the discriminator's minibatch-std groups of 4"),
    ],
)
def test_cuts_that_are_refused(sizes: tuple[int, int, int, int], message: str) -> None:
    batch, micro_batch, num_ranks, group = sizes
    with pytest.raises(ValueError, match=message):
        shared_batch(batch, micro_batch, num_ranks=num_ranks, group=group)


def test_cuts_that_are_allowed() -> None:
    assert shared_batch(8, 0, num_ranks=2, group=4).micro_batch == 4
    assert shared_batch(8, 100, group=4).micro_batch == 8
    assert shared_batch(2, 0, group=4).group == 2
    single = shared_batch(16, 1, group=4)  # the published fine-tuning: every image alone
    assert (single.micro_batch, single.group) == (1, 1)


def test_streams_fill_rows_one_by_one() -> None:
    streams = SampleStreams.seeded([3, 4, 5])
    first, second = normal((3, 2, 2), streams), uniform((3, 4), streams)
    again = SampleStreams.seeded([3, 4, 5]).rows([2, 0])
    assert torch.equal(normal((2, 2, 2), again), first[[2, 0]])
    assert torch.equal(uniform((2, 4), again), second[[2, 0]])
    with pytest.raises(ValueError, match="3 streams cannot fill 2 rows"):
        normal((2, 1), streams)


def test_a_process_draws_its_share_of_the_same_batch(train_config: Make) -> None:
    trainer = Trainer(train_config(batch=8))
    whole = toy_draw(trainer)
    for rows in whole_groups(8, 2, 2):
        real = next(batches(trainer.dataset, 8, seed=0, workers=1, rows=rows))
        part = draw_samples(trainer.dataset.labels, real, z_dim=8, batch=8, key=(5,), rows=rows, group=2)
        for name in ("z", "c", "other", "coin"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rows]), name
        for name in ("image", "label", "other"):
            assert torch.equal(getattr(part.real, name), getattr(whole.real, name)[rows]), name
        assert torch.equal(part.c_std, whole.c_std)
        assert torch.equal(part.real.label_std, whole.real.label_std)  # type: ignore[arg-type]


def test_samples_alone_have_nobody_to_swap_cameras_with() -> None:
    """As in the published fine-tuning, whose micro-batches of one roll onto themselves."""
    from test_phases import _draw

    draw = _draw(6)
    assert all(torch.equal(part.other, part.c) for part in draw.split(1))
    assert not any(torch.equal(part.other, part.c) for part in draw.split(2))


def _everything(base: TrainConfig) -> dict[str, object]:
    """A config in which every source of randomness and every coupling between samples is at work."""
    return {
        "batch": 8,
        "discriminator": dataclasses.replace(base.discriminator, disc_c_noise=0.5),
        "loss": AdversarialLossConfig(
            r1_interval=3, density_reg_interval=2, density_reg_points=20, blur_init_sigma=1.0, style_mixing_prob=0.5,
            swap_fade_kimg=0,
        ),
        "augmentation": AugmentationConfig(mode="fixed", p=0.3, pipe=pipe_config("bgcfnc")),
    }  # fmt: skip


def _gradients(trainer: Trainer, index: int, micro_batch: int) -> list[Tensor]:
    """What one step of a phase hands to its optimiser."""
    phase, seen = trainer.phases[index], []
    phase.optimizer = torch.optim.SGD(phase.network.parameters(), lr=0.0)
    parameters = list(phase.network.parameters())
    hook = lambda *_: seen.extend(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters)  # noqa: E731
    phase.optimizer.register_step_pre_hook(hook)
    phase.step(toy_draw(trainer), micro_batch=micro_batch, num_images=0)
    return seen


def _difference(whole: list[Tensor], parts: list[Tensor]) -> float:
    """Largest difference, in shares of the largest gradient."""
    worst = max(float((a - b).abs().max()) for a, b in zip(whole, parts, strict=True))
    return worst / max(float(g.abs().max()) for g in whole)


def test_accumulated_gradients_are_those_of_the_batch(train_config: Make) -> None:
    """For G and D, with minibatch-std, swapped cameras, label noise, style mixing and augmentation all on."""
    trainer = Trainer(train_config(**_everything(train_config())))
    mean = trainer.generator.get_buffer("backbone.mapping.w_avg")
    for index, phase in enumerate(trainer.phases[:4]):
        before = mean.clone()
        whole = _gradients(trainer, index, 8)
        moved = mean.clone()
        assert torch.equal(moved, before) is (phase.name != "Dmain")
        for micro_batch in (4, 2):
            mean.copy_(before)
            # float32 sums in another order; where rounding turns a leaky ReLU over, a gradient jumps a little
            assert _difference(whole, _gradients(trainer, index, micro_batch)) < 2e-3, (phase.name, micro_batch)
            assert torch.allclose(mean, moved, atol=1e-7)


def test_cut_groups_would_show(train_config: Make) -> None:
    """The check above can fail: contiguous halves of the batch hold other minibatch-std groups."""
    trainer = Trainer(train_config(**_everything(train_config())))
    whole = _gradients(trainer, 2, 8)
    trainer.share = dataclasses.replace(trainer.share, group=1)
    assert _difference(whole, _gradients(trainer, 2, 4)) > 1e-2


def test_reconstruction_does_not_depend_on_the_cut(train_config: Make) -> None:
    trainer = Trainer(train_config(batch=8, warm_start=WarmStartConfig(reconstruction_kimg=1.0)))
    whole = float(trainer.phases[0].terms[0].loss(toy_draw(trainer)))
    parts = [float(trainer.phases[0].terms[0].loss(part)) for part in toy_draw(trainer).split(2)]
    assert sum(parts) / 4 == pytest.approx(whole, rel=1e-6)


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "eg3d.train"]


def _run_twice(cfg: TrainConfig) -> None:
    process = start(TORCHRUN, flat_overrides(cfg))
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert output.count("snapshot: ") == 1, output


@pytest.mark.slow
def test_only_the_first_process_claims_the_folder_and_speaks_for_all(train_config: Make) -> None:
    cfg = train_config(batch=8, total_kimg=0.008)
    _run_twice(cfg)
    assert len(json.loads((Path(cfg.out) / "run.json").read_text())["sessions"]) == 1
    process = start(TORCHRUN, flat_overrides(dataclasses.replace(cfg, seed=1)))
    output, _ = process.communicate(timeout=600)
    assert process.returncode != 0
    assert output.count("error: out: ") == 1, output
    assert "seed: the run has 0, now 1" in output


@pytest.mark.parametrize("end", ["one", pytest.param("two", marks=pytest.mark.slow)])
def test_two_processes_give_the_result_of_one(train_config: Make, tmp_path: Path, end: str) -> None:
    """Half of a run by two CPU processes under torchrun, the rest by one or by two, against one from start to end."""
    settings = _everything(train_config()) | {"total_kimg": 0.032, "tick_kimg": 0.016}
    settings["augmentation"] = AugmentationConfig(mode="ada", target=-1.0, interval=3, kimg=0.1)
    alone = train(train_config(out=str(tmp_path / "one"), micro_batch=4, **settings)).folder
    cfg = train_config(out=str(tmp_path / "two"), **settings)
    _run_twice(dataclasses.replace(cfg, total_kimg=0.016))
    if end == "one":
        train(dataclasses.replace(cfg, micro_batch=4))
    else:
        _run_twice(cfg)
    (tensors, metadata), (wanted, wanted_metadata) = state_of(Path(cfg.out)), state_of(alone)
    assert metadata["counters"] == wanted_metadata["counters"]
    assert tensors.keys() == wanted.keys()
    for name, value in wanted.items():
        # Two summands have one order: only the mean style code, a sum over samples, is rounded in another one.
        assert torch.allclose(tensors[name], value, rtol=1e-5, atol=1e-8), name
    for line, wanted_line in zip(lines_of(Path(cfg.out)), lines_of(alone), strict=True):
        assert line.keys() == wanted_line.keys()
        for name in wanted_line.keys() - {"num_images"}:
            assert line[name]["mean"] == pytest.approx(wanted_line[name]["mean"], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(train_config: Make, tmp_path: Path) -> None:
    """torchrun hands SIGTERM on; the run is then as if it had not been stopped, statistics of the tick included."""
    settings = {"batch": 8, "total_kimg": 0.4, "tick_kimg": 0.2}
    cfg = train_config(out=str(tmp_path / "stopped"), **settings)
    process = start(TORCHRUN, flat_overrides(cfg))
    state = Path(cfg.out) / "state.safetensors"
    for _ in range(3000):
        if state.exists() or process.poll() is not None:
            break
        time.sleep(0.02)
    time.sleep(1.0)  # some steps of the first tick
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    shown = json.loads(state_of(Path(cfg.out))[1]["counters"])["num_images"]
    assert 0 < shown < 400 and shown % 200, output
    assert f"stopped by SIGTERM: the state after {shown} images is saved" in output
    _run_twice(cfg)
    whole = train_config(out=str(tmp_path / "whole"), **settings)
    _run_twice(whole)
    assert_same_run(Path(cfg.out), Path(whole.out))
