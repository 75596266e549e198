"""Training from rankings to a bundle, exact resume, and the three commands as a user runs them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from eg3d.hydra_command import compose_config
from reward_model_training.bundle import load_reward
from reward_model_training.data.dataset import RankedBatch
from reward_model_training.evaluate import table_text
from reward_model_training.lightning_state import RunState, read_state
from reward_model_training.losses import LossConfig, ranked_pairs
from reward_model_training.models import build_model
from reward_model_training.module import RewardModule
from reward_model_training.optimiser import OptimiserConfig
from reward_model_training.train import RewardTrainConfig, train

ROOT = Path(__file__).resolve().parents[2]
STEPS_AN_EPOCH = 4  # 14 training rows in batches of 4


class Killed(BaseException):
    """Stands for SIGKILL: nothing may run after it."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "reward.safetensors")


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_state(folder / "last.ckpt")["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def unbroken():
    """Filled by the first test that needs it: the result of a run without a stop."""
    return {}


def unbroken_run(unbroken: dict, reward_config, tmp_path_factory):
    if not unbroken:
        folder = tmp_path_factory.mktemp("unbroken")
        unbroken["run"] = train(reward_config(out=str(folder)))
    return unbroken["run"]


def test_a_run_leaves_a_bundle_and_its_accuracy(unbroken, reward_config, tmp_path_factory):
    run = unbroken_run(unbroken, reward_config, tmp_path_factory)
    reward = load_reward(run.folder)
    card = reward.card
    assert card.rankings["annotator"] == "simulated"
    assert len(card.generator["sha256"]) == len(card.rankings["sha256"]) == 64
    table = pd.read_csv(run.metrics_csv)
    assert card.metrics == [dataclasses.asdict(row) for row in run.table]
    assert set(table.split) == {"val", "test"}
    assert set(table["filter"]) == {"all_seeds", "no_goodseeds"}
    assert set(table["head"]) == {"pairs", "scalar", "BT", "annotator"}
    # 3 test rows of 3 items; with an anchor in front 3 or 6 pairs a row, without it 1 or 3. No row is dropped.
    rows = table[(table.split == "test") & (table["head"] == "scalar") & (table.reference == "rankings")]
    counts = {(f, p): n for f, p, n in zip(rows["filter"], rows.pairs, rows.n_examples, strict=True)}
    assert counts == {
        ("all_seeds", "best_worst"): 9,
        ("all_seeds", "all"): 18,
        ("no_goodseeds", "best_worst"): 3,
        ("no_goodseeds", "all"): 9,
    }
    assert ((table.ci_low <= table.accuracy) & (table.accuracy <= table.ci_high)).all()
    assert ((table.clustered_low <= table.accuracy) & (table.accuracy <= table.clustered_high)).all()
    assert set(table[table.split == "test"].n_clusters) == {3}
    np.testing.assert_allclose(table.accuracy, table.n_correct / table.n_examples)
    assert "noise_free_simulated" in table_text(run.table)
    assert list(run.folder.glob("csv/*/metrics.csv"))
    assert list((run.folder / "tensorboard").glob("events*"))
    assert (run.folder / "config.yaml").is_file()
    text = (run.folder / "reward.yaml").read_text()
    assert str(run.folder.parent) not in text
    logged = pd.read_csv(next(run.folder.glob("csv/*/metrics.csv")))
    assert (logged["train/recon_loss"].dropna() > 0).all()  # the reconstruction term really runs


@pytest.mark.parametrize(
    ("stop", "moment"),
    [
        (1, "on_train_batch_start"),
        (4, "on_train_batch_start"),
        (6, "on_train_batch_start"),
        (8, "on_validation_epoch_start"),
        pytest.param(3, "on_train_batch_start", marks=pytest.mark.slow),
        pytest.param(8, "on_train_batch_start", marks=pytest.mark.slow),
        pytest.param(11, "on_train_batch_start", marks=pytest.mark.slow),
        pytest.param(12, "on_validation_epoch_start", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_gives_the_same_weights(
    stop, moment, unbroken, reward_config, tmp_path_factory, monkeypatch
):
    """Steps 4, 8 and 12 end an epoch; the validation follows them."""
    expected = unbroken_run(unbroken, reward_config, tmp_path_factory)

    def kill(self, trainer, *_):
        if trainer.global_step == stop:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunState, moment, kill)
        with pytest.raises(Killed):
            train(reward_config())
    run = train(reward_config())
    assert read_state(run.folder / "last.ckpt")["global_step"] == 3 * STEPS_AN_EPOCH
    assert same(last_weights(run.folder), last_weights(expected.folder))
    assert same(weights(run.folder), weights(expected.folder))
    assert run.table == expected.table


def test_state_between_epochs_only_resumes_as_well(unbroken, reward_config, tmp_path_factory, monkeypatch):
    expected = unbroken_run(unbroken, reward_config, tmp_path_factory)

    def kill(self, trainer, *_):
        if trainer.global_step == 7:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "on_train_batch_start", kill)
        with pytest.raises(Killed):
            train(reward_config(state_every_n_steps=0))
    run = train(reward_config(state_every_n_steps=0))
    assert same(last_weights(run.folder), last_weights(expected.folder))


def test_a_finished_run_gives_the_same_bundle_again(unbroken, reward_config, tmp_path_factory):
    run = unbroken_run(unbroken, reward_config, tmp_path_factory)
    before = weights(run.folder)
    train(reward_config(out=str(run.folder)))
    assert same(weights(run.folder), before)


def test_storages_train_the_same_weights(unbroken, reward_config, tmp_path_factory):
    expected = unbroken_run(unbroken, reward_config, tmp_path_factory)
    config = reward_config()
    config.data = dataclasses.replace(config.data, storage="memory")
    assert same(weights(train(config).folder), weights(expected.folder))


def test_early_stopping_ends_a_run_for_good(reward_config):
    """With a rate of almost 0 the validation loss soon stops improving; a restart adds no epoch."""
    config = reward_config(max_epochs=30, patience=1, monitor="pairs", optimiser=OptimiserConfig(lr=0.5))
    train(config)
    steps = read_state(Path(config.out) / "last.ckpt")["global_step"]
    assert steps < 30 * STEPS_AN_EPOCH
    train(config)
    assert read_state(Path(config.out) / "last.ckpt")["global_step"] == steps


def test_a_folder_of_another_run_is_refused(unbroken, reward_config, tmp_path_factory):
    run = unbroken_run(unbroken, reward_config, tmp_path_factory)
    with pytest.raises(ValueError, match="seed: the run has 42, now 7; give what the run has"):
        train(reward_config(out=str(run.folder), seed=7))


def test_damaged_state_is_one_line(reward_config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"last\.ckpt: unreadable training state") as error:
        train(reward_config())
    assert "\n" not in str(error.value)


def test_training_learns_a_made_up_order():
    """Brighter peaks win: the loss of a tiny model falls on a fixed batch, and every head gets it right."""
    torch.manual_seed(0)
    from reward_model_training.models import ModelConfig
    from reward_model_training.models.backbones.sigma_unet3d import SigmaUNetConfig
    from reward_model_training.models.heads import HeadsConfig

    net = SigmaUNetConfig(f_maps=[4, 8], num_groups=4, final_size_out=8)
    module = RewardModule(
        build_model(ModelConfig(sigma_unet3d=net, heads=HeadsConfig([16, 16], 8, [8, 8]))),
        LossConfig(lambda_scalar_rwd=1.0, lambda_BT=1.0),
        OptimiserConfig(lr=1e-2, items_at_once=16),
        seed=0,
    )
    slabs = torch.randn(16, 8, 8, 8)
    for k in range(16):
        slabs[k] += (16 - k) * torch.linspace(0, 1, 8)  # contrast along z
    batch = RankedBatch(slabs.half(), torch.arange(16).view(4, 4).t().contiguous())
    optimiser, pairs, losses = module.configure_optimizers(), ranked_pairs(batch.index), []
    for _ in range(40):
        terms = module.terms(module.outputs(batch, pairs), pairs)
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        losses.append(terms)
    for name in ("pairs_loss", "scalar_loss", "bt_loss", "recon_loss"):
        assert losses[-1][name] < losses[0][name], name
    assert losses[-1]["scalar_loss"] < 0.3


def test_items_at_once_keeps_the_numbers():
    from reward_model_training.models import ModelConfig
    from reward_model_training.models.backbones.sigma_unet3d import SigmaUNetConfig
    from reward_model_training.models.heads import HeadsConfig

    torch.manual_seed(0)
    net = SigmaUNetConfig(f_maps=[2, 4], num_groups=2, final_size_out=8)
    model = build_model(ModelConfig(sigma_unet3d=net, heads=HeadsConfig([4, 4], 4, [3, 3])))
    batch = RankedBatch(torch.rand(5, 6, 6, 6).half(), torch.tensor([[0, 1, 2], [3, 4, -1]]))
    pairs = ranked_pairs(batch.index)
    modules = [RewardModule(model, LossConfig(), OptimiserConfig(items_at_once=n), seed=0) for n in (1, 2, 5)]
    terms = [m.terms(m.outputs(batch, pairs), pairs) for m in modules]
    for other in terms[1:]:
        torch.testing.assert_close(other, terms[0])


def test_reported_experiment_has_the_published_values():
    cfg = compose_config("reward", RewardTrainConfig, ["experiment=reward_sigma256"])
    assert (cfg.optimiser.lr, cfg.optimiser.weight_decay, cfg.data.batch_size) == (1e-5, 1e-4, 1)
    assert (cfg.max_epochs, cfg.patience, cfg.seed, cfg.monitor) == (10, 3, 42, "pairs")
    loss = (cfg.loss.lambda_pairs, cfg.loss.lambda_scalar_rwd, cfg.loss.lambda_BT, cfg.loss.lambda_recon)
    assert loss == (1.0, 1e-3, 1e-3, 1e-2)
    assert (cfg.loss.recon_kind, cfg.loss.normalise_recon) == ("l1", True)
    assert (cfg.data.slab.resolution, cfg.data.slab.grid, cfg.data.slab.psi) == (256, "skewed", 1.0)
    anchors = cfg.data.anchors
    assert (anchors.first_seed, anchors.psi) == (100000, 0.25)
    assert (anchors.num_train, anchors.num_val, anchors.num_test) == (700, 150, 150)
    assert cfg.data.anchor_probability == 1.0
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model(cfg.model).parameters()) == 12_686_699


def test_twin_experiment_reads_the_twin_slab():
    cfg = compose_config("reward", RewardTrainConfig, ["experiment=reward_sigma64_twin"])
    assert (cfg.data.slab.resolution, cfg.data.slab.grid) == (64, "exact")
    assert cfg.loss.lambda_scalar_rwd == 1.0
    _, recon = build_model(cfg.model).encode(torch.rand(1, 1, 33, 36, 32))
    assert recon.shape == (1, 1, 33, 36, 32)


def command(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", f"reward_model_training.{module}", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)


def run_arguments(cfg: RewardTrainConfig, out: Path) -> list[str]:
    data = cfg.data
    return [
        f"out={out}",
        f"data.rankings={data.rankings}",
        f"data.generator={data.generator}",
        "data.slab.resolution=12",
        "data.slab.grid=exact",
        "data.anchors.num_train=4",
        "data.anchors.num_val=2",
        "data.anchors.num_test=2",
        "data.storage=memory",
        "data.batch_size=8",
        "model.sigma_unet3d.f_maps=[2,4]",
        "model.sigma_unet3d.num_groups=2",
        "model.sigma_unet3d.final_size_out=8",
        "model.heads.trunk_hidden=[4,4]",
        "model.heads.trunk_out=4",
        "model.heads.head_hidden=[3,3]",
        "max_epochs=1",
        "num_threads=1",
        "device=cpu",
    ]


def test_the_commands(reward_config, tmp_path):
    """Train, evaluate and score as a user types them, one good call each."""
    cfg, out = reward_config(), tmp_path / "reward"
    done = command("train", *run_arguments(cfg, out))
    assert done.returncode == 0, done.stderr
    assert "95 % interval" in done.stdout
    data = [f"data.rankings={cfg.data.rankings}", f"data.generator={cfg.data.generator}"]
    anchors = ["data.anchors.num_train=4", "data.anchors.num_val=2", "data.anchors.num_test=2", "data.storage=memory"]
    table = tmp_path / "again.csv"
    done = command("evaluate", f"reward={out}", f"out={table}", "device=cpu", *data, *anchors)
    assert done.returncode == 0, done.stderr
    assert table.read_text() == (out / "final_metrics.csv").read_text()
    scores = tmp_path / "scores.csv"
    generator = f"generator={cfg.data.generator}"
    done = command("score", f"reward={out}", generator, "num_seeds=3", f"out={scores}", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert list(pd.read_csv(scores).columns) == ["seed", "psi", "reward"]
    assert len(pd.read_csv(scores)) == 3


@pytest.mark.parametrize("module", ["train", "evaluate", "score"])
def test_help_and_bad_calls(module):
    done = command(module, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python -m reward_model_training.{module}" in done.stdout
    done = command(module, "sead=3")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "sead" in done.stderr


def test_missing_rankings_are_one_line(reward_config, tmp_path):
    cfg = reward_config()
    arguments = run_arguments(cfg, tmp_path / "out")
    done = command("train", *arguments, f"data.rankings={tmp_path / 'none.csv'}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "none.csv" in done.stderr
