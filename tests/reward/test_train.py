"""Training from rankings to a bundle, exact resume, and the three commands as a user runs them."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from eg3d.hydra_command import compose_config
from reward_model_training.bundle import load_reward
from reward_model_training.data.dataset import RankedBatch
from reward_model_training.data.transforms import NormaliseSigmaSelfConfig
from reward_model_training.evaluate import table_text
from reward_model_training.lightning_state import RunState, read_state
from reward_model_training.losses import RewardLossConfig, ranked_pairs
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
    made_of = card.provenance
    assert made_of["rankings"]["annotator"] == "simulated"
    assert len(made_of["generator"]["sha256"]) == len(made_of["rankings"]["sha256"]) == 64
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


def steps_of(folder: str) -> int:
    return read_state(Path(folder) / "last.ckpt")["global_step"]


def test_early_stopping_ends_a_run_with_a_word_and_more_patience_continues_it(reward_config, tmp_path):
    """At this rate the validation loss soon gets worse; the same call again adds no epoch, more patience does."""

    def run(patience: int, out: str = "run"):
        optimiser = OptimiserConfig(lr=0.02)
        return train(reward_config(out=str(tmp_path / out), max_epochs=30, patience=patience, optimiser=optimiser))

    first = run(1)
    steps = steps_of(first.folder)
    epochs = steps // STEPS_AN_EPOCH
    assert epochs < 20
    assert first.end.startswith(f"stopped after epoch {epochs} of 30: no val/pairs_loss below ")
    assert first.end.endswith("for 1 epochs (patience 1)")
    assert run(1).end == first.end and steps_of(first.folder) == steps
    second = run(3)
    assert steps_of(second.folder) >= steps + 2 * STEPS_AN_EPOCH
    whole = run(3, out="whole")
    assert second.end == whole.end
    assert same(last_weights(second.folder), last_weights(whole.folder))
    assert same(weights(second.folder), weights(whole.folder))


def test_a_diverged_run_says_so_whatever_the_patience(reward_config):
    ends = []
    for patience in (1, 50):
        run = train(reward_config(max_epochs=30, patience=patience, optimiser=OptimiserConfig(lr=2.0)))
        ends.append((run.end, steps_of(run.folder)))
    assert ends[0] == ends[1]
    assert "it diverged: val/pairs_loss" in ends[0][0] and "lower optimiser.lr" in ends[0][0]


def test_a_moved_folder_picks_the_same_best_epoch(reward_config, tmp_path, monkeypatch):
    """The best epoch is made to be the first one, so that the state of the second must remember it."""
    terms = RewardModule.terms

    def worsening(self, out, pairs):
        found = terms(self, out, pairs)
        return found if self.training else found | {"pairs_loss": torch.tensor(0.5 + 0.1 * self.current_epoch)}

    monkeypatch.setattr(RewardModule, "terms", worsening)

    def run(out: str, max_epochs: int):
        return train(reward_config(out=str(tmp_path / out), max_epochs=max_epochs, patience=9))

    unbroken = run("unbroken", 4)
    (tmp_path / "elsewhere").mkdir()
    run("begun", 2).folder.rename(tmp_path / "elsewhere" / "moved")
    moved = run("elsewhere/moved", 4)
    best = [read_state(r.folder / "best.ckpt")["epoch"] for r in (unbroken, moved)]
    assert best == [0, 0]
    assert same(weights(moved.folder), weights(unbroken.folder))
    assert str(tmp_path) not in str(read_state(moved.folder / "last.ckpt")["callbacks"])


def spoil(monkeypatch: pytest.MonkeyPatch, is_spoilt) -> None:
    """Makes the loss NaN at the training steps for which is_spoilt(step) holds."""
    terms = RewardModule.terms

    def spoilt(self, out, pairs):
        found = terms(self, out, pairs)
        if self.training and is_spoilt(self.global_step):
            found["loss"] = found["loss"] * float("nan")
        return found

    monkeypatch.setattr(RewardModule, "terms", spoilt)


def test_a_step_that_is_not_finite_is_skipped_and_counts(reward_config, monkeypatch, caplog):
    spoil(monkeypatch, lambda step: step in (2, 3, 9))
    run = train(reward_config())
    assert steps_of(run.folder) == 3 * STEPS_AN_EPOCH
    assert all(torch.isfinite(value).all() for value in weights(run.folder).values())
    said = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert [text.split(":")[0] for text in said] == ["step 3", "step 4", "step 10"]


def test_a_decaying_rate_falls_by_half_a_cosine_and_a_stop_changes_nothing(reward_config, tmp_path, monkeypatch):
    """With half of the decay done, half of the rate is left; a killed and resumed run takes the same steps."""
    cfg = OptimiserConfig(lr=1e-3, decay_epochs=4)
    assert [cfg.lr_at(epoch) for epoch in (0, 4, 9)] == pytest.approx([1e-3, 1e-5, 1e-5])
    assert cfg.lr_at(2) == pytest.approx((1e-3 + 1e-5) / 2)
    assert OptimiserConfig(lr=1e-3).lr_at(7) == 1e-3
    assert "decay_epochs" in str(OptimiserConfig(decay_epochs=-1).validate())

    decay = dataclasses.replace(reward_config().optimiser, decay_epochs=3)
    whole = train(reward_config(out=str(tmp_path / "whole"), optimiser=decay))
    state = read_state(whole.folder / "last.ckpt")
    last = decay.lr_at((3 * STEPS_AN_EPOCH - 1) / STEPS_AN_EPOCH)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(last)

    def kill(self, trainer, *_):
        if trainer.global_step == 6:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "on_train_batch_start", kill)
        with pytest.raises(Killed):
            train(reward_config(optimiser=decay))
    assert same(last_weights(train(reward_config(optimiser=decay)).folder), last_weights(whole.folder))


def test_steps_that_stay_not_finite_end_the_run_with_the_last_good_state(reward_config, monkeypatch):
    spoil(monkeypatch, lambda step: step >= 2)
    with pytest.raises(RuntimeError, match=r"step 12: loss nan.*not finite 10 times in a row") as error:
        train(reward_config(max_epochs=9))
    assert "\n" not in str(error.value)
    assert all(torch.isfinite(value).all() for value in last_weights(Path(reward_config().out)).values())


def test_a_validation_loss_that_is_not_finite_ends_the_run(reward_config, monkeypatch):
    terms = RewardModule.terms

    def spoilt(self, out, pairs):
        return {name: value * (1 if self.training else float("nan")) for name, value in terms(self, out, pairs).items()}

    monkeypatch.setattr(RewardModule, "terms", spoilt)
    with pytest.raises(RuntimeError, match=r"val/pairs_loss is nan after epoch 1; lower optimiser\.lr"):
        train(reward_config())


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


def test_a_flipped_byte_in_a_state_is_one_line(reward_config):
    """In the middle of the first layer's weights, where the file itself would not notice."""
    run = train(reward_config(max_epochs=1))
    path = run.folder / "last.ckpt"
    weight = read_state(path)["state_dict"]["model.MLP.input_layer.weight"].numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(weight) + len(weight) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt: damaged training state \(its checksum differs\); delete it"):
        train(reward_config(max_epochs=2))


def test_training_learns_a_made_up_order():
    """Brighter peaks win: the loss of a tiny model falls on a fixed batch, and every head gets it right."""
    torch.manual_seed(0)
    from reward_model_training.models import ModelConfig
    from reward_model_training.models.backbones.sigma_unet3d import SigmaUNetConfig
    from reward_model_training.models.heads import ScoreHeadsConfig

    net = SigmaUNetConfig(f_maps=[4, 8], num_groups=4, final_size_out=8)
    module = RewardModule(
        build_model(ModelConfig(backbone=net, heads=ScoreHeadsConfig([16, 16], 8, [8, 8]))),
        NormaliseSigmaSelfConfig(),
        RewardLossConfig(lambda_scalar_rwd=1.0, lambda_BT=1.0),
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
    from reward_model_training.models.heads import ScoreHeadsConfig

    torch.manual_seed(0)
    net = SigmaUNetConfig(f_maps=[2, 4], num_groups=2, final_size_out=8)
    model = build_model(ModelConfig(backbone=net, heads=ScoreHeadsConfig([4, 4], 4, [3, 3])))
    batch = RankedBatch(torch.rand(5, 6, 6, 6).half(), torch.tensor([[0, 1, 2], [3, 4, -1]]))
    pairs = ranked_pairs(batch.index)
    parts = model, NormaliseSigmaSelfConfig(), RewardLossConfig()
    modules = [RewardModule(*parts, OptimiserConfig(items_at_once=n), seed=0) for n in (1, 2, 5)]
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
    assert (cfg.data.representation.resolution, cfg.data.representation.grid) == (256, "skewed")
    assert (cfg.data.sample.psi, cfg.data.sample.truncation_cutoff, cfg.data.sample.conditioning) == (
        1.0,
        14,
        "published",
    )
    anchors = cfg.data.anchors
    assert (anchors.first_seed, anchors.psi) == (100000, 0.25)
    assert (anchors.num_train, anchors.num_val, anchors.num_test) == (700, 150, 150)
    assert cfg.data.anchor_probability == 1.0
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model(cfg.model).parameters()) == 12_686_699


def test_twin_experiment_reads_the_twin_slab():
    cfg = compose_config("reward", RewardTrainConfig, ["experiment=reward_sigma64_twin"])
    assert (cfg.data.representation.resolution, cfg.data.representation.grid) == (64, "exact")
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
        "data.representation.resolution=12",
        "data.representation.grid=exact",
        "data.anchors.num_train=4",
        "data.anchors.num_val=2",
        "data.anchors.num_test=2",
        "data.storage=memory",
        "data.batch_size=8",
        "model.backbone.f_maps=[2,4]",
        "model.backbone.num_groups=2",
        "model.backbone.final_size_out=8",
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


@pytest.mark.parametrize(("name", "code", "said"), [("SIGTERM", 143, "SIGTERM"), ("SIGINT", 130, "keyboard")])
def test_a_stopped_run_keeps_its_last_step_and_says_so(reward_config, tmp_path, name, code, said):
    cfg, out = reward_config(), tmp_path / "stopped"
    arguments = [
        *run_arguments(cfg, out),
        "max_epochs=5000",
        "patience=5000",
        "state_every_n_steps=1",
        "data.batch_size=2",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "reward_model_training.train", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 240
    while not (out / "last.ckpt").is_file() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert err.splitlines() == [f"stopped by {'the ' if name == 'SIGINT' else ''}{said}"]
    assert read_state(out / "last.ckpt")["global_step"] >= 1
    assert not (out / "reward.yaml").exists()


def test_missing_rankings_are_one_line(reward_config, tmp_path):
    cfg = reward_config()
    arguments = run_arguments(cfg, tmp_path / "out")
    done = command("train", *arguments, f"data.rankings={tmp_path / 'none.csv'}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "none.csv" in done.stderr
