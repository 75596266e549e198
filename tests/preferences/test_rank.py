"""The rank entry point, from a small generator to its tables."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import Run

from eg3d.checkpoints.store import load_generator, save_networks
from eg3d.file_hash import sha256_of
from eg3d.generators.eg3d import GeneratorConfig, TriPlaneGenerator
from eg3d.rendering.renderer import RenderingConfig
from eg3d.representations.sigma_field import SigmaField
from eg3d.samples import sample_seeds
from reward_model_training import rank
from reward_model_training.data.dataset import DataConfig, make_splits
from reward_model_training.preferences.anchors import AnchorConfig
from reward_model_training.preferences.annotators.likeness import LikenessConfig
from reward_model_training.preferences.annotators.rules import RulesAnnotator, RulesConfig
from reward_model_training.preferences.rankings import GENERATOR_DIGITS, read_rankings, write_rankings
from reward_model_training.preferences.simulated_rankings import (
    RankConfig,
    annotate_seeds,
    origin,
    rank_batches,
    rankings_of,
    read_scores,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up generator whose field crosses level 10 here and there."""
    cfg = GeneratorConfig(
        z_dim=8, w_dim=8, plane_resolution=8, plane_channels=4, channel_base=64, channel_max=8, decoder_hidden=8,
        feature_channels=4, img_resolution=16, neural_rendering_resolution=8, superresolution="none",
        rendering=RenderingConfig(depth_resolution=4, depth_resolution_importance=4),
    )  # fmt: skip
    torch.manual_seed(0)
    G = TriPlaneGenerator(cfg)
    with torch.no_grad():
        G.decoder.net[2].weight *= 40
        G.decoder.net[2].bias += 8
    path = tmp_path_factory.mktemp("generator") / "tiny.safetensors"
    save_networks(path, {"G_ema": G}, configs={"G_ema": cfg})
    return path


def _config(generator: Path, out: Path, **changes: object) -> RankConfig:
    slab = SigmaField(resolution=20, grid="exact")
    settings = {"slab": slab, "annotator": RulesConfig(), **changes}
    return RankConfig(generator=str(generator), count=6, batch_size=3, out=str(out / "r.csv"), **settings)


def test_scores_resume_and_do_not_depend_on_the_stop(generator: Path, tmp_path: Path) -> None:
    whole = annotate_seeds(_config(generator, tmp_path / "a"))
    assert list(whole) == list(range(20000, 20006))
    annotate_seeds(_config(generator, tmp_path / "b"))
    table = tmp_path / "b" / "scores.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:3]) + lines[3][:9])  # stopped in the middle of a row
    calls: list[int] = []
    assert annotate_seeds(_config(generator, tmp_path / "b"), advance=lambda count=1: calls.append(count)) == whole
    assert calls == [2, 1, 1, 1, 1], "the two whole rows are taken from disk"
    assert read_scores(table) == whole


def test_scores_of_other_settings_are_not_mixed(generator: Path, tmp_path: Path) -> None:
    annotate_seeds(_config(generator, tmp_path))
    with pytest.raises(ValueError, match=r"annotator\.smoothing: the run has 0\.\d+, now 0\.08; give what the run has"):
        annotate_seeds(_config(generator, tmp_path, annotator=RulesConfig(smoothing=0.08)))
    noisy = RulesConfig(temperature=1.0)  # the noise of the order is no setting of the scores
    annotate_seeds(_config(generator, tmp_path, annotator=noisy))


def test_scores_of_another_annotator_are_not_mixed(generator: Path, tmp_path: Path) -> None:
    annotate_seeds(_config(generator, tmp_path))
    assert "roughness" in (tmp_path / "scores.csv").read_text()
    with pytest.raises(ValueError, match=r'annotator.name: the run has "rules", now "likeness"'):
        annotate_seeds(_config(generator, tmp_path, annotator=LikenessConfig()))
    annotate_seeds(_config(generator, tmp_path / "b", annotator=LikenessConfig()))
    assert "implausibility" in (tmp_path / "b" / "scores.csv").read_text()


def test_batches_are_ordered_by_score_and_labelled_as_simulated() -> None:
    scores = {seed: float(seed % 4) for seed in range(10, 18)}
    rankings = rank_batches(scores, RulesAnnotator(), batch_size=4, psi=0.7)
    assert [r.seeds for r in rankings] == [(11, 10, 13, 12), (15, 14, 17, 16)]
    assert {(r.annotator, r.psi) for r in rankings} == {("simulated", 0.7)}
    noisy = RulesAnnotator(RulesConfig(temperature=2.0))
    assert rank_batches(scores, noisy, batch_size=4, psi=1.0) == rank_batches(scores, noisy, batch_size=4, psi=1.0)


def test_the_command(generator: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "reward_model_training.rank", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    out = tmp_path / "deep" / "rankings.csv"
    good = run(f"generator={generator}", f"out={out}", "count=6", "batch_size=3", "workers=2", "slab.resolution=20",
               "slab.grid=exact")  # fmt: skip
    assert good.returncode == 0, good.stderr
    assert "simulated" in good.stdout
    rankings, scores = read_rankings(out), read_scores(out.parent / "scores.csv")
    assert [len(r.seeds) for r in rankings] == [3, 3]
    for ranking in rankings:
        assert sorted(ranking.seeds, key=lambda seed: -scores[seed].score) == list(ranking.seeds)
    record = json.loads((out.parent / "run.json").read_text())
    assert record["inputs"]["generator"] == {"name": generator.name, "sha256": sha256_of(generator)}
    assert (out.parent / "config.yaml").is_file()

    bad = run(f"generator={generator}", "batch_size=9", "slab.grid=foo")
    assert bad.returncode == 2 and len(bad.stderr.strip().splitlines()) == 1
    assert "batch_size" in bad.stderr and "exact, skewed" in bad.stderr


def test_both_ends_are_mixed_by_seed_alone(generator: Path, tmp_path: Path) -> None:
    """Strengths from the range and both generators occur; what a seed is does not depend on how many are ranked."""
    cfg = _config(generator, tmp_path, psi_range=(0.0, 1.3), snapshots=[str(generator)])
    at = [origin(cfg, seed) for seed in range(300)]
    assert min(each.psi for each in at) == 0 and max(each.psi for each in at) == 1.3
    assert len({each.psi for each in at}) == 27 and {each.generator for each in at} == {0, 1}
    assert {each.generator for each in (origin(_config(generator, tmp_path), s) for s in range(9))} == {0}
    assert origin(_config(generator, tmp_path), 7).psi == 1.0


def test_a_mixed_table_is_ranked_trained_on_and_refused_without_its_generators(generator: Path, tmp_path: Path) -> None:
    other = tmp_path / "early.safetensors"
    G = load_generator(generator)
    with torch.no_grad():
        G.decoder.net[2].bias[0] += 3
    save_networks(other, {"G_ema": G}, configs={"G_ema": G.cfg})
    words = {"psi_range": (0.3, 1.2), "snapshots": [str(other)]}
    cfg = dataclasses.replace(_config(generator, tmp_path / "rank", **words), count=24)
    rankings = rankings_of(cfg, annotate_seeds(cfg))
    assert {ranking.psi for ranking in rankings} == {1.0} and all(ranking.is_mixed for ranking in rankings)
    digits = sha256_of(other)[:GENERATOR_DIGITS]
    assert {name for ranking in rankings for _, name in ranking.origins()} == {"", digits}
    write_rankings(cfg.out, rankings)
    assert read_rankings(cfg.out) == rankings
    moved = other.rename(tmp_path / "moved.safetensors")  # known by contents
    annotate_seeds(dataclasses.replace(cfg, snapshots=[str(moved)]))
    with pytest.raises(ValueError, match=r"snapshots\.0: the run has early\.safetensors .*, now tiny\.safetensors"):
        annotate_seeds(dataclasses.replace(cfg, snapshots=[str(generator)]))
    data = DataConfig(rankings=str(cfg.out), generator=str(generator), snapshots=[str(moved)], storage="disk")
    data = dataclasses.replace(data, store_dir=str(tmp_path / "store"), anchors=AnchorConfig(num_train=1, num_val=1))
    splits = make_splits(rankings, data, seed=1)
    store = data.open_store(cfg.slab, cfg.sample, device=torch.device("cpu"))
    keys = [key for rows in splits.rows.values() for row in rows for key in row.items]
    assert store.fill(keys) == 24 and store.fill(keys) == 0
    by_hand = {"": G_of(generator), digits: G_of(moved)}
    for key in keys[:6]:
        sample = dataclasses.replace(cfg.sample, psi=key.psi)
        expected = cfg.slab.extract(by_hand[key.generator], sample_seeds(by_hand[key.generator], [key.seed], sample))[0]
        torch.testing.assert_close(store.get(key), expected.half(), rtol=0, atol=0)
    of_snapshot = dataclasses.replace(data, anchors=AnchorConfig(num_train=1, num_val=1, snapshot=0))
    assert make_splits(rankings, data, seed=1).anchor(7).generator == ""
    assert make_splits(rankings, of_snapshot, seed=1).anchor(7) == (7, 0.25, digits)
    assert [f for f in dataclasses.replace(of_snapshot, snapshots=[]).validate() if "none of the 0 snapshots" in f]
    lacking = dataclasses.replace(data, snapshots=[]).open_store(cfg.slab, cfg.sample, device=torch.device("cpu"))
    with pytest.raises(ValueError, match=rf"data\.snapshots: the rankings have samples of a .*{digits}") as error:
        lacking.fill(keys)
    assert "\n" not in str(error.value)


@torch.no_grad()
def G_of(path: Path):
    """The generator of a file."""
    return load_generator(path).requires_grad_(False)


@pytest.mark.parametrize("psi_range", [(1.0, 0.5), (0.0, 3.0), (-1.0, 1.0)])
def test_a_range_of_strengths_rises(generator: Path, tmp_path: Path, psi_range: tuple[float, float]) -> None:
    assert "psi_range: expected two rising" in "; ".join(_config(generator, tmp_path, psi_range=psi_range).validate())


def test_the_command_mixes(generator: Path, run: Run, tmp_path: Path) -> None:
    words = ["count=6", "batch_size=3", "slab.resolution=20", "slab.grid=exact", f"out={tmp_path}/r.csv"]
    done = run(rank, f"generator={generator}", f"snapshots=[{generator}]", "psi_range=[0,1.3]", *words)
    assert done.code == 0, done.err
    assert any(ranking.is_mixed for ranking in read_rankings(tmp_path / "r.csv"))
    done = run(rank, f"generator={generator}", "psi_range=[1.3,0]", *words)
    assert done.code == 2 and "psi_range: expected two rising numbers" in done.the_error()
