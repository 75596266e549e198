"""The arms of an experiment: the generator before fine-tuning, and the fine-tuning runs that begin there."""

from __future__ import annotations

START = "start"  # the network before fine-tuning
TUNED = "tuned"  # with the reward
CONTROL = "control"  # the same run without the reward
RUN_FOLDERS = {"tuned": "sfield", "control": "control", "continuation": "continuation"}  # by arm
