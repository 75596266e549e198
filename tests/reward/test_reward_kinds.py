"""Any representation, transform and backbone: toys registered from here go from rankings to scores of a bundle."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import Run
from torch import Tensor, nn

from eg3d.checkpoints.store import load_generator
from eg3d.config_checks import faults_of
from eg3d.finetuning.rewards import score_seeds
from eg3d.hydra_command import ConfigError, compose_config
from eg3d.representations.depth_map import DepthMap
from eg3d.samples import SampleConfig, sample_seeds
from reward_model_training import evaluate, score
from reward_model_training import train as train_command
from reward_model_training.bundle import load_reward
from reward_model_training.data import transforms
from reward_model_training.data.transforms import Transform, TransformConfig
from reward_model_training.evaluate import EvaluateConfig
from reward_model_training.losses import RewardLossConfig
from reward_model_training.models import ModelConfig
from reward_model_training.models.backbones import registry
from reward_model_training.models.backbones.registry import BackboneConfig, Encoding, backbone
from reward_model_training.models.heads import ScoreHeadsConfig
from reward_model_training.train import RewardTrainConfig, train


@dataclass
class NearnessConfig(TransformConfig):
    name: str = "nearness"
    far: float = 3.3  # world units


@dataclass
class MeanPoolConfig(BackboneConfig):
    """One number a view."""

    name: str = "mean_pool"
    num_views: int = 2

    @property
    def feature_size(self) -> int:
        return self.num_views


class MeanPool(nn.Module):
    def __init__(self, cfg: MeanPoolConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(cfg.num_views))

    def forward(self, x: Tensor) -> Encoding:
        return Encoding(self.scale * x.mean((2, 3)), None)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone and a transform of depth maps, known for the length of a test."""
    registry.backbones()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    backbone(MeanPoolConfig, input_kind="maps")(MeanPool)
    entry = Transform(NearnessConfig, "maps", apply=lambda x, cfg: cfg.far - x, upper=lambda cfg: cfg.far)
    monkeypatch.setitem(transforms.TRANSFORMS, "nearness", entry)


@pytest.fixture
def depth_config(toys: None, reward_config) -> RewardTrainConfig:
    """A run of the toys on two depth maps a sample."""
    config = reward_config(
        model=ModelConfig(MeanPoolConfig(), ScoreHeadsConfig([4, 4], 4, [3, 3])),
        transform=NearnessConfig(),
        loss=RewardLossConfig(lambda_scalar_rwd=1.0, lambda_recon=0.0),
    )
    config.data = dataclasses.replace(config.data, representation=DepthMap(resolution_px=6, yaws=[0.3, -0.3]))
    return config


def test_a_reward_of_other_parts_is_trained_written_and_read(depth_config, toy_networks):
    assert faults_of(depth_config) == []
    run = train(depth_config)
    reward = load_reward(run.folder)
    assert reward.representation == depth_config.data.representation
    assert "encoder.scale" in reward.model.state_dict()
    scores = score_seeds(load_generator(toy_networks), reward, [1, 2, 3], reward.sample)
    assert torch.isfinite(scores).all() and scores.std() > 0


def test_a_command_chooses_them_by_name(depth_config, run: Run, tmp_path: Path):
    data = depth_config.data
    inputs = [f"data.rankings={data.rankings}", f"data.generator={data.generator}", "data.storage=memory"]
    anchors = ["data.anchors.num_train=4", "data.anchors.num_val=2", "data.anchors.num_test=2"]
    words = [
        *(
            "data/representation=depth_map",
            "data.representation.resolution_px=6",
            "data.representation.yaws=[0.3,-0.3]",
        ),
        *("model/backbone=mean_pool", "transform=nearness", "transform.far=3.5", "loss.lambda_recon=0"),
        *("model.heads.trunk_hidden=[4,4]", "model.heads.trunk_out=4", "model.heads.head_hidden=[3,3]"),
        *("max_epochs=1", "device=cpu", "num_threads=1", "data.batch_size=8", f"out={tmp_path / 'reward'}"),
    ]
    done = run(train_command, *inputs, *anchors, *words)
    assert done.code == 0, done.err
    table, scores = tmp_path / "again.csv", tmp_path / "scores.csv"
    done = run(evaluate, f"reward={tmp_path / 'reward'}", f"out={table}", "device=cpu", *inputs, *anchors)
    assert done.code == 0, done.err
    assert table.read_text() == (tmp_path / "reward" / "final_metrics.csv").read_text()
    card = tmp_path / "reward" / "reward.yaml"
    whole = card.read_text()
    card.write_text(whole[: whole.index("metrics:")] + "metrics: []\n")  # a card without its table gets it back
    again = [f"reward={tmp_path / 'reward'}", f"out={table}", "device=cpu", "into_card=true", *inputs]
    done = run(evaluate, *again, *anchors[:2], "data.anchors.num_test=3")
    assert done.code == 1 and "evaluated on other pairs (data.anchors: the card has" in done.the_error()
    assert card.read_text() != whole
    done = run(evaluate, *again, *anchors)
    assert done.code == 0 and card.read_text() == whole, done.err
    generator = f"generator={data.generator}"
    done = run(score, f"reward={tmp_path / 'reward'}", generator, "num_seeds=2", f"out={scores}", "device=cpu")
    assert done.code == 0, done.err
    assert pd.read_csv(scores).reward.notna().all()


def test_parts_that_do_not_fit_are_named_together(toys, reward_config):
    config = reward_config(transform=NearnessConfig(), model=ModelConfig(MeanPoolConfig(), ScoreHeadsConfig()))
    assert faults_of(config) == [
        "transform: nearness reads maps, sigma_field is volume",
        "loss.lambda_recon: mean_pool reconstructs nothing; give 0",
    ]
    assert faults_of(reward_config(model=ModelConfig(MeanPoolConfig(), ScoreHeadsConfig())))[0] == (
        "model.backbone: mean_pool reads maps, normalise_sigma_self makes volume"
    )


def test_a_name_is_registered_once(toys):
    with pytest.raises(ValueError, match="backbone 'mean_pool' is registered twice"):
        backbone(MeanPoolConfig, input_kind="maps")(MeanPool)


def test_keys_of_earlier_command_lines(capsys):
    words = [
        *("data.rankings=a.csv", "data.generator=b", "data.slab.resolution=32", "data.slab.grid=exact"),
        *("data.slab_dir=c", "data.slab.truncation_cutoff=7", "model.backbone=sigma_unet3d"),
        *("model.sigma_unet3d.f_maps=[4,8]", "model.sigma_unet3d.num_groups=4"),
    ]
    cfg = compose_config("reward", RewardTrainConfig, words)
    assert (cfg.data.representation.resolution, cfg.data.representation.grid, cfg.data.store_dir) == (32, "exact", "c")
    assert cfg.data.sample.truncation_cutoff == 7
    assert list(cfg.model.backbone.f_maps) == [4, 8]
    notes = capsys.readouterr().err.splitlines()
    assert "note: write model.backbone. for model.sigma_unet3d." in notes
    assert len(notes) == 5


def test_what_a_bundle_decides_is_no_setting_of_its_evaluation():
    with pytest.raises(ConfigError, match=r"data\.representation: no such key; the keys here are anchors"):
        compose_config("reward_evaluate", EvaluateConfig, ["reward=a", "data.representation.resolution=32"])


@pytest.mark.parametrize("focal", [4.2647, 1.7])
@pytest.mark.parametrize("conditioning", ["generator", "published"])
@pytest.mark.parametrize("is_conditioned", [True, False])
def test_what_is_ranked_learnt_scored_and_tracked_is_one_shape(
    toy_networks, reward_config, focal, conditioning, is_conditioned
):
    """The same tensor for a seed wherever it is asked for: canonical camera, constant noise, as the bundle says."""
    from eg3d.finetuning.config import RewardTermConfig, TrackingConfig
    from eg3d.finetuning.objective import reward_scores
    from eg3d.samples import seed_latents
    from reward_model_training.bundle import BundledReward
    from reward_model_training.card import RewardCard
    from reward_model_training.data.representation_store import RepresentationStore, SampleKey
    from reward_model_training.models import build_model
    from reward_model_training.preferences.simulated_rankings import RankConfig, score_seed

    G, config = load_generator(toy_networks), reward_config()
    G.cfg = dataclasses.replace(
        G.cfg, camera=dataclasses.replace(G.cfg.camera, focal=focal), condition_on_camera=is_conditioned
    )
    sample, slab = SampleConfig(conditioning=conditioning), config.data.representation
    torch.manual_seed(0)
    reward = BundledReward(build_model(config.model), RewardCard(config.model, slab, sample))

    class Annotator:
        def judge(self, volume, frame):
            self.shown = volume

    ranked = Annotator()
    score_seed([G], 7, RankConfig(slab=slab, sample=sample), ranked)  # type: ignore[arg-type]
    store = RepresentationStore(
        lambda seed, cfg: slab.extract(G, sample_seeds(G, [seed], cfg))[0].detach(), slab, sample, source="a"
    )
    torch.testing.assert_close(store.get(SampleKey(7, 1.0)), ranked.shown.half(), rtol=0, atol=0)
    wanted = reward(ranked.shown[None])
    tracked = score_seeds(G, reward, [7], TrackingConfig())
    scored = score_seeds(G, reward, [7], reward.sample, batch=1)
    with torch.no_grad():
        tuned = reward_scores(G, reward, seed_latents(G, [7]), RewardTermConfig())
    for found in (tracked, scored, tuned):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
