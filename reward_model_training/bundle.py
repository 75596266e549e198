"""A trained reward as two files that load alone: `reward.safetensors` (weights) and `reward.yaml` (its card).

Nothing in either file is executed or imported: backbone, representation and transform are looked up by name in the
tables of this program, and every tensor's name and shape is checked. An ensemble is the same two files (ensemble.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eg3d.checkpoints.manifest import resolve
from eg3d.checkpoints.store import fill_module
from eg3d.file_hash import sha256_of
from eg3d.representations.protocol import Representation
from eg3d.safe_write import atomic_path
from eg3d.samples import SampleConfig
from reward_model_training.card import EnsembleCard, RewardCard, read_card, write_card
from reward_model_training.data.transforms import to_network_input
from reward_model_training.models import RewardModel, build_model

WEIGHTS_FILE, CARD_FILE = "reward.safetensors", "reward.yaml"


class BundledReward(nn.Module):
    """A frozen reward: a representation to scores. Differentiable in the representation, not in the weights."""

    representation: Representation  # what `forward` reads
    sample: SampleConfig  # how the samples that it was learnt from were made

    def __init__(self, model: RewardModel, card: RewardCard) -> None:
        super().__init__()
        self.representation, self.sample = card.representation, card.sample
        self.model, self.card = model.requires_grad_(False).eval(), card
        self.training = False

    def train(self, mode: bool = True) -> BundledReward:
        return super().train(False)

    def features(self, x: Tensor) -> Tensor:
        """x [N, ...], a representation as extracted -> shared embedding [N, D]. Raises ValueError for another rank."""
        return self.model.trunk(self.model.encode(to_network_input(x, self.card.transform)).feature)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, ...], a representation as extracted -> rewards [N] of the scalar head, higher = better."""
        return self.model.scalar(self.features(x))


def save_reward(folder: str | Path, model: RewardModel, card: RewardCard) -> Path:
    """Write the two files of a bundle, weights first; returns the folder."""
    folder = Path(folder)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}, temporary)
    write_card(folder / CARD_FILE, card, weights_sha256=sha256_of(folder / WEIGHTS_FILE))
    return folder


def replace_metrics(path: str | Path, metrics: list[dict[str, Any]], *, evaluated_on: Mapping[str, str]) -> Path:
    """Put other rows of the accuracy table into the card of a bundle, given as for load_reward; returns the card.

    evaluated_on: name and SHA-256 of the rankings that they are of, where those are not the card's own.
    """
    _, path = bundle_files(path)
    card, digest = read_card(path)
    provenance = {**card.provenance, **({"evaluated_on": dict(evaluated_on)} if evaluated_on else {})}
    write_card(path, replace(card, metrics=metrics, provenance=provenance), weights_sha256=digest)
    return path


def load_reward(path: str | Path, device: str | torch.device = "cpu") -> BundledReward:
    """A bundle, or an ensemble of them, from its folder, one of its files, or a name in checkpoints/manifest.json.

    Raises FileNotFoundError or ValueError, one line each, for anything missing, unknown, mis-shaped or not finite.
    """
    weights, card_path = bundle_files(path)
    card, digest = read_card(card_path)
    if sha256_of(weights) != digest:
        raise ValueError(
            f"{weights} is not the file that {card_path.name} describes (SHA-256 differs); copy both again"
        )
    if isinstance(card, EnsembleCard):
        from reward_model_training.ensemble import ensemble_of

        return ensemble_of(card, read_weights(weights), str(weights)).to(device)
    model = build_model(card.model)
    fill_module(model, read_weights(weights), str(weights))
    return BundledReward(model, card).to(device)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """State dict in a .safetensors file, all float32 and finite. Raises ValueError for another file, type or value."""
    try:
        tensors = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    others = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype != torch.float32]
    if others:
        raise ValueError(f"{path}: expected float32 tensors, found {', '.join(others[:3])}")
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"{path}: {', '.join(broken[:3])} hold values that are not finite; train the reward again")
    return tensors


def bundle_files(path: str | Path) -> tuple[Path, Path]:
    """Weights and card of a bundle, given as for load_reward. Raises FileNotFoundError where one is missing."""
    path = Path(path)
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        path = resolve(path)
    folder = path if path.is_dir() else path.parent
    missing = [name for name in (WEIGHTS_FILE, CARD_FILE) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"no reward bundle at {path}: {' and '.join(missing)} missing; "
            "make one with python -m reward_model_training.train"
        )
    return folder / WEIGHTS_FILE, folder / CARD_FILE
