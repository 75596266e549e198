"""Train a reward model from rankings: python -m reward_model_training.train experiment=reward_sigma64_twin ..."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eg3d.config_checks import one_of
from eg3d.hydra_command import hydra_command
from eg3d.samples import AUTO, SampleConfig
from reward_model_training.card import RewardCard, misfits
from reward_model_training.data.dataset import DataConfig, Splits, make_splits
from reward_model_training.data.made_pairs import MadePairsConfig
from reward_model_training.data.transforms import NormaliseSigmaSelfConfig, TransformConfig
from reward_model_training.losses import RewardLossConfig
from reward_model_training.models import ModelConfig
from reward_model_training.models.backbones.registry import backbones
from reward_model_training.optimiser import OptimiserConfig
from reward_model_training.preferences.rankings import read_rankings

if TYPE_CHECKING:
    from reward_model_training.bundle import BundledReward
    from reward_model_training.data.representation_store import RepresentationStore
    from reward_model_training.evaluate import Accuracy

MONITORS = ("pairs", "scalar")
METRICS_FILE = "final_metrics.csv"
CENTRED_ROWS = 200  # training rows whose mean score is put at 0
# Settings that may change when a stopped run continues: they do not touch the numbers of a step.
FREE = (
    *("out", "centre_scores", "max_epochs", "patience", "device", "num_threads", "state_every_n_steps"),
    *("shows_progress", "data.snapshots", "data.storage", "data.store_dir", "data.num_workers"),
)


@dataclass
class RewardTrainConfig:
    """One training run of a reward model; the defaults are the published density experiment."""

    out: str = "runs/reward"  # folder of the run; run again to continue
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    transform: TransformConfig = field(default_factory=NormaliseSigmaSelfConfig)
    loss: RewardLossConfig = field(default_factory=RewardLossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    max_epochs: int = 10
    patience: int = 3  # epochs without a better monitored loss before stopping
    monitor: str = "pairs"  # validation loss that picks the best epoch: pairs (published) or scalar
    centre_scores: bool = True  # shift the scalar head so that its training scores have mean 0; False = published
    seed: int = 42  # initial weights, order of rows, anchors
    state_every_n_steps: int = 200  # steps between states inside an epoch; 0 = after each epoch only
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    num_threads: int = 0  # CPU threads; 0 = as torch chooses
    shows_progress: bool = True
    accept_code_change: bool = False  # continue although the code is no longer the one that the run began with

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = one_of("monitor", self.monitor, MONITORS)
        faults += self.data.missing_inputs("data.")
        faults += misfits(self.data.representation, self.transform, self.model.backbone)
        entry = backbones().get(self.model.backbone.name)
        if entry is not None and not entry.reconstructs and self.loss.lambda_recon > 0:
            faults.append(f"loss.lambda_recon: {self.model.backbone.name} reconstructs nothing; give 0")
        for name in ("max_epochs", "patience"):
            if getattr(self, name) < 1:
                faults.append(f"{name}: must be at least 1, got {getattr(self, name)}")
        return faults


@dataclass(frozen=True)
class RewardRun:
    """What a finished run left."""

    folder: Path
    metrics_csv: Path
    table: list[Accuracy]
    end: str  # how the epochs ended


def train(cfg: RewardTrainConfig) -> RewardRun:
    """Train (or continue) in `cfg.out`, evaluate the best epoch and write the bundle there.

    Raises ValueError or FileNotFoundError (one line) for unusable inputs, or for a folder of another run.
    """

    import torch

    from eg3d.run_folder import RunFolder, choose_device
    from reward_model_training.fit import fit

    if cfg.num_threads:
        torch.set_num_threads(cfg.num_threads)
    rankings = read_rankings(cfg.data.rankings)
    splits = make_splits(rankings, cfg.data, seed=cfg.seed)
    cfg = replace(cfg, data=replace(cfg.data, sample=_ranked_samples(cfg.data.sample, splits.psi)))
    store = cfg.data.open_store(cfg.data.representation, cfg.data.sample, device=choose_device(cfg.device))
    annotators = ", ".join(sorted({ranking.annotator for ranking in rankings}))
    with RunFolder.claim(cfg.out, cfg, seed=cfg.seed, inputs=_inputs(cfg.data), free=FREE) as run:
        end = fit(cfg, splits, store, run.path)
        table = _finish(cfg, splits, store, run.path, annotators)
    return RewardRun(run.path, run.path / METRICS_FILE, table, end)


def _inputs(data: DataConfig) -> dict[str, Path | None]:
    """The files behind a run, by setting. The scores lie beside the rankings where none are named."""
    from eg3d.checkpoints.manifest import resolve

    rankings = Path(data.rankings)
    scores = Path(data.scores) if data.scores else rankings.with_name("scores.csv")
    generator = resolve(data.generator)
    inputs = {"data.rankings": rankings, "data.generator": generator}
    inputs |= {f"data.snapshots.{number}": resolve(path) for number, path in enumerate(data.snapshots)}
    return {**inputs, "data.scores": scores if scores.is_file() else None}


def _ranked_samples(sample: SampleConfig, psi: float) -> SampleConfig:
    """How the ranked samples were made: psi as their table says, and the camera by its name."""
    return replace(sample, psi=psi, conditioning="generator" if sample.conditioning == AUTO else sample.conditioning)


def _finish(
    cfg: RewardTrainConfig, splits: Splits, store: RepresentationStore, folder: Path, annotators: str
) -> list[Accuracy]:
    """Evaluate the best weights, write the table and the bundle; returns the table."""
    from eg3d.checkpoints.store import fill_module
    from eg3d.run_folder import choose_device
    from reward_model_training.bundle import BundledReward, save_reward
    from reward_model_training.evaluate import accuracy_table, read_scores, write_accuracy
    from reward_model_training.fit import BEST_FILE
    from reward_model_training.lightning_state import read_state
    from reward_model_training.models import build_model

    model, best = build_model(cfg.model), read_state(folder / BEST_FILE)
    tensors = {name.removeprefix("model."): value for name, value in best["state_dict"].items()}
    fill_module(model, tensors, str(folder / BEST_FILE))
    provenance = _provenance(cfg, splits, store, annotators)
    provenance["training"]["best_epoch"] = int(best["epoch"])
    card = RewardCard(cfg.model, cfg.data.representation, cfg.data.sample, cfg.transform, provenance)
    reward = BundledReward(model, card).to(choose_device(cfg.device))
    table = accuracy_table(
        reward,
        splits,
        store,
        seed=cfg.seed,
        scores=read_scores(cfg.data),
        items_at_once=cfg.optimiser.items_at_once,
    )
    card.metrics = [asdict(row) for row in table]
    if cfg.centre_scores:
        provenance["training"]["score_shift"] = centre_scores(reward, splits, store)
    write_accuracy(folder / METRICS_FILE, table)
    save_reward(folder, model, card)
    return table


def centre_scores(reward: BundledReward, splits: Splits, store: RepresentationStore) -> float:
    """Shift the scalar head so that the mean score of training samples is 0; returns the shift, in score units.

    Rankings fix scores up to a constant only, and fine-tuning clips the score to an interval around 0: an arbitrary
    constant can put every sample outside, where the gradient is 0. Uses the first CENTRED_ROWS training rows.
    """
    import torch

    keys = dict.fromkeys(item for row in splits.rows["train"][:CENTRED_ROWS] for item in row.items)
    device = next(reward.parameters()).device
    with torch.no_grad():
        scores = [reward(store.batch([key]).to(device)) for key in keys]
        shift = -float(torch.cat(scores).mean())
        reward.model.scalar_rwd_head.output_layer.bias.add_(shift)
    return shift


def _provenance(
    cfg: RewardTrainConfig, splits: Splits, store: RepresentationStore, annotators: str
) -> dict[str, dict[str, Any]]:
    """What a bundle says about its making: names and hashes, no paths of this machine."""
    from eg3d.file_hash import sha256_of
    from eg3d.run_folder import versions

    training = {name: asdict(getattr(cfg, name)) for name in ("loss", "optimiser")}
    training |= {name: getattr(cfg, name) for name in ("max_epochs", "patience", "monitor", "seed")}
    data = ("anchor_probability", "reduction", "proportion", "batch_size")
    training |= {name: getattr(cfg.data, name) for name in data}
    if cfg.data.made_pairs.is_on:
        training["made_pairs"] = _plain(cfg.data.made_pairs)
    return {
        "generator": {"name": Path(cfg.data.generator).name, "sha256": store.source},
        "rankings": {
            "name": Path(cfg.data.rankings).name,
            "sha256": sha256_of(cfg.data.rankings),
            "annotator": annotators,
            **{f"num_{split}": len(rows) for split, rows in splits.rows.items()},
        },
        "training": {**training, "anchors": asdict(cfg.data.anchors), "versions": versions()},
    }


def _plain(cfg: MadePairsConfig) -> dict[str, Any]:
    """Settings as YAML has them: no tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(cfg).items()}


@hydra_command(config_name="reward", schema=RewardTrainConfig)
def main(cfg: RewardTrainConfig) -> None:
    """Train a reward model from rankings; run it again after a stop and it continues where it was."""
    from reward_model_training.evaluate import table_text

    run = train(cfg)
    print(f"{table_text(run.table)}\nepochs:  {run.end}\nreward:  {run.folder}\nmetrics: {run.metrics_csv}")


if __name__ == "__main__":
    main()
