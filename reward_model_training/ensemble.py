"""Several rewards as one: python -m reward_model_training.ensemble members=[runs/a,runs/b,runs/c] out=runs/ensemble.

What one member can be flattered by, the others need not be: their mean, or a bound below it, is harder to fool. Train
the members by `--multirun seed=1,2,3`; the result is a bundle like any other (reward.safetensors, reward.yaml), which
names its members with their SHA-256. Letters: E members, N items, P pairs, D embedding width of all members together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from eg3d.checkpoints.store import fill_module
from eg3d.file_hash import sha256_of
from eg3d.hydra_command import hydra_command
from eg3d.safe_write import atomic_path
from reward_model_training.bundle import (
    CARD_FILE,
    WEIGHTS_FILE,
    BundledReward,
    bundle_files,
    load_reward,
    read_weights,
)
from reward_model_training.card import EnsembleCard, Member, read_card, write_card
from reward_model_training.models import build_model

if TYPE_CHECKING:
    from reward_model_training.models import RewardModel

TINY = 1e-12  # under the root of a variance, whose slope at 0 is infinite


def lower_bound(scores: Tensor, bound: float) -> Tensor:
    """Mean minus `bound` standard deviations of scores [E, N] over members (divisor E - 1), [N]; differentiable."""
    mean = scores.mean(0)
    return mean - bound * (scores.var(0) + TINY).sqrt() if bound else mean


class EnsembleHeads(nn.Module):
    """The heads of all members on their embeddings side by side, [N, D]: `scalar` gives the ensemble's reward [N],
    `bt` the mean log strength [N], `pairs` logits [P, 2] of the mean probability."""

    def __init__(self, models: Sequence[RewardModel], bound: float) -> None:
        super().__init__()
        self.models, self.bound = nn.ModuleList(models), bound
        self.widths = [model.cfg.heads.trunk_out for model in models]

    def _each(self, name: str, *features: Tensor) -> Tensor:
        parts = zip(*(feature.split(self.widths, -1) for feature in features), strict=True)
        return torch.stack([getattr(m, name)(*part) for m, part in zip(self.models, parts, strict=True)])

    def scalar(self, f: Tensor) -> Tensor:
        return lower_bound(self._each("scalar", f), self.bound)

    def bt(self, f: Tensor) -> Tensor:
        return self._each("bt", f).mean(0)

    def pairs(self, f_i: Tensor, f_j: Tensor) -> Tensor:
        return self._each("pairs", f_i, f_j).softmax(-1).mean(0).clamp(min=TINY).log()


class EnsembleReward(BundledReward):
    """A frozen ensemble: a representation to scores. Differentiable in the representation, not in the weights."""

    def __init__(self, members: Sequence[BundledReward], card: EnsembleCard) -> None:
        heads = EnsembleHeads([member.model for member in members], card.bound)
        super().__init__(heads, card)  # type: ignore[arg-type]
        self.members = nn.ModuleList(members)

    def scores(self, x: Tensor) -> Tensor:
        """x [N, ...], a representation as extracted -> rewards [E, N] by each member."""
        return torch.stack([member(x) for member in self.members])

    def features(self, x: Tensor) -> Tensor:
        """x [N, ...], a representation as extracted -> embeddings of all members side by side [N, D]."""
        return torch.cat([member.features(x) for member in self.members], -1)  # type: ignore[operator]


def ensemble_of(card: EnsembleCard, tensors: Mapping[str, Tensor], source: str) -> EnsembleReward:
    """The ensemble of a card with its weights (any shapes [...]), the names of member i behind `i.`.

    Raises ValueError, in one line, for tensors that do not fit.
    """
    members, known = [], [f"{number}." for number in range(len(card.members))]
    strays = [name for name in tensors if not name.startswith(tuple(known))]
    if strays:
        raise ValueError(f"{source}: {strays[0]} belongs to none of {len(known)} members")
    for start, member in zip(known, card.members, strict=True):
        model = build_model(member.card.model)
        own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        fill_module(model, own, f"{source}, member {member.name}")
        members.append(BundledReward(model, member.card))
    return EnsembleReward(members, card)


@dataclass
class EnsembleConfig:
    """Which rewards, and how they become one."""

    members: list[str] = field(default_factory=list)  # bundle folders, or names in checkpoints/manifest.json
    out: str = "runs/ensemble"  # folder of the bundle
    bound: float = 0.0  # standard deviations below the mean of the members; 0 = their mean

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = [] if self.bound >= 0 else [f"bound: must be 0 or more, got {self.bound}"]
        if len(self.members) < 2:
            faults.append(f"members: give two bundles or more, got {len(self.members)}")
        return faults


def assemble(cfg: EnsembleConfig) -> Path:
    """Write the bundle of an ensemble into `cfg.out`; returns the folder.

    Raises ValueError or FileNotFoundError, in one line, for a member that is no bundle, is there twice or is itself an
    ensemble, and for members that read different representations or samples.
    """
    members: list[Member] = []
    tensors: dict[str, Tensor] = {}
    for number, path in enumerate(cfg.members):
        load_reward(path)  # checks all of it
        weights, card_path = bundle_files(path)
        card, digest = read_card(card_path)
        if isinstance(card, EnsembleCard):
            raise ValueError(f"members: {path} is an ensemble itself; give the bundles that it was made of")
        if digest in [member.weights_sha256 for member in members]:
            raise ValueError(f"members: {path} has the weights of a member before it; give other rewards")
        members.append(Member(weights.parent.name, digest, sha256_of(card_path), card))
        tensors |= {f"{number}.{name}": tensor for name, tensor in read_weights(weights).items()}
    first = members[0].card
    shared = _in_common([member.card.provenance for member in members])
    card = EnsembleCard(
        first.model, first.representation, first.sample, first.transform, shared, [], members, float(cfg.bound)
    )
    if faults := card.validate():
        raise ValueError("; ".join(faults))
    folder = Path(cfg.out)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary)
    write_card(folder / CARD_FILE, card, weights_sha256=sha256_of(folder / WEIGHTS_FILE))
    return folder


def _in_common(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What nested tables say alike."""
    first, *others = tables
    found: dict[str, Any] = {}
    for key, value in first.items():
        values = [other.get(key) for other in others]
        if isinstance(value, Mapping) and all(isinstance(each, Mapping) for each in values):
            found[key] = _in_common([value, *values])  # type: ignore[list-item]
        elif all(each == value for each in values):
            found[key] = value
    return found


@hydra_command(config_name="reward_ensemble", schema=EnsembleConfig)
def main(cfg: EnsembleConfig) -> None:
    """Make one reward of several: their mean, or a bound below it."""
    folder = assemble(cfg)
    below = f"mean minus {cfg.bound:g} standard deviations" if cfg.bound else "mean"
    print(f"reward: {folder}, the {below} of {len(cfg.members)} members")


if __name__ == "__main__":
    main()
