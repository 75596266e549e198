"""Train an EG3D generator from a data set: python -m eg3d.train experiment=twin.

Called with flags of EG3D's train.py (--outdir, --gpus ...) it hands over to eg3d/train_flags.py.
"""

from __future__ import annotations

import sys

from eg3d import train_flags
from eg3d.hydra_command import given_keys, hydra_command, log_to_console
from eg3d.program import program_name
from eg3d.training.config import TrainConfig


@hydra_command(config_name="train", schema=TrainConfig)
def main(cfg: TrainConfig) -> None:
    """Train a generator; run it again after a stop and it continues where it was.

    EG3D's own flags do the same: --outdir, --cfg, --data, --gpus, --batch, --gamma and the others that
    python -m eg3d.train_flags --help lists. Several processes: torchrun --nproc-per-node=N -m eg3d.train ...
    """
    from eg3d.training.loop import train
    from eg3d.training.ranks import is_first_process

    if is_first_process():
        log_to_console()
    run = train(cfg, given=given_keys())
    if is_first_process():
        print(f"snapshot: {run.snapshot}")


def command() -> None:
    """The command, in either manner: key=value, or EG3D's flags."""
    if train_flags.has_flags(sys.argv[1:]):
        train_flags.main(sys.argv[1:], prog_name=program_name(__name__))
    else:
        main()


if __name__ == "__main__":
    command()
