"""What a reward bundle says about itself: `reward.yaml`, plain data that is read without running or importing anything.

    format          reward-bundle-2
    model           backbone (its name and settings) and heads
    representation  what the reward reads (its name and settings)
    sample          psi, truncation_cutoff, conditioning, camera_factor of the shapes it was trained on
    transform       what the network is shown of a representation (its name and settings)
    weights_sha256  of the weights beside it
    provenance      generator and rankings (names and SHA-256, who ranked), settings of the training
    metrics         rows of the accuracy table

Cards of format 1 are read as well: `translated` says the same in today's keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from eg3d.checkpoints.plain_configs import config_from_data
from eg3d.config_checks import faults_of
from eg3d.one_line import one_line
from eg3d.plain_data import refuse_code
from eg3d.representations.protocol import Representation
from eg3d.representations.sigma_field import SigmaField
from eg3d.safe_write import write_text
from eg3d.samples import AUTO, SampleConfig
from reward_model_training.data.transforms import TRANSFORMS, NormaliseSigmaSelfConfig, TransformConfig
from reward_model_training.models import ModelConfig
from reward_model_training.models.backbones.registry import BackboneConfig, backbones

FORMAT = "reward-bundle-2"
EARLIER_FORMAT = "reward-bundle-1"
_KEYS = ("format", "model", "representation", "sample", "transform", "weights_sha256", "provenance", "metrics")
_REQUIRED = _KEYS[:6]


@dataclass
class RewardCard:
    """What a bundle says about itself, but for the hash of its weights."""

    model: ModelConfig = field(default_factory=ModelConfig)
    representation: Representation = field(default_factory=SigmaField)
    sample: SampleConfig = field(default_factory=lambda: SampleConfig(conditioning="generator"))
    transform: TransformConfig = field(default_factory=NormaliseSigmaSelfConfig)
    provenance: dict[str, Any] = field(default_factory=dict)  # generator, rankings, training
    metrics: list[dict[str, Any]] = field(default_factory=list)  # rows of the accuracy table

    def validate(self) -> list[str]:
        """Faults of this card itself; those of its parts are theirs."""
        is_open = self.sample.conditioning == AUTO
        faults = [f"sample.conditioning: a bundle says whose camera, not {AUTO!r}"] if is_open else []
        return faults + misfits(self.representation, self.transform, self.model.backbone)


def misfits(representation: Representation, transform: TransformConfig, backbone: BackboneConfig) -> list[str]:
    """Faults of parts that do not fit together, one line each; parts of unknown names have their own faults."""
    makes, reads = TRANSFORMS.get(transform.name), backbones().get(backbone.name)
    if makes is None or reads is None:
        return []
    faults, given, made = [], representation.input_kind, makes.input_kind
    if made != given:
        faults.append(f"transform: {transform.name} reads {made}, {representation.name} is {given}")
    if reads.input_kind != made:
        faults.append(f"model.backbone: {backbone.name} reads {reads.input_kind}, {transform.name} makes {made}")
    return faults


def write_card(path: str | Path, card: RewardCard, *, weights_sha256: str) -> None:
    """Write a `reward.yaml`, atomically."""
    data = {
        "format": FORMAT,
        **{
            name: dataclasses.asdict(getattr(card, name)) for name in ("model", "representation", "sample", "transform")
        },
        "weights_sha256": weights_sha256,
        "provenance": card.provenance,
        "metrics": card.metrics,
    }
    write_text(path, yaml.safe_dump(data, sort_keys=False, width=110))


def read_card(path: str | Path) -> tuple[RewardCard, str]:
    """Card and weights digest of a `reward.yaml`. Raises ValueError, one line, for anything that is not one."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not plain YAML data ({one_line(error)})") from None
    refuse_code(data, str(path))
    found = data.get("format") if isinstance(data, Mapping) else type(data).__name__
    if found not in (FORMAT, EARLIER_FORMAT):
        raise ValueError(f"{path}: expected format {FORMAT!r}, found {found!r}")
    try:
        data = translated(data) if found == EARLIER_FORMAT else data
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a whole card of format {EARLIER_FORMAT!r} ({error!r})") from None
    missing = [key for key in _REQUIRED if key not in data]
    unknown = [str(key) for key in data if key not in _KEYS]
    if missing or unknown:
        raise ValueError(
            f"{path}: missing keys: {', '.join(missing) or 'none'}; unknown keys: {', '.join(unknown) or 'none'}"
        )
    return _card(data, str(path)), str(data["weights_sha256"])


def translated(data: Mapping[str, Any]) -> dict[str, Any]:
    """A card of format 1 in today's keys.

    Its slabs were made with the published camera, whatever the generator's own, and truncated in the backbone layers
    that `slab` named.
    """
    model, slab = data["model"], dict(data["slab"])
    sample = {name: slab.pop(name) for name in ("psi", "truncation_cutoff") if name in slab}
    if sample.get("truncation_cutoff") == -1:  # another word for all layers
        sample["truncation_cutoff"] = None
    backbone = {"name": model["backbone"], **model[model["backbone"]]}
    return {
        "format": FORMAT,
        "model": {"backbone": backbone, "heads": model["heads"]},
        "representation": {"name": "sigma_field", **slab},
        "sample": {**sample, "conditioning": "published", "camera_factor": 1.0},
        "transform": data["normalisation"],
        "weights_sha256": data["weights_sha256"],
        "provenance": {name: data[name] for name in ("generator", "rankings", "training") if name in data},
        "metrics": data.get("metrics", []),
    }


def _card(data: Mapping[str, Any], source: str) -> RewardCard:
    """The card of data with the right keys; everything in them is checked."""
    values = {key: value for key, value in data.items() if key not in ("format", "weights_sha256")}
    try:
        card = config_from_data(RewardCard, values, source)
        faults = faults_of(card)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{source}: a value has the wrong type ({error})") from None
    if faults:
        raise ValueError(f"{source}: {'; '.join(faults)}")
    return card
