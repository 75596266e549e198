"""Every command of this project by its short name, as `sculpt` takes it: names alone, nothing is loaded."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One subcommand."""

    module: str  # python -m MODULE is the same
    words: tuple[str, ...]  # before those of the user
    meaning: str
    function: str = "main"


ENTRIES = {
    "demo": Entry("paper_result_analyses.pipeline", ("pipeline=demo",), "fine-tune the shipped twin; writes a report"),
    "data": Entry("dataset_preprocessing.dataset_tool", (), "images to a data set"),
    "heads": Entry("dataset_preprocessing.human_heads.__main__", (), "a data set of portraits of the head model"),
    "convert": Entry("eg3d.convert", (), "published weights to safetensors; runs no code of the file"),
    "samples": Entry("eg3d.gen_samples", (), "images and shapes of a generator"),
    "videos": Entry("eg3d.gen_videos", (), "films of a generator"),
    "view": Entry("eg3d.view", (), "a viewer in the browser"),
    "metrics": Entry("eg3d.calc_metrics", (), "FID, KID and others of a generator"),
    "pretrain": Entry("eg3d.train", (), "train a generator from images", "command"),
    "rank": Entry("reward_model_training.rank", (), "rank shapes with the simulated annotator"),
    "train": Entry("reward_model_training.train", (), "train a reward from rankings"),
    "score": Entry("reward_model_training.score", (), "scores of seeds by a reward"),
    "stress": Entry("reward_model_training.stress", (), "how easily a reward is flattered"),
    "tune": Entry("eg3d.train_rlhf", (), "fine-tune a generator with a reward"),
    "report": Entry("paper_result_analyses.pipeline", (), "all stages of a pipeline, up to its report"),
    "doctor": Entry("sculpting_nerf.doctor", (), "what this machine and installation can do"),
}
