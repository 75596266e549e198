"""A trained reward as two files that load alone: `reward.safetensors` (weights) and `reward.yaml` (plain data).

`reward.yaml` holds format, model sizes, slab (grid and crop), normalisation, the generator and rankings behind
the training (names and SHA-256), who ranked, training settings and metrics. Nothing in either file is executed
or imported: the backbone's name is looked up in a fixed list, and every tensor's name and shape is checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eg3d.checkpoints.manifest import resolve
from eg3d.checkpoints.store import config_from_data, load_state
from eg3d.config_checks import faults_of
from eg3d.file_hash import sha256_of
from eg3d.representations.sigma_field import SigmaFieldConfig, normalise_sigma_self, to_network_axes
from eg3d.safe_write import atomic_path, write_text
from reward_model_training.models import ModelConfig, SigmaRewardModel, build_model

FORMAT = "reward-bundle-1"
WEIGHTS_FILE, CARD_FILE = "reward.safetensors", "reward.yaml"
NORMALISATION = "normalise_sigma_self"
_KEYS = ("format", "model", "slab", "normalisation", "weights_sha256", "generator", "rankings", "training", "metrics")
_REQUIRED = _KEYS[:5]


@dataclass
class Normalisation:
    """Each slab is scaled so that its own minimum and maximum become `low` and `high`."""

    name: str = NORMALISATION
    low: float = 0.0
    high: float = 100.0

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = [] if self.name == NORMALISATION else [f"name: {self.name!r} is not {NORMALISATION}"]
        numbers = all(isinstance(v, (int, float)) for v in (self.low, self.high))
        return faults if numbers and self.low < self.high else [*faults, "low must be a number below high"]


@dataclass
class RewardCard:
    """What a bundle says about itself."""

    model: ModelConfig = field(default_factory=ModelConfig)
    slab: SigmaFieldConfig = field(default_factory=SigmaFieldConfig)
    normalisation: Normalisation = field(default_factory=Normalisation)
    generator: dict[str, Any] = field(default_factory=dict)  # name, sha256
    rankings: dict[str, Any] = field(default_factory=dict)  # name, sha256, num_rankings, annotator
    training: dict[str, Any] = field(default_factory=dict)  # settings
    metrics: list[dict[str, Any]] = field(default_factory=list)  # rows of the accuracy table


class Reward(nn.Module):
    """A frozen reward: raw density of `slab` to scores. Differentiable in the density, not in the weights."""

    def __init__(self, model: SigmaRewardModel, card: RewardCard) -> None:
        super().__init__()
        self.model, self.card = model.requires_grad_(False).eval(), card
        self.training = False

    @property
    def slab(self) -> SigmaFieldConfig:
        """The slab that `forward` reads."""
        return self.card.slab

    def train(self, mode: bool = True) -> Reward:
        return super().train(False)

    def features(self, slab: Tensor) -> Tensor:
        """slab [N, X, Y, Z], raw density -> shared embedding [N, D]. Raises ValueError for another rank."""
        scale = self.card.normalisation
        x = to_network_axes(normalise_sigma_self(slab.float(), scale.low, scale.high))
        return self.model.trunk(self.model.encode(x)[0])

    def forward(self, slab: Tensor) -> Tensor:
        """slab [N, X, Y, Z], raw density -> rewards [N] of the scalar head, higher = better."""
        return self.model.scalar(self.features(slab))


def save_reward(folder: str | Path, model: SigmaRewardModel, card: RewardCard) -> Path:
    """Write the two files of a bundle, weights first; returns the folder."""
    folder = Path(folder)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}, temporary)
    data = {
        "format": FORMAT,
        **{name: dataclasses.asdict(getattr(card, name)) for name in ("model", "slab", "normalisation")},
        "weights_sha256": sha256_of(folder / WEIGHTS_FILE),
        **{name: getattr(card, name) for name in ("generator", "rankings", "training", "metrics")},
    }
    write_text(folder / CARD_FILE, yaml.safe_dump(data, sort_keys=False, width=110))
    return folder


def load_reward(path: str | Path, device: str | torch.device = "cpu") -> Reward:
    """A bundle from its folder, one of its files, or a name in checkpoints/manifest.json.

    Raises FileNotFoundError or ValueError, one line each, for anything missing, unknown or mis-shaped.
    """
    weights, card_path = _files(path)
    card, digest = read_card(card_path)
    if sha256_of(weights) != digest:
        raise ValueError(
            f"{weights} is not the file that {card_path.name} describes (SHA-256 differs); copy both again"
        )
    try:
        model = build_model(card.model)
    except ValueError as error:
        raise ValueError(f"{card_path}: {error}") from None
    load_state(model, read_weights(weights), str(weights))
    return Reward(model, card).to(device)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, all float32. Raises ValueError for another file or type."""
    try:
        tensors = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    others = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype != torch.float32]
    if others:
        raise ValueError(f"{path}: expected float32 tensors, found {', '.join(others[:3])}")
    return tensors


def read_card(path: str | Path) -> tuple[RewardCard, str]:
    """Card and weights digest of a `reward.yaml`, read as plain data."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not plain YAML data ({' '.join(str(error).split())})") from None
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, Mapping) else type(data).__name__
        raise ValueError(f"{path}: expected format {FORMAT!r}, found {found!r}")
    missing = [key for key in _REQUIRED if key not in data]
    unknown = [str(key) for key in data if key not in _KEYS]
    if missing or unknown:
        raise ValueError(
            f"{path}: missing keys: {', '.join(missing) or 'none'}; unknown keys: {', '.join(unknown) or 'none'}"
        )
    values = {key: value for key, value in data.items() if key not in ("format", "weights_sha256")}
    try:
        card = config_from_data(RewardCard, values, str(path))
        _check_types(card, RewardCard(), str(path))
        faults = faults_of(card)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path}: a value has the wrong type ({error})") from None
    if faults:
        raise ValueError(f"{path}: {'; '.join(faults)}")
    return card, str(data["weights_sha256"])


def _check_types(value: Any, example: Any, where: str) -> None:
    """Every field of `value` must have the type of the same field in `example`; nested ones too."""
    for f in dataclasses.fields(example):
        given, default = getattr(value, f.name), getattr(example, f.name)
        allowed: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
        if f.name == "truncation_cutoff":
            allowed += (type(None),)
        is_number_as_flag = isinstance(given, bool) and bool not in allowed
        if not isinstance(given, allowed) or is_number_as_flag:
            raise ValueError(f"{where}: {f.name} must be {allowed[0].__name__}, found {given!r}")
        if dataclasses.is_dataclass(default):
            _check_types(given, default, f"{where}, {f.name}")
        elif (
            isinstance(default, list)
            and default
            and {type(item) for item in getattr(value, f.name)} - {type(default[0])}
        ):
            raise ValueError(f"{where}: {f.name} must hold {type(default[0]).__name__} values, found {given!r}")


def _files(path: str | Path) -> tuple[Path, Path]:
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
