"""The settings of the pipeline: its own, and those of every registered measure under the measure's name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from eg3d.config_checks import at_least, one_of
from paper_result_analyses.arms import RUN_FOLDERS, TUNED
from paper_result_analyses.registry import MEASURES

SNAPSHOTS = ("last", "best")
FIRST_ROUND = "first_round"  # folder of its stages
FIRST_STAGES = FIRST_RANKING, FIRST_REWARD, FIRST_TUNED = ("first_ranking", "first_reward", "first_tuned")


@dataclass
class PipelineConfig:
    """What to run. A stage is told what would follow its own command (in quotes there); paths are added here."""

    out: str = "runs/pipeline"
    title: str = "Fine-tuning a small generator's geometry from simulated rankings"
    data: str = "data/portraits64.zip"
    device: str = "auto"
    generator: str = "twin"  # networks to fine-tune: a file or manifest name; not read when pretraining has stages
    reward: str = "twin_reward"  # bundle folder or manifest name; not read when reward_training has words
    heads: str = ""  # after python -m dataset_preprocessing.human_heads
    # By name, after python -m eg3d.train; each continues the last, or the earlier one that `continues` gives for it.
    pretraining: dict[str, str] = field(default_factory=dict)
    continues: dict[str, str] = field(default_factory=dict)
    ranking: str = ""  # after python -m reward_model_training.rank
    # Pretraining stages whose last snapshots are ranked along with the generator's own shapes.
    ranked_stages: list[str] = field(default_factory=list)
    # After python -m eg3d.train_rlhf; empty = one round. Otherwise a first reward, trained on the shapes so far, tunes
    # the generator, and the networks that this leaves are ranked along with the rest for the reward that counts.
    first_round: str = ""
    first_reward: str = ""  # words of that reward's training, where they differ; it is an ensemble's first member
    reward_training: str = ""  # after python -m reward_model_training.train; empty = take `reward`
    reward_seeds: list[int] = field(default_factory=list)  # of the members of an ensemble; empty = one reward
    reward_bound: float = 0.0  # standard deviations that an ensemble's reward lies below the mean of its members
    finetuning: dict[str, str] = field(default_factory=dict)  # by arm, after python -m eg3d.train_rlhf
    judge: str = ""  # of every arm, after its words: judge._target_=... judge.every_ticks=1 judge.stop=true
    snapshot: str = "last"  # of the tuned arm, for all that comes after it: last | best, which its judge liked best
    # The other arms end after as many images as that snapshot had seen, so that tables compare runs of equal length.
    equal_length: bool = False
    # Arms that run at once, each in a process with its share of the threads: 0 = as many as there are cores, but one on
    # a GPU. Another number of threads changes results by rounding; the same number of them gives the same bits.
    arms_at_once: int = 0
    measures_at_once: int = 0  # as arms_at_once
    measures: list[str] = field(default_factory=lambda: list(MEASURES))
    redo: list[str] = field(default_factory=list)  # stages to do again from nothing; their run folders are deleted

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = []
        for name, given, known in (
            ("finetuning", self.finetuning, tuple(RUN_FOLDERS)),
            ("measures", self.measures, tuple(MEASURES)),
            ("redo", self.redo, stage_names(self)),
        ):
            unknown = [item for item in given if item not in known]
            if unknown:
                faults.append(f"{name}: {', '.join(unknown)} is not one of {', '.join(known)}")
        stages = stage_names(self)
        strays = [name for name in self.ranked_stages if name not in [*self.pretraining][:-1]]
        if strays:
            before = ", ".join([*self.pretraining][:-1]) or "none"
            faults.append(f"ranked_stages: {', '.join(strays)} is not a stage before the last pretraining ({before})")
        order = [*self.pretraining]
        for name, start in self.continues.items():
            if name not in order or start not in order[: order.index(name)]:
                faults.append(
                    f"continues.{name}: {start} is not a pretraining stage before {name} ({', '.join(order)})"
                )
        if self.first_reward and not self.first_round:
            faults.append("first_reward: there is no first_round that it could tune")
        for name in ("ranked_stages", "first_round"):
            if getattr(self, name) and not self.reward_training:
                faults.append(f"{name}: nothing is ranked without reward_training")
        if self.reward_seeds and (len(set(self.reward_seeds)) < 2 or not self.reward_training):
            faults.append("reward_seeds: give two different seeds or more, and words for reward_training")
        if self.reward_bound < 0 or (self.reward_bound and not self.reward_seeds):
            faults.append(f"reward_bound: {self.reward_bound} must be 0 or more, and needs reward_seeds")
        twice = sorted({name for name in stages if stages.count(name) > 1})
        if twice:
            faults.append(f"stages: two are called {', '.join(twice)}; give pretraining other names, measures once")
        faults += one_of("snapshot", self.snapshot, SNAPSHOTS) + at_least(self, 0, "arms_at_once", "measures_at_once")
        if self.equal_length and self.finetuning and TUNED not in self.finetuning:
            faults.append(f"equal_length: there is no arm {TUNED} whose length the others could take")
        if not self.finetuning:
            faults.append("finetuning: nothing to fine-tune; give pipeline=demo or pipeline=twin")
        return faults

    def of_measure(self, name: str) -> Any:
        """The settings of a measure, or None where it has none."""
        return getattr(self, name, None)


def pipeline_schema() -> type[PipelineConfig]:
    """PipelineConfig with a field for every registered measure that has settings."""
    fields = [
        (measure.name, measure.Config, dataclasses.field(default_factory=measure.Config))
        for measure in MEASURES.values()
        if measure.Config is not None
    ]
    own = {field.name for field in dataclasses.fields(PipelineConfig)}
    clashes = [name for name in MEASURES if name in own]
    if clashes:
        raise ValueError(f"measures cannot have the names of the pipeline's own settings: {', '.join(clashes)}")
    return dataclasses.make_dataclass("PipelineConfig", fields, bases=(PipelineConfig,))


def stage_names(cfg: PipelineConfig) -> list[str]:
    """The stages that `cfg` runs, in order."""
    members = [f"reward{seed}" for seed in cfg.reward_seeds]
    first = FIRST_STAGES if cfg.first_round else ()
    reward = [*first, "ranking", *members, "reward"] if cfg.reward_training else []
    return ["heads", *cfg.pretraining, *reward, *cfg.finetuning, *cfg.measures, "report"]
