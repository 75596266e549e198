"""The rank entry point, from a small generator to its tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eg3d.checkpoints.store import save_networks
from eg3d.file_hash import sha256_of
from eg3d.generators.eg3d import GeneratorConfig, TriPlaneGenerator
from eg3d.rendering.renderer import RenderingConfig
from eg3d.representations.sigma_field import SigmaField
from reward_model_training.preferences.rankings import read_rankings
from reward_model_training.preferences.simulated_annotator import AnnotatorConfig, SimulatedAnnotator
from reward_model_training.preferences.simulated_rankings import RankConfig, annotate_seeds, rank_batches, read_scores

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
    return RankConfig(generator=str(generator), count=6, batch_size=3, out=str(out / "r.csv"), slab=slab, **changes)


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
        annotate_seeds(_config(generator, tmp_path, annotator=AnnotatorConfig(smoothing=0.08)))
    noisy = AnnotatorConfig(temperature=1.0)  # the noise of the order is no setting of the scores
    annotate_seeds(_config(generator, tmp_path, annotator=noisy))


def test_batches_are_ordered_by_score_and_labelled_as_simulated() -> None:
    scores = {seed: float(seed % 4) for seed in range(10, 18)}
    rankings = rank_batches(scores, SimulatedAnnotator(), batch_size=4, psi=0.7)
    assert [r.seeds for r in rankings] == [(11, 10, 13, 12), (15, 14, 17, 16)]
    assert {(r.annotator, r.psi) for r in rankings} == {("simulated", 0.7)}
    noisy = SimulatedAnnotator(AnnotatorConfig(temperature=2.0))
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
