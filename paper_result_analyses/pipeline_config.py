"""The settings of the pipeline: its own, and those of every registered measure under the measure's name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from paper_result_analyses.arms import RUN_FOLDERS
from paper_result_analyses.registry import MEASURES


@dataclass
class PipelineConfig:
    """What to run. A stage is told what would follow its own command (in quotes there); paths are added here."""

    out: str = "runs/pipeline"
    title: str = "Fine-tuning a small generator's geometry from simulated rankings"
    data: str = "data/heads64.zip"
    device: str = "auto"
    generator: str = "twin"  # networks to fine-tune: a file or manifest name; not read when pretraining has stages
    reward: str = "twin_reward"  # bundle folder or manifest name; not read when reward_training has words
    heads: str = ""  # after python -m dataset_preprocessing.human_heads
    # by name, after python -m eg3d.train; each continues the last
    pretraining: dict[str, str] = field(default_factory=dict)
    ranking: str = ""  # after python -m reward_model_training.rank
    reward_training: str = ""  # after python -m reward_model_training.train; empty = take `reward`
    finetuning: dict[str, str] = field(default_factory=dict)  # by arm, after python -m eg3d.train_rlhf
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
        twice = sorted({name for name in stages if stages.count(name) > 1})
        if twice:
            faults.append(f"stages: two are called {', '.join(twice)}; give pretraining other names, measures once")
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
    reward = ["ranking", "reward"] if cfg.reward_training else []
    return ["heads", *cfg.pretraining, *reward, *cfg.finetuning, *cfg.measures, "report"]
