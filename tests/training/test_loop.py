"""What a run does and leaves: average, pictures, snapshots, statistics."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from run_records import lines_of

from eg3d.checkpoints.store import load_discriminator, load_generator, read_metadata
from eg3d.data import batches
from eg3d.pictures import depth_to_rgb, tile, to_uint8
from eg3d.progress import duration
from eg3d.training.config import TrainConfig
from eg3d.training.loop import Hooks, Trainer, train
from eg3d.training.nonfinite import MODES
from eg3d.training.stats import Stats, finite
from eg3d.training.status import status_line

Make = Callable[..., TrainConfig]


def test_a_run_leaves_everything_beside_it(train_config: Make) -> None:
    run = train(train_config())
    names = {path.name for path in run.folder.iterdir()}
    counts = ("000000000", "000000036")
    pictures = {f"fakes{count}{kind}.png" for count in counts for kind in ("", "_raw", "_depth")} | {"reals.png"}
    snapshots = {f"network-snapshot-{count}.safetensors" for count in counts}
    wanted = {"config.yaml", "run.json", "run.lock", "stats.jsonl", "state.safetensors", *pictures, *snapshots}
    assert wanted == {name for name in names if not name.startswith("events.out.tfevents")}
    assert run.snapshot.name == max(snapshots)
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if name.startswith(".")]  # no temporary files
    assert json.loads((run.folder / "run.json").read_text())["seed"] == 0
    assert PIL.Image.open(run.folder / "fakes000000036.png").size == (2 * 16, 16)
    assert run.num_images == 36


def test_short_runs_keep_every_snapshot_and_picture(train_config: Make) -> None:
    """Named by images: by thousands of them, those of a run below 1,000 images would overwrite each other."""
    folder = train(train_config(total_kimg=0.008, tick_kimg=0.004, snapshot_ticks=1)).folder
    counts = ["000000000", "000000004", "000000008"]
    assert sorted(p.name for p in folder.glob("network-*")) == [f"network-snapshot-{n}.safetensors" for n in counts]
    assert sorted(p.name for p in folder.glob("fakes*[0-9].png")) == [f"fakes{n}.png" for n in counts]


def test_steps_of_tensorboard_are_images(train_config: Make) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(train_config(total_kimg=0.024))
    events = EventAccumulator(str(train(train_config()).folder)).Reload()
    assert [event.step for event in events.Scalars("Progress/tick")] == [0, 12, 24, 36]
    assert [event.value for event in events.Scalars("Progress/tick")] == [0, 1, 2, 3]


def test_a_full_disk_ends_a_run_in_one_line(train_config: Make, small_disk: Path) -> None:
    cfg = train_config(out=str(small_disk / "run"), total_kimg=0.004)
    (small_disk / "other").write_bytes(bytes(900_000))
    with pytest.raises(OSError, match=rf"{cfg.out}/.*: not written, the disk is full; make room there") as error:
        train(cfg)
    assert "\n" not in str(error.value)
    assert not [path for path in Path(cfg.out).iterdir() if path.name.startswith(".")]
    (small_disk / "other").unlink()
    assert train(cfg).num_images == 4


def test_statistics_of_a_run(train_config: Make) -> None:
    lines = lines_of(train(train_config()).folder)
    assert [line["Progress/tick"]["mean"] for line in lines] == [0, 1, 2, 3]
    losses = ("Loss/scores/fake", "Loss/signs/real", "Loss/G/loss", "Loss/D/real", "Loss/G/density_reg")
    norms = [f"GradNorm/{term}" for term in ("Gmain/adversarial", "Greg/density_reg", "Dmain/fake", "Dreg/r1")]
    for name in (*losses, *norms):
        assert math.isfinite(lines[1][name]["mean"]), name
    assert lines[1]["Loss/G/loss"]["num"] == 3


def test_snapshots_load_as_the_networks_of_the_run(train_config: Make) -> None:
    trainer = Trainer(train_config(total_kimg=0.008))
    run = trainer.run()
    for net, network in (("G", trainer.generator), ("G_ema", trainer.average)):
        loaded = load_generator(run.snapshot, net=net).state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in network.state_dict().items())
    assert load_discriminator(run.snapshot).cfg == trainer.discriminator.cfg
    assert read_metadata(run.snapshot)["extra"]["num_images"] == 8


def test_snapshots_carry_the_neural_resolution_they_were_trained_to(train_config: Make) -> None:
    run = train(train_config(neural_resolution_final=4, neural_resolution_fade_kimg=0.02, total_kimg=0.024))
    assert load_generator(run.snapshot).neural_rendering_resolution == 4


def test_snapshot_hooks_see_every_snapshot_on_disk(train_config: Make) -> None:
    """Where metrics go."""
    seen: list[tuple[int, Path, object]] = []
    look = lambda of, path: seen.append((of.counters.num_images, path, load_generator(path)))  # noqa: E731
    run = Trainer(train_config(snapshot_ticks=2), hooks=Hooks(snapshot=[look])).run()
    assert [num_images for num_images, _, _ in seen] == [0, 24, 36]
    assert seen[-1][1] == run.snapshot


def test_a_start_takes_networks_and_average(train_config: Make, toy_networks: Path) -> None:
    trainer = Trainer(train_config(start=str(toy_networks)))
    wanted = load_generator(toy_networks, net="G").state_dict()
    for network in (trainer.generator, trainer.average):
        assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())


def test_same_seed_same_run_and_another_seed_another(train_config: Make, tmp_path: Path) -> None:
    def lines(name: str, seed: int) -> list[dict[str, object]]:
        return lines_of(train(train_config(out=str(tmp_path / name), total_kimg=0.008, seed=seed)).folder)

    first, second, other = lines("a", 3), lines("b", 3), lines("c", 4)
    assert first == second
    assert first != other


def test_the_first_average_is_the_network_and_later_ones_trail(train_config: Make) -> None:
    trainer = Trainer(train_config())
    stream = batches(trainer.dataset, 4, seed=0, workers=1)
    trainer.step(next(stream))
    pairs = list(zip(trainer.average.parameters(), trainer.generator.parameters(), strict=True))
    assert all(torch.equal(mean, value) for mean, value in pairs)
    before = [mean.clone() for mean, _ in pairs]
    trainer.counters.num_images = 10_000  # half-life 500 images: the average moves by 1 - 0.5^(4/500) of the way
    trainer.cfg.ema_kimg = 1000
    trainer.step(next(stream))
    share = 1 - 0.5 ** (4 / 500)
    for old, (mean, value) in zip(before, pairs, strict=True):
        assert torch.allclose(mean, old + share * (value - old), atol=1e-6)
    for mean, value in zip(trainer.average.buffers(), trainer.generator.buffers(), strict=True):
        assert torch.equal(mean, value)


def test_lazy_phases_run_at_the_first_iteration_and_by_their_interval(train_config: Make) -> None:
    trainer = Trainer(train_config())
    stream, seen = batches(trainer.dataset, 4, seed=0, workers=1), []
    for _ in range(4):
        trainer.step(next(stream))
        seen.append({name.split("/")[1] for name in trainer.stats.collect() if name.startswith("GradNorm/")})
    main = {"Gmain", "Dmain"}
    assert seen == [main | {"Greg", "Dreg"}, main, main | {"Greg"}, main | {"Dreg"}]


def test_pictures_are_as_eg3d_writes_them() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255]
    images = torch.stack([torch.full((3, 2, 2), value) for value in (-1.0, 0.0, 1.0)])
    picture = tile(images, columns=2)
    assert picture.shape == (4, 4, 3)
    assert picture[::2, ::2, 0].tolist() == [[0, 128], [255, 0]]


def test_near_is_bright_in_depth_pictures() -> None:
    depth = torch.tensor([[2.0, 3.0], [2.5, 2.0]])[None, None]
    assert depth_to_rgb(depth)[0, 0].tolist() == [[1, -1], [0, 1]]
    assert np.isfinite(depth_to_rgb(torch.ones(1, 1, 2, 2)).numpy()).all()


def test_stats_are_mean_and_deviation_since_the_last_tick() -> None:
    stats = Stats()
    for value in (1.0, torch.tensor(3.0)):
        stats.report("a", value)
    assert stats.collect() == {"a": {"num": 2, "mean": 2.0, "std": 1.0}}
    assert stats.collect() == {}
    assert [finite(value) for value in (1.5, math.nan, math.inf, -math.inf)] == [1.5, None, None, None]


def test_status_line_tells_where_how_fast_and_how_long() -> None:
    means = {"Progress/kimg": 2.0, "Timing/sec_per_kimg": 36.5, "Progress/tick": 1, "Resources/cpu_mem_gb": 0.5}
    collected = {name: {"mean": value} for name, value in (means | {"Loss/G/loss": 0.6931}).items()}
    start = "tick 1  kimg 2.0/102  sec/kimg 36.5  mem 0.50 GB  eta 1h 00m  "
    assert status_line(collected, 102.0) == start + "G/loss 0.693"
    collected |= {"Loss/x": {"mean": math.nan, "nonfinite": 2}, "Progress/skipped": {"mean": 3}}
    ends = {mode: status_line(collected, 102.0, nonfinite=mode).removeprefix(start) for mode in MODES}
    assert ends["skip"] == "skipped 3  G/loss 0.693  x nan (2 not finite)"
    assert ends["published"] == "cleaned 3  G/loss 0.693  x nan (2 not finite)"


@pytest.mark.parametrize(("seconds", "text"), [(6.4, "6s"), (245, "4m 05s"), (7380, "2h 03m"), (93600, "1d 02h")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
