"""Which heads the model is learnt from: people of all ages, both ends of every change that moves a head, expressions.

All numbers come from one seed. Shape letters: N heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataset_preprocessing.human_heads.body import BodyInputs

ANCESTRIES = ("african", "asian", "caucasian")
# Share of heads, lowest and highest age; anny's anchors: -1/3 newborn, 0 one year, 1/3 child, 2/3 young, 1 old.
AGES = ((0.05, -1 / 3, 0.0), (0.13, 0.0, 1 / 3), (0.12, 1 / 3, 0.55), (0.70, 0.55, 1.0))
LEAST_EFFECT_MM = 0.1  # a local change that moves no vertex of the head by more is left out
EFFECT_MM = 2.2  # standard deviation of the largest shift that one local change makes
MOST_SPREAD = 0.28  # standard deviation of a local change that moves little; 1 is as far as MakeHuman goes
MOST_CHANGE = 1.0
ONE_SIDED = 0.15  # how much of a paired change is of one side alone; whole for what shifts a feature sideways
SIDEWAYS = ("nose-trans-out", "mouth-trans-out", "head-trans-out", "neck-trans-out", "head-angle-out")


@dataclass(frozen=True)
class Expression:
    """A face that people make: how often, and the actions with their strengths at its full amount."""

    share: float
    actions: Mapping[str, float]  # a name without a side stands for both sides


EXPRESSIONS = (
    Expression(0.35, {"mouthSmile": 0.9, "cheekSquint": 0.4, "eyeSquint": 0.25}),
    Expression(0.20, {"mouthSmile": 0.9, "cheekSquint": 0.6, "jawOpen": 0.25, "mouthUpperUp": 0.4, "eyeSquint": 0.3}),
    Expression(0.12, {"jawOpen": 0.6}),
    Expression(0.12, {"browInnerUp": 0.7, "browOuterUp": 0.7, "eyeWide": 0.5}),
    Expression(0.10, {"browDown": 0.8, "noseSneer": 0.3}),
    Expression(0.08, {"eyeBlink": 1.0}),
    Expression(0.06, {"mouthFrown": 0.7, "mouthShrugLower": 0.4}),
    Expression(0.06, {"mouthPucker": 0.7}),
    Expression(0.05, {"mouthFunnel": 0.6}),
    Expression(0.05, {"cheekPuff": 0.6}),
    Expression(0.05, {"mouthPress": 0.7, "mouthRollLower": 0.3}),
    Expression(0.04, {"mouthStretch": 0.6}),
    Expression(0.04, {"jawForward": 0.5}),
    Expression(0.03, {"mouthLeft": 0.5, "jawLeft": 0.3}),
    Expression(0.03, {"mouthRight": 0.5, "jawRight": 0.3}),
)
GAZES = (  # a quarter of all heads look up, down or aside a little
    ("eyeLookUpLeft", "eyeLookUpRight"),
    ("eyeLookDownLeft", "eyeLookDownRight"),
    ("eyeLookOutLeft", "eyeLookInRight"),
    ("eyeLookInLeft", "eyeLookOutRight"),
)


@dataclass(frozen=True)
class Effects:
    """Largest shift of a head's vertices, in mm, by each local change at 1 and at -1; similarity removed."""

    up: np.ndarray  # [L]
    down: np.ndarray  # [L]


def sample(labels: BodyLabels, effects: Effects, count: int, seed: int) -> BodyInputs:
    """Inputs of `count` bodies. Raises ValueError for labels that the body should have and has not."""
    rng = np.random.RandomState(seed)
    return BodyInputs(
        _phenotypes(labels.phenotypes, count, rng),
        _local_changes(labels.local_changes, effects, count, rng),
        _facial_actions(labels.facial_actions, count, rng),
    )


@dataclass(frozen=True)
class BodyLabels:
    """Names of a body's inputs, in their order."""

    phenotypes: Sequence[str]
    local_changes: Sequence[str]
    facial_actions: Sequence[str]


def _phenotypes(labels: Sequence[str], count: int, rng: np.random.RandomState) -> np.ndarray:
    found = np.full((count, len(labels)), 0.5)
    shares = np.array([share for share, _, _ in AGES])
    group = rng.choice(len(AGES), count, p=shares / shares.sum())
    low, high = (np.array([row[i] for row in AGES])[group] for i in (1, 2))
    is_female = rng.rand(count) < 0.5
    clear = rng.beta(1.0, 5.0, count)  # how far from its own end, few are in the middle
    ancestry = rng.dirichlet([0.5] * len(ANCESTRIES), count)
    values = {
        "age": low + (high - low) * rng.rand(count),
        "gender": np.where(is_female, 1 - clear, clear),
        "muscle": rng.beta(1.5, 1.5, count),
        "weight": rng.beta(1.5, 1.5, count),
        "height": rng.beta(2.0, 2.0, count),
        "proportions": rng.beta(1.5, 1.5, count),
        **dict(zip(ANCESTRIES, ancestry.T + 1e-6, strict=True)),
    }
    for name, value in values.items():
        found[:, _index(labels, name)] = value
    return found


def _local_changes(labels: Sequence[str], effects: Effects, count: int, rng: np.random.RandomState) -> np.ndarray:
    found = np.zeros((count, len(labels)))
    for index, label in enumerate(labels):
        own, partner = rng.randn(count), label.startswith("r-") and f"l-{label[2:]}"
        if max(effects.up[index], effects.down[index]) < LEAST_EFFECT_MM:
            continue
        if partner and partner in labels:  # the left one comes first
            normal = found[:, labels.index(partner)]
            found[:, index] = normal + ONE_SIDED * _scaled(own, effects.up[index], effects.down[index])
        else:
            share = ONE_SIDED if label in SIDEWAYS else 1.0
            found[:, index] = share * _scaled(own, effects.up[index], effects.down[index])
    return found.clip(-MOST_CHANGE, MOST_CHANGE)


def _scaled(normal: np.ndarray, up: float, down: float) -> np.ndarray:
    """Standard-normal numbers [N], each side scaled by the effect of its own target."""
    spread = [min(MOST_SPREAD, EFFECT_MM / max(effect, LEAST_EFFECT_MM)) for effect in (up, down)]
    return normal * np.where(normal > 0, *spread)


def _facial_actions(labels: Sequence[str], count: int, rng: np.random.RandomState) -> np.ndarray:
    found = np.zeros((count, len(labels)))
    for expression in EXPRESSIONS:
        amount = np.where(rng.rand(count) < expression.share, rng.uniform(0.2, 0.8, count), 0.0)
        for name, strength in expression.actions.items():
            found[:, _sides(labels, name)] += (amount * strength)[:, None]
    looks = np.where(rng.rand(count) < 0.25, rng.uniform(0.0, 0.6, count), 0.0)
    which = rng.randint(0, len(GAZES), count)
    for index, names in enumerate(GAZES):
        found[:, [_index(labels, name) for name in names]] += (looks * (which == index))[:, None]
    uneven = 1 + ONE_SIDED * rng.randn(count, len(labels))
    return (found * uneven).clip(0.0, 1.0)


def _sides(labels: Sequence[str], name: str) -> list[int]:
    """Where an action stands, or both its sides."""
    if name in labels:
        return [labels.index(name)]
    return [_index(labels, f"{name}{side}") for side in ("Left", "Right")]


def _index(labels: Sequence[str], name: str) -> int:
    if name not in labels:
        raise ValueError(f"the body has no input {name!r}; this recipe is for anny 0.6.2")
    return labels.index(name)
