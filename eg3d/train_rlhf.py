"""Fine-tune a generator's geometry with a learned reward: python -m eg3d.train_rlhf experiment=twin_sfield."""

from __future__ import annotations

from eg3d.finetuning.config import FinetuneConfig
from eg3d.hydra_command import given_keys, hydra_command, log_to_console


@hydra_command(config_name="finetune", schema=FinetuneConfig)
def main(cfg: FinetuneConfig) -> None:
    """Fine-tune a generator with a reward; run it again after a stop and it continues where it was.

    With a judge (judge._target_=..., named as a reward is) it keeps the networks that the judge likes best, and with
    judge.stop=true it ends when the reward rises and the judge falls.
    """
    from eg3d.finetuning.judge import judge_from
    from eg3d.finetuning.loop import finetune
    from eg3d.finetuning.rewards import reward_from
    from eg3d.run_folder import choose_device

    log_to_console()
    device = str(choose_device(cfg.device))
    reward, judge = reward_from(cfg.reward, device=device), judge_from(cfg, device=device)
    run = finetune(cfg, reward, judge=judge, given=given_keys())
    print(f"snapshot:     {run.snapshot}\ntrajectories: {run.folder / 'trajectories.csv'}")
    if run.best is not None:
        print(f"judge's best: {run.best}")
    if run.ended:
        print(f"ended:        {run.ended}")


if __name__ == "__main__":
    main()
