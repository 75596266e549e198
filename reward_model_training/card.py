"""What a reward bundle says about itself: `reward.yaml`, plain data that is read without running or importing anything.

    format          reward-bundle-2
    model           backbone (its name and settings) and heads
    representation  what the reward reads (its name and settings)
    sample          psi, truncation_cutoff, conditioning, camera_factor of the shapes it was trained on
    transform       what the network is shown of a representation (its name and settings)
    weights_sha256  of the weights beside it
    provenance      generator and rankings (names and SHA-256, who ranked), settings of the training
    metrics         rows of the accuracy table

Cards of format 1 are read as well: `translated` says the same in today's keys. The card of an ensemble has its own
format; its weights are those of all members, the names of number i behind `i.`:

    format          reward-ensemble-1
    bound           k: the reward is the members' mean minus k standard deviations between them; 0 = the mean
    representation, sample, weights_sha256, provenance, metrics   as above
    members         of each: name, weights_sha256 and card_sha256 of the bundle that it was, and that card's model,
                    transform, provenance and metrics
"""

from __future__ import annotations

import dataclasses
import math
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
EARLIER_FORMAT, ENSEMBLE_FORMAT = "reward-bundle-1", "reward-ensemble-1"
_KEYS = ("format", "model", "representation", "sample", "transform", "weights_sha256", "provenance", "metrics")
_REQUIRED = _KEYS[:6]
_ENSEMBLE_KEYS = ("format", "bound", "representation", "sample", "members", "weights_sha256", "provenance", "metrics")
_MEMBER_KEYS = ("name", "weights_sha256", "card_sha256", "model", "transform", "provenance", "metrics")
MOST_MEMBERS = 64


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


@dataclass(frozen=True)
class Member:
    """One reward of an ensemble, and the bundle that it was."""

    name: str
    weights_sha256: str
    card_sha256: str
    card: RewardCard


@dataclass
class EnsembleCard(RewardCard):
    """What an ensemble says about itself; `model` and `transform` are those of its first member."""

    members: list[Member] = field(default_factory=list)
    bound: float = 0.0  # standard deviations between members that the reward lies below their mean

    def validate(self) -> list[str]:
        """Faults of the ensemble; those of its members' cards are found as they are read."""
        faults = [] if self.bound >= 0 else [f"bound: must be 0 or more, got {self.bound}"]
        if not 2 <= len(self.members) <= MOST_MEMBERS:
            faults.append(f"members: expected 2 to {MOST_MEMBERS}, got {len(self.members)}")
        for name in ("representation", "sample"):
            one, *others = (getattr(member.card, name) for member in self.members[:1] + self.members)
            differing = [m.name for m, other in zip(self.members, others, strict=True) if other != one]
            if differing:
                faults.append(f"members: {', '.join(differing)} has another {name} than {self.members[0].name}")
        return faults


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
    data = _ensemble_data(card, weights_sha256) if isinstance(card, EnsembleCard) else _data(card, weights_sha256)
    write_text(path, yaml.safe_dump(data, sort_keys=False, width=110))


def _data(card: RewardCard, weights_sha256: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **{
            name: dataclasses.asdict(getattr(card, name)) for name in ("model", "representation", "sample", "transform")
        },
        "weights_sha256": weights_sha256,
        "provenance": card.provenance,
        "metrics": card.metrics,
    }


def _ensemble_data(card: EnsembleCard, weights_sha256: str) -> dict[str, Any]:
    whole = {"bound": card.bound, **_data(card, weights_sha256), "format": ENSEMBLE_FORMAT}
    members = []
    for member in card.members:
        own = {**_data(member.card, member.weights_sha256), "name": member.name, "card_sha256": member.card_sha256}
        members.append({key: own[key] for key in _MEMBER_KEYS})
    return {key: members if key == "members" else whole[key] for key in _ENSEMBLE_KEYS}


def read_card(path: str | Path) -> tuple[RewardCard, str]:
    """Card and weights digest of a `reward.yaml`. Raises ValueError, one line, for anything that is not one."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not plain YAML data ({one_line(error)})") from None
    refuse_code(data, str(path))
    found = data.get("format") if isinstance(data, Mapping) else type(data).__name__
    if found not in (FORMAT, EARLIER_FORMAT, ENSEMBLE_FORMAT):
        raise ValueError(f"{path}: expected format {FORMAT!r}, found {found!r}")
    if found == ENSEMBLE_FORMAT:
        return _ensemble_card(data, str(path)), str(data["weights_sha256"])
    try:
        data = translated(data) if found == EARLIER_FORMAT else data
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a whole card of format {EARLIER_FORMAT!r} ({error!r})") from None
    _check_keys(data, str(path), required=_REQUIRED, known=_KEYS)
    return _card(data, str(path)), str(data["weights_sha256"])


def _check_keys(data: Mapping[str, Any], source: str, *, required: tuple[str, ...], known: tuple[str, ...]) -> None:
    missing = [key for key in required if key not in data]
    unknown = [str(key) for key in data if key not in known]
    if missing or unknown:
        raise ValueError(
            f"{source}: missing keys: {', '.join(missing) or 'none'}; unknown keys: {', '.join(unknown) or 'none'}"
        )


def _ensemble_card(data: Mapping[str, Any], source: str) -> EnsembleCard:
    """The card of an ensemble; everything in it and in its members is checked."""
    _check_keys(data, source, required=_ENSEMBLE_KEYS[:6], known=_ENSEMBLE_KEYS)
    given, bound = data["members"], data["bound"]
    if not isinstance(given, list) or not all(isinstance(member, Mapping) for member in given):
        raise ValueError(f"{source}: members must be a list of tables")
    if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not math.isfinite(bound):
        raise ValueError(f"{source}: bound must be a finite number, found {bound!r}")
    members = []
    for number, values in enumerate(given):
        where = f"{source}, members, {number}"
        _check_keys(values, where, required=_MEMBER_KEYS[:5], known=_MEMBER_KEYS)
        name, weights, card = (values[key] for key in ("name", "weights_sha256", "card_sha256"))
        if not all(isinstance(text, str) for text in (name, weights, card)):
            raise ValueError(f"{where}: name, weights_sha256 and card_sha256 must be texts")
        own = {key: values[key] for key in ("model", "transform", "provenance", "metrics") if key in values}
        shared = {key: data[key] for key in ("representation", "sample")}
        members.append(Member(name, weights, card, _card({**own, **shared}, where)))
    if not members:
        raise ValueError(f"{source}: members: expected 2 to {MOST_MEMBERS}, got 0")
    first = {name: getattr(members[0].card, name) for name in ("model", "transform", "representation", "sample")}
    about = {key: data[key] for key in ("provenance", "metrics") if key in data}
    plain = _card({**_data(members[0].card, ""), "provenance": {}, "metrics": [], **about}, source)
    ensemble = EnsembleCard(
        **first, provenance=plain.provenance, metrics=plain.metrics, members=members, bound=float(bound)
    )
    if faults := ensemble.validate():
        raise ValueError(f"{source}: {'; '.join(faults)}")
    return ensemble


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
