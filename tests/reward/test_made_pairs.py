"""Made pairs: named draws, rows beside the ranked ones, losses of order and of sameness, and runs that know of them."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch
import yaml

from eg3d.config_checks import faults_of
from eg3d.hydra_command import compose_config
from eg3d.representations.depth_map import DepthMap
from eg3d.representations.sigma_field import SigmaField
from eg3d.samples import SampleConfig
from reward_model_training.bundle import load_reward
from reward_model_training.damage import damages, ties
from reward_model_training.data.dataset import DataConfig, RankedBatch, RankedSeeds, collate, make_splits
from reward_model_training.data.made_pairs import STRESS_SEEDS, Change, MadePairsConfig, make, planned
from reward_model_training.data.representation_store import RepresentationStore, SampleKey
from reward_model_training.data.transforms import SurfaceDistanceConfig, SurfaceLogisticConfig
from reward_model_training.lightning_state import RunState, read_state
from reward_model_training.losses import RewardLossConfig, pairs_tie_loss, ranked_pairs, tie_loss
from reward_model_training.models import ModelConfig, build_model
from reward_model_training.models.backbones.sigma_unet3d import SigmaUNetConfig
from reward_model_training.models.heads import ScoreHeadsConfig
from reward_model_training.module import RewardModule
from reward_model_training.optimiser import OptimiserConfig
from reward_model_training.preferences.anchors import AnchorConfig
from reward_model_training.preferences.rankings import Ranking
from reward_model_training.stress import trained_kinds
from reward_model_training.train import RewardTrainConfig, train
from tests.shapes import SLAB, density, head

ON = MadePairsConfig(triples_per_row=1.5, ties_per_row=0.5, kinds=["bumps", "holes"], ties=["mirror", "shift_z"])
SAMPLES = [SampleKey(seed, 1.0) for seed in range(5)]


def test_what_is_drawn_is_named_by_seed_epoch_and_row() -> None:
    plans = [planned(ON, SAMPLES, seed=1, epoch=0, row=row) for row in range(200)]
    assert plans == [planned(ON, SAMPLES, seed=1, epoch=0, row=row) for row in range(200)]
    for changed in ({"seed": 2}, {"epoch": 1}, {"row": 201}):
        assert planned(ON, SAMPLES, **({"seed": 1, "epoch": 0, "row": 0} | changed)) != plans[0]
    assert planned(dataclasses.replace(ON, seed=1), SAMPLES, seed=1, epoch=0, row=0) != plans[0]


def test_counts_kinds_severities_and_seeds_are_as_asked() -> None:
    rows = [part for row in range(400) for part in planned(ON, SAMPLES, seed=1, epoch=0, row=row)]
    triples, pairs = [part for part in rows if len(part) == 2], [part for part in rows if len(part) == 1]
    assert len(triples) == pytest.approx(600, abs=40) and len(pairs) == pytest.approx(200, abs=40)
    assert {part[0].kind for part in triples} == {"bumps", "holes"}
    assert {part[0].kind for part in pairs} == {"mirror", "shift_z"}
    for mild, severe in triples:
        assert (mild.sample, mild.kind, mild.seed) == (severe.sample, severe.kind, severe.seed)
        assert 0.15 <= mild.severity <= 0.5 < 0.6 <= severe.severity <= 1
    assert all(0 <= change.seed < STRESS_SEEDS for part in rows for change in part)
    assert {change.sample for part in rows for change in part} == set(SAMPLES)


def test_a_made_row_is_clean_mild_severe_of_the_stored_type() -> None:
    clean = torch.from_numpy(density(head())).half()
    changes = [Change(SAMPLES[0], "bumps", severity, 3) for severity in (0.3, 0.9)]
    row = make(changes, clean, voxel=1 / 63, level=10.0)
    assert row.items == (SAMPLES[0], *changes) and not row.is_tie
    assert row.tensors[0] is clean and all(x.dtype == torch.float16 for x in row.tensors)
    sizes = [(x.float() - clean.float()).abs().sum() for x in row.tensors]
    assert 0 == sizes[0] < sizes[1] < sizes[2]
    assert make([Change(SAMPLES[0], "mirror", 1.0, 0)], clean, voxel=1 / 63, level=10.0).is_tie
    hot = make([Change(SAMPLES[0], "hot_voxels", 1.0, 0)], 1000 * clean, voxel=1 / 63, level=10.0)
    assert torch.isfinite(hot.tensors[1]).all(), "beyond half precision"


def rows_of(cfg: MadePairsConfig, num_rows: int = 20) -> RankedSeeds:
    slab = SigmaField(resolution=12, grid="exact")
    rng = torch.Generator().manual_seed(0)
    noise = 300 * torch.randn(*slab.shape(), generator=rng)
    store = RepresentationStore(
        lambda seed, _: noise + seed % 97, slab, SampleConfig(conditioning="generator"), source="a"
    )
    data = DataConfig(representation=slab, anchors=AnchorConfig(num_train=4, num_val=2, num_test=2), made_pairs=cfg)
    ranked = [Ranking(n, (10 * n, 10 * n + 1), "x") for n in range(num_rows)]
    return RankedSeeds(make_splits(ranked, data, seed=1), "train", store, data, seed=1)


def test_a_batch_has_made_rows_beside_the_ranked_ones_and_every_slab_once() -> None:
    rows = rows_of(dataclasses.replace(ON, triples_per_row=1, ties_per_row=1))
    loaded = [rows[(0, row)] for row in range(4)]
    batch = collate(loaded)
    assert batch.index.shape == (4, 3) and batch.made.shape == (4, 3) and batch.ties.shape == (4, 2)
    assert len(batch.x) == len({key for row in loaded for key in row.items}) + 2 * 4 + 4
    for row, triple in zip(loaded, batch.made.tolist(), strict=True):
        for place, tensor in zip(triple, row.made[0].tensors, strict=True):
            assert torch.equal(batch.x[place], tensor)
        assert triple[0] in batch.index.flatten().tolist(), "the clean one is a ranked sample"
    off = collate([rows_of(MadePairsConfig())[(0, row)] for row in range(4)])
    assert off.made is None and off.ties is None
    assert torch.equal(off.index, batch.index)


def test_tie_losses_are_0_for_the_same_and_do_not_mind_the_order() -> None:
    one, other = torch.randn(5, generator=torch.Generator().manual_seed(0)), torch.zeros(5)
    assert tie_loss(one, one) == 0 and tie_loss(one, other) == tie_loss(other, one) > 0
    torch.testing.assert_close(tie_loss(2 * one, other), 4 * tie_loss(one, other))
    forward, backward = torch.tensor([[3.0, 3.0], [-1.0, -1.0]]), torch.tensor([[0.5, 0.5], [2.0, 2.0]])
    torch.testing.assert_close(pairs_tie_loss(forward, backward), torch.tensor(0.0))
    forward, backward = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(1))
    assert pairs_tie_loss(forward, backward) == pairs_tie_loss(backward, forward) > 0


def toy_module(loss: RewardLossConfig) -> RewardModule:
    torch.manual_seed(0)
    net = SigmaUNetConfig(f_maps=[4, 8], num_groups=4, final_size_out=8)
    model = build_model(ModelConfig(backbone=net, heads=ScoreHeadsConfig([16, 16], 8, [8, 8])))
    return RewardModule(model, SurfaceLogisticConfig(), loss, OptimiserConfig(lr=1e-2, items_at_once=16), seed=0)


def test_the_loss_is_the_ranked_one_and_the_made_ones_by_their_weights() -> None:
    x = 100 * torch.randn(6, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    ranked = RankedBatch(x, torch.tensor([[0, 1]]))
    made = ranked._replace(made=torch.tensor([[2, 3, 4]]), ties=torch.tensor([[4, 5]]))
    pairs = ranked_pairs(ranked.index)

    def terms(batch: RankedBatch, **weights: float) -> dict[str, torch.Tensor]:
        module = toy_module(RewardLossConfig(lambda_scalar_rwd=1.0, **weights))
        return module.terms(module.outputs(batch, pairs), pairs)

    plain, off, on = terms(ranked), terms(made, lambda_made=0.0, lambda_ties=0.0), terms(made)
    assert set(plain) == {"pairs_loss", "scalar_loss", "bt_loss", "recon_loss", "loss"}
    for name in ("pairs_loss", "scalar_loss", "bt_loss"):
        torch.testing.assert_close(plain[name], off[name])
    extra = sum(w * on[f"made_{h}_loss"] for h, w in (("pairs", 1.0), ("scalar", 1.0), ("bt", 1e-3)))
    extra += sum(w * on[f"ties_{h}_loss"] for h, w in (("pairs", 1.0), ("scalar", 1.0), ("bt", 1e-3)))
    torch.testing.assert_close(on["loss"], off["loss"] + extra)


def test_training_learns_to_put_damage_below_and_to_leave_ties() -> None:
    """Made rows alone decide: the ranked pair is the same slab twice."""
    x = torch.from_numpy(density(head(cfg=dataclasses.replace(SLAB, resolution=24)))).half()
    kinds = [Change(SAMPLES[0], "floaters", s, 1) for s in (0.4, 1.0)]
    triple = make(kinds, x, voxel=1 / 23, level=10.0)
    tie = make([Change(SAMPLES[0], "shift_y", 1.0, 0)], x, voxel=1 / 23, level=10.0)
    slabs = torch.stack([*triple.tensors, tie.tensors[1]])
    batch = RankedBatch(slabs, torch.tensor([[0, 0]]), torch.tensor([[0, 1, 2]]), torch.tensor([[0, 3]]))
    module = toy_module(RewardLossConfig(lambda_scalar_rwd=1.0, lambda_recon=0.0))
    optimiser, pairs = module.configure_optimizers(), ranked_pairs(batch.index)
    for _ in range(60):
        out = module.outputs(batch, pairs)
        terms = module.terms(out, pairs)
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
    clean, mild, severe, shifted = out.scalar.tolist()
    assert clean > mild > severe and abs(shifted - clean) < 0.3 * (clean - mild)


@pytest.fixture
def made_config(reward_config):
    """A run with made pairs, of 4 steps an epoch."""
    base = reward_config()
    return reward_config(data=dataclasses.replace(base.data, made_pairs=ON), max_epochs=2)


def test_a_run_with_made_pairs_says_so_and_resumes_exactly(made_config, tmp_path, monkeypatch) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL."""

    def kill(self, trainer, *_):
        if trainer.global_step == 6:
            raise Killed

    whole = train(dataclasses.replace(made_config, out=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        patch.setattr(RunState, "on_train_batch_start", kill)
        with pytest.raises(Killed):
            train(made_config)
    again = train(made_config)
    one, other = (read_state(run.folder / "last.ckpt")["state_dict"] for run in (whole, again))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    logged = pd.read_csv(next(whole.folder.glob("csv/*/metrics.csv")))
    for name in ("train/made_scalar_loss", "train/ties_scalar_loss", "val/made_scalar_accuracy"):
        assert logged[name].notna().any(), name
    reward = load_reward(whole.folder)
    made = reward.card.provenance["training"]["made_pairs"]
    assert (made["kinds"], made["ties"], made["mild"]) == (ON.kinds, ON.ties, [0.15, 0.5])
    assert trained_kinds(reward) == ("bumps", "holes", "mirror", "shift_z")
    other = dataclasses.replace(made_config.data, made_pairs=dataclasses.replace(ON, triples_per_row=2.0))
    with pytest.raises(ValueError, match=r"data\.made_pairs\.triples_per_row: the run has 1\.5, now 2\.0"):
        train(dataclasses.replace(made_config, data=other))


def test_a_run_without_made_pairs_says_nothing_of_them(reward_config) -> None:
    run = train(reward_config(max_epochs=1))
    training = yaml.safe_load((run.folder / "reward.yaml").read_text())["provenance"]["training"]
    assert "made_pairs" not in training and trained_kinds(load_reward(run.folder)) == ()


def test_reported_training_has_none_and_the_twins_has_every_kind() -> None:
    assert not MadePairsConfig().is_on
    assert not compose_config("reward", RewardTrainConfig, ["experiment=reward_sigma256"]).data.made_pairs.is_on
    cfg = compose_config("reward", RewardTrainConfig, ["experiment=reward_sigma64_twin"])
    made = cfg.data.made_pairs
    assert made.is_on and set(made.kinds) == set(damages()) and set(made.ties) == set(ties())
    assert isinstance(cfg.transform, SurfaceDistanceConfig)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kinds": ["bump"]}, "made_pairs.kinds: 'bump' is not one of .*; did you mean 'bumps'"),
        ({"kinds": []}, "made_pairs.kinds: none to make them of"),
        ({"ties": ["bumps"]}, "made_pairs.ties: 'bumps' is not one of shift_x"),
        ({"ties": ["mirror", "mirror"]}, "one is there twice"),
        ({"mild": (0.5, 0.7)}, "0.7 of mild is not below 0.6 of severe"),
        ({"severe": (0.9, 1.2)}, "made_pairs.severe: expected two severities"),
        ({"triples_per_row": -1.0}, "made_pairs.triples_per_row: -1.0 is below 0"),
    ],
)
def test_faults_are_named(reward_config, changes, words) -> None:
    config = reward_config()
    config.data = dataclasses.replace(config.data, made_pairs=dataclasses.replace(ON, **changes))
    with pytest.raises(AssertionError, match=words):
        assert not faults_of(config), "; ".join(faults_of(config))


def test_damage_needs_density_slabs(reward_config) -> None:
    config = reward_config()
    config.data = dataclasses.replace(config.data, made_pairs=ON, representation=DepthMap(resolution_px=6))
    assert "made_pairs: damage is known for density slabs, not for depth_map" in "; ".join(faults_of(config))
