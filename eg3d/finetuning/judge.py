"""A judge beside the reward: it looks at seeds of its own, keeps the best networks, and says when the reward is gamed.

The reward is a proxy: tuned for long enough, it rises while shapes get worse. A judge that had no part in the tuning (a
second reward from other rankings, a rule, people's votes behind a function) notices. What it saw is part of the state,
so that a run that goes on decides as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eg3d.checkpoints.store import read_metadata
from eg3d.finetuning.config import FinetuneConfig, JudgeConfig
from eg3d.finetuning.rewards import Reward, name_of, reward_from
from eg3d.finetuning.tracking import JUDGED, Trajectories
from eg3d.representations.protocol import Representation
from eg3d.training.loop import Trainer
from eg3d.training.stats import Stats

log = logging.getLogger(__name__)
BEST_SNAPSHOT = "network-snapshot-best.safetensors"
NOTE = "judge"  # what run.json says of it


def judge_from(cfg: FinetuneConfig, *, device: str) -> Reward | None:
    """The judge that a config names, frozen; None where it names none. Raises ValueError as `reward_from` does."""
    named = JudgeConfig.callable_in(cfg.judge)
    if not named:
        return None
    judge = reward_from(named, device=device, role="judge")
    return OneAtATime(judge) if JudgeConfig.of(cfg.judge).one_at_a_time else judge


class OneAtATime:
    """A judge of one representation [...], which gives a number, as one of many [N, ...]."""

    representation: Representation

    def __init__(self, judge: Reward) -> None:
        self.judge, self.representation = judge, judge.representation
        self.sample = getattr(judge, "sample", None)  # how its samples are made, where it says so

    def __call__(self, x: Tensor) -> Tensor:
        """Scores [N] of representations [N, ...]."""
        return torch.tensor([float(self.judge(one)) for one in x])


@dataclass(frozen=True)
class Look:
    """The scores at one tick: the judge's on its seeds, the reward's on the seeds on which it must have risen."""

    tick: int
    num_images: int
    scores: tuple[float, ...]
    rewards: tuple[float, ...]

    @property
    def score(self) -> float:
        """Mean of the judge."""
        return statistics.fmean(self.scores)


@dataclass(frozen=True)
class Change:
    """A mean change over seeds, each with itself, and its standard error."""

    mean: float
    error: float

    @classmethod
    def between(cls, before: Sequence[float], after: Sequence[float]) -> Change:
        """From `before` to `after`, scores of the same two seeds or more."""
        changes = [b - a for a, b in zip(before, after, strict=True)]
        return cls(statistics.fmean(changes), statistics.stdev(changes) / math.sqrt(len(changes)))

    def __str__(self) -> str:
        return f"{abs(self.mean):.3g} +- {self.error:.2g}"


@dataclass(frozen=True)
class Verdict:
    """What a look says: how judge and reward changed since the best look before it."""

    judge: Change
    reward: Change
    is_gamed: bool  # the reward rose and the judge fell, both clearly


class History:
    """What the judge of a run saw, and what followed from it."""

    def __init__(self, cfg: JudgeConfig, *, is_tuned: bool = True) -> None:
        """is_tuned: whether the run follows the reward; in a control nothing is over-optimised."""
        self.cfg, self._is_tuned = cfg, is_tuned
        self.best: Look | None = None
        self.means: list[list[float]] = []  # of each look: tick, images, means of judge and reward
        self.gamed_in_row = 0  # looks, up to the last one
        self.ended = ""  # why the run was ended; empty = it was not

    def add(self, look: Look) -> Verdict:
        """Take a look into the history. Equal scores leave the earlier tick the best."""
        best = self.best or look
        since = {"judge": (best.scores, look.scores), "reward": (best.rewards, look.rewards)}
        judge, reward = (Change.between(*pair) for pair in since.values())
        width = self.cfg.standard_errors
        is_gamed = self._is_tuned and judge.mean < -width * judge.error and reward.mean > width * reward.error
        self.gamed_in_row = self.gamed_in_row + 1 if is_gamed else 0
        if self.best is None or look.score > best.score:
            self.best = look
        self.means.append([look.tick, look.num_images, look.score, statistics.fmean(look.rewards)])
        return Verdict(judge, reward, is_gamed)

    @property
    def is_told(self) -> bool:
        """Whether the last look is the one to speak at: once a time, or when the run may end."""
        patience = self.cfg.patience
        return self.gamed_in_row == patience or (self.cfg.stop and self.gamed_in_row > patience)

    def state(self) -> dict[str, Any]:
        """What the next look depends on."""
        best = None if self.best is None else dataclasses.asdict(self.best)
        return {"best": best, "means": self.means, "gamed_in_row": self.gamed_in_row, "ended": self.ended}

    def restore(self, values: dict[str, Any]) -> None:
        """Go on from a state. A run that a judge ended, and that need not end now, goes on."""
        best = values["best"]
        if best is not None:
            scores, rewards = (tuple(map(float, best[name])) for name in ("scores", "rewards"))
            if len(scores) != len(self.cfg.all_seeds()) or len(rewards) < 2:
                raise ValueError(f"has scores of {len(scores)} seeds, expected {len(self.cfg.all_seeds())}")
            self.best = Look(int(best["tick"]), int(best["num_images"]), scores, rewards)
        self.means = [[int(tick), int(images), *map(float, means)] for tick, images, *means in values["means"]]
        self.gamed_in_row = int(values["gamed_in_row"])
        self.ended = str(values["ended"]) if self.cfg.stop else ""


class RunJudge:
    """The judge at work in a run: `look` at a tick, `settle` whenever the state on disk is that of the run."""

    def __init__(self, cfg: FinetuneConfig, judge: Reward, reward: Reward) -> None:
        self.cfg = JudgeConfig.of(cfg.judge)
        self.history = History(self.cfg, is_tuned=cfg.reward_term.weight > 0)
        self.path = Path(cfg.out) / BEST_SNAPSHOT
        self._name = name_of(judge.judge if isinstance(judge, OneAtATime) else judge)
        scorers: dict[str, Reward] = {"score": judge}
        if self.cfg.reward_seeds == "judge":
            scorers["reward"] = reward
        self._table = Trajectories(Path(cfg.out) / JUDGED, self.cfg, scorers, roles={"score": "judge"})
        self._noted: dict[str, Any] | None = None
        for network in (judge, getattr(judge, "judge", None)):
            if isinstance(network, nn.Module):
                network.eval().requires_grad_(False)

    def look(self, trainer: Trainer, tracked: Tensor | None) -> None:
        """Score the seeds where it is time to; `tracked` [K] are the reward's scores of the tracked seeds.

        Raises ValueError, naming the judge and the seed, for a score that is not finite.
        """
        counters = trainer.counters
        if counters.tick % self.cfg.every_ticks:
            return
        where = {"tick": counters.tick, "num_images": counters.num_images}
        found = self._table.record(trainer.average, **where)
        rewards = found.get("reward", tracked)
        assert rewards is not None  # the config's checks ask for tracked seeds
        look = Look(**where, scores=tuple(found["score"].tolist()), rewards=tuple(rewards.tolist()))
        before = self.history.best
        verdict = self.history.add(look)
        self._report(trainer.stats, look, verdict)
        if self.history.is_told and before is not None:
            self._tell(trainer, before, verdict)

    def settle(self, trainer: Trainer) -> None:
        """Write the best networks when the state is theirs, and what became of the run into run.json.

        They are written after the state: killed in between, the run finds them in the state when it goes on.
        """
        trainer.ended, best = self.history.ended, self.history.best
        if best is None:
            return
        if best.num_images == trainer.counters.num_images and not self._has(best):
            facts = {"tick": best.tick, "judge": self._name, "judge_score": best.score}
            trainer.save_networks(self.path, facts)
        note = {
            "best": {"tick": best.tick, "num_images": best.num_images, "score": best.score, "snapshot": self.path.name},
            "ended": self.history.ended or None,
        }
        if note != self._noted and trainer.claimed is not None:
            trainer.claimed.note(NOTE, note)
            self._noted = note

    def best_snapshot(self) -> Path | None:
        """Where the best networks lie; None, with a warning, where they are gone."""
        best = self.history.best
        if best is None or self._has(best):
            return self.path if best else None
        log.warning("%s: not the networks of tick %d, which the judge liked best", self.path, best.tick)
        return None

    def _has(self, best: Look) -> bool:
        """Whether the networks of that look are on disk."""
        try:
            return images_of(self.path) == best.num_images
        except (ValueError, OSError):
            return False

    def _report(self, stats: Stats, look: Look, verdict: Verdict) -> None:
        assert self.history.best is not None
        stats.report("Judge/mean", look.score)
        stats.report("Judge/best", self.history.best.score)
        stats.report("Judge/change", verdict.judge.mean)
        stats.report("Judge/change_error", verdict.judge.error)
        stats.report("Judge/reward_change", verdict.reward.mean)

    def _tell(self, trainer: Trainer, best: Look, verdict: Verdict) -> None:
        seeds, counters = self.cfg.all_seeds(), trainer.counters
        said = (
            f"the reward is over-optimised: since tick {best.tick} ({best.num_images} images) it rose by "
            f"{verdict.reward} while the judge {self._name} fell by {verdict.judge} (mean change and its standard "
            f"error over {len(seeds)} seeds), {self.history.gamed_in_row} looks in a row"
        )
        if self.cfg.stop:
            self.history.ended = trainer.ended = f"at tick {counters.tick} ({counters.num_images} images) {said}"
        done = "the run ends here" if self.cfg.stop else "the run goes on (judge.stop=true would end it)"
        log.warning("tick %d: %s; %s; %s has tick %d", counters.tick, said, done, self.path, best.tick)


def images_of(snapshot: Path) -> int:
    """How many images a snapshot had seen. Raises ValueError or OSError for a file that does not say it."""
    found = read_metadata(snapshot)["extra"].get("num_images")
    if not isinstance(found, int):
        raise ValueError(f"{snapshot}: does not say after how many images it was written")
    return found
