"""Steps of the twin's fine-tuning, this checkout's against another's, in turns: python -m benchmarks.finetune_step.

Both run `experiment=twin_sfield` on the same images and take their steps one after the other; step k is the same work
in both. Without --against, this checkout's figures alone.
"""

from __future__ import annotations

from benchmarks.train_step import FINETUNING, main

if __name__ == "__main__":
    main("benchmarks.finetune_step", FINETUNING, __doc__)
