"""A toy generator, simulated rankings of its seeds, and a reward run of a few seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eg3d.representations.sigma_field import SigmaField
from reward_model_training.data.dataset import DataConfig
from reward_model_training.losses import RewardLossConfig
from reward_model_training.models import ModelConfig
from reward_model_training.models.backbones.sigma_unet3d import SigmaUNetConfig
from reward_model_training.models.heads import ScoreHeadsConfig
from reward_model_training.optimiser import OptimiserConfig
from reward_model_training.preferences.anchors import AnchorConfig
from reward_model_training.preferences.rankings import Ranking, write_rankings
from reward_model_training.train import RewardTrainConfig

SLAB = SigmaField(resolution=12, grid="exact")
MODEL = ModelConfig(
    backbone=SigmaUNetConfig(f_maps=[2, 4], num_groups=2, final_size_out=8), heads=ScoreHeadsConfig([4, 4], 4, [3, 3])
)


@pytest.fixture(scope="session")
def rankings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rankings of three seeds; beside them the noise-free scores, which disagree with a few."""
    folder = tmp_path_factory.mktemp("rankings")
    rng = np.random.RandomState(0)
    rows = [Ranking(n, tuple(int(s) for s in 100 + 3 * n + rng.permutation(3)), "simulated") for n in range(20)]
    write_rankings(folder / "rankings.csv", rows)
    lines = ["seed,roughness,stray,holes,score,relief,asymmetry"]
    for row in rows:
        first = 7 if row.batch % 5 == 0 else 10  # every fifth first place is undeserved
        lines += [f"{s},0,0,0,{score},0,0" for s, score in zip(row.seeds, (first, 9, 8), strict=True)]
    (folder / "scores.csv").write_text("\n".join(lines) + "\n")
    return folder / "rankings.csv"


@pytest.fixture(scope="session")
def store_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One disk cache of representations for all tests."""
    return tmp_path_factory.mktemp("representations")


@pytest.fixture
def reward_config(
    tmp_path: Path, rankings: Path, toy_networks: Path, store_dir: Path
) -> Callable[..., RewardTrainConfig]:
    """Makes a config of 4 steps an epoch, 3 epochs."""

    def make(**changes: Any) -> RewardTrainConfig:
        config = RewardTrainConfig(
            out=str(tmp_path / "run"),
            data=DataConfig(
                rankings=str(rankings),
                generator=str(toy_networks),
                representation=SLAB,
                anchors=AnchorConfig(num_train=4, num_val=2, num_test=2),
                anchor_probability=0.5,
                reduction="all",
                storage="disk",
                store_dir=str(store_dir),
                batch_size=4,
                eval_batch_size=2,
            ),
            model=MODEL,
            loss=RewardLossConfig(lambda_scalar_rwd=1.0, single_order_from_epoch=1),
            optimiser=OptimiserConfig(lr=1e-2, items_at_once=5),
            max_epochs=3,
            device="cpu",
            num_threads=1,
            state_every_n_steps=1,
            shows_progress=False,
        )
        return dataclasses.replace(config, **changes)

    return make
