"""Score seeds of a generator with a reward: python -m reward_model_training.score reward=PATH generator=PATH."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from eg3d.hydra_command import hydra_command
from eg3d.progress import progress_bar
from eg3d.seeds import LARGEST_SEED, MOST_SEEDS


@dataclass
class ScoreConfig:
    """Which seeds of which generator, by which reward."""

    reward: str = ""  # bundle folder, or a name in checkpoints/manifest.json
    generator: str = ""  # network file, or a name in checkpoints/manifest.json
    first_seed: int = 0
    num_seeds: int = 100
    psi: float | None = None  # truncation strength; null = as the reward was trained
    out: str = "scores.csv"  # table to write: seed, psi, reward
    device: str = "auto"

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = [f"{n}: give {n}=PATH" for n in ("reward", "generator") if not getattr(self, n)]
        if not 1 <= self.num_seeds <= MOST_SEEDS or not 0 <= self.first_seed <= LARGEST_SEED - self.num_seeds + 1:
            found = f"{self.first_seed}, {self.num_seeds}"
            faults.append(
                f"first_seed, num_seeds: need 1 to {MOST_SEEDS} seeds between 0 and {LARGEST_SEED}, got {found}"
            )
        return faults


@hydra_command(config_name="reward_score", schema=ScoreConfig)
def main(cfg: ScoreConfig) -> None:
    """Score seeds of a generator with a trained reward and write a table."""
    import statistics
    from dataclasses import replace

    from eg3d.checkpoints.store import load_generator
    from eg3d.finetuning.rewards import score_seeds
    from eg3d.run_folder import choose_device
    from eg3d.safe_write import write_text
    from reward_model_training.bundle import load_reward

    device = choose_device(cfg.device)
    reward, G = load_reward(cfg.reward, device=device), load_generator(cfg.generator, device=device)
    sample = reward.sample if cfg.psi is None else replace(reward.sample, psi=cfg.psi)
    seeds = range(cfg.first_seed, cfg.first_seed + cfg.num_seeds)
    with progress_bar("seeds scored", len(seeds)) as advance:
        scores = score_seeds(G, reward, seeds, sample, batch=1, advance=advance).tolist()
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("seed", "psi", "reward"))
    writer.writerows((seed, sample.psi, repr(score)) for seed, score in zip(seeds, scores, strict=True))
    write_text(cfg.out, text.getvalue())
    print(f"reward: mean {statistics.fmean(scores):.3f}, median {statistics.median(scores):.3f}\ntable:  {cfg.out}")


if __name__ == "__main__":
    main()
