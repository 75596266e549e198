"""Rewards as callables: what they promise, how a config names one, and scores of samples by one.

Fine-tuning never knows what a reward is made of. A judge is the same kind of callable under another part of the config:
`role` is what messages call it. Shape letters: N samples.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from eg3d.generators.protocol import Generator
from eg3d.one_line import one_line
from eg3d.progress import Advance, ignore
from eg3d.representations.protocol import Representation, representation_from
from eg3d.samples import AUTO, Sample, SampleConfig, sample_seed_batches

log = logging.getLogger(__name__)

NAMED = ("_target_", "representation")  # keys of a reward's config that are not arguments of its callable


class Reward(Protocol):
    """Scores of what it looks at, higher = better; differentiable where its representation is.

    It may also have `sample`, a SampleConfig: how the samples that it was learnt from were made.
    """

    representation: Representation

    def __call__(self, x: Tensor) -> Tensor:
        """Scores [N] of representations [N, ...]."""


class FunctionReward:
    """A plain function of a user as a reward: the function, what it looks at, and its arguments."""

    def __init__(self, function: Callable[..., Tensor], representation: Representation, **arguments: Any) -> None:
        self.function, self.representation, self.arguments = function, representation, arguments

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x, **self.arguments)


def reward_from(config: Mapping[str, Any], *, device: str, role: str = "reward") -> Reward:
    """The reward that a config names, frozen. `_target_` is code by design: it comes from the user's own command line.

    With `representation` (name and settings), `_target_` is a function of a representation [N, ...] that returns scores
    [N]; without, it is called to load one. All other keys are its arguments; `device` is added where it takes one.
    Raises ValueError, in one line, for a target that cannot be found or called so.
    """
    from hydra.utils import get_object

    log.info("%s: runs %s, as the configuration says (%s._target_)", role, config["_target_"], role)
    try:
        target = get_object(str(config["_target_"]))
    except Exception as error:  # hydra raises ImportError and others, with the path in their text
        raise ValueError(f"{role}._target_: {one_line(error)}") from None
    arguments = {key: value for key, value in config.items() if key not in NAMED}
    has_representation = config.get("representation") is not None
    takes = _parameters(target, role)
    if "device" in takes and not has_representation:
        arguments.setdefault("device", device)
    _check_arguments(target, arguments, num_given=int(has_representation), role=role)
    if has_representation:
        return FunctionReward(target, representation_from(dict(config["representation"])), **arguments)
    reward = target(**arguments)
    if not (callable(reward) and isinstance(getattr(reward, "representation", None), Representation)):
        raise ValueError(
            f"{role}: {config['_target_']} gave {type(reward).__name__}, expected a callable with a `representation`; "
            f"for a plain function give {role}.representation as well, for example "
            "{name: sigma_field, resolution: 64}"
        )
    if isinstance(reward, nn.Module):
        reward.eval().requires_grad_(False)
    return reward


def _check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], *, num_given: int, role: str) -> None:
    """ValueError unless `target` can be called with these arguments; `num_given` positional ones come first."""
    try:
        inspect.signature(target).bind(*[None] * num_given, **arguments)
    except TypeError as error:
        names = ", ".join(_parameters(target, role))
        raise ValueError(f"{role}: {error}; {getattr(target, '__name__', target)} takes {names}") from None


def _parameters(target: Callable[..., Any], role: str) -> list[str]:
    """Names of what `target` takes. Raises ValueError for what cannot be called with named arguments."""
    try:
        return list(inspect.signature(target).parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{role}._target_: cannot be called with arguments by name ({error})") from None


def sampled_for(reward: Reward, cfg: SampleConfig) -> SampleConfig:
    """`cfg` with the conditioning camera that `reward` was learnt with, where `cfg` leaves it open."""
    learnt = getattr(reward, "sample", None)
    if cfg.conditioning != AUTO or learnt is None:
        return cfg
    return replace(cfg, conditioning=learnt.conditioning)


def scores_of(reward: Reward, G: Generator, sample: Sample, *, role: str = "reward") -> Tensor:
    """Scores [N] of samples. Raises ValueError when the reward gives another shape."""
    scores = torch.as_tensor(reward(reward.representation.extract(G, sample)))  # a judge may give an array or a list
    if scores.shape != (len(sample),):
        raise ValueError(f"{role}: expected scores [{len(sample)}], one a sample, got {list(scores.shape)}")
    return scores


def name_of(reward: Reward) -> str:
    """What a reward is called in messages: the dotted name of its function, or of its class."""
    named = reward.function if isinstance(reward, FunctionReward) else type(reward)
    return f"{named.__module__}.{getattr(named, '__qualname__', type(named).__qualname__)}"


def require_finite_scores(values: list[float], source: str, *, of: Sequence[str] = (), role: str = "reward") -> None:
    """Raise ValueError, naming the reward `source`, when a score is not finite; `of` names what each score is of."""
    wrong = [number for number, value in enumerate(values) if not math.isfinite(value)]
    if wrong:
        whose = f" (first: {of[wrong[0]]})" if of else ""
        raise ValueError(
            f"{role}: {source} gave {values[wrong[0]]} for {len(wrong)} of {len(values)} samples{whose}; expected "
            f"finite scores: mend the {role}, or what it is given"
        )


@torch.no_grad()
def score_seeds(
    G: Generator,
    reward: Reward,
    seeds: Sequence[int],
    cfg: SampleConfig,
    *,
    batch: int = 4,
    advance: Advance = ignore,
    role: str = "reward",
) -> Tensor:
    """Scores [len(seeds)] on the CPU of the shapes that `seeds` name: the one way to score, tracked or by hand.

    Raises ValueError, naming the reward and the seed, for a score that is not finite.
    """
    scores = []
    for part, sample in sample_seed_batches(G, seeds, sampled_for(reward, cfg), batch=batch):
        scores.append(scores_of(reward, G, sample, role=role).cpu())
        require_finite_scores(scores[-1].tolist(), name_of(reward), of=[f"seed {seed}" for seed in part], role=role)
        advance(len(part))
    return torch.cat(scores) if scores else torch.empty(0)
