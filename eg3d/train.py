"""Train an EG3D generator from a data set: python -m eg3d.train experiment=twin.

The flags of EG3D's train.py are understood too: see eg3d/train_flags.py.
"""

from __future__ import annotations

from eg3d.entry import entry, log_to_console
from eg3d.training.config import TrainConfig


@entry(config_name="train", schema=TrainConfig)
def main(cfg: TrainConfig) -> None:
    """Train a generator; run it again after a stop and it continues where it was."""
    from eg3d.training.loop import train
    from eg3d.training.ranks import is_first_process

    if is_first_process():
        log_to_console()
    run = train(cfg)
    if is_first_process():
        print(f"snapshot: {run.snapshot}")


if __name__ == "__main__":
    main()
