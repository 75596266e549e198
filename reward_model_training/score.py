"""Score seeds of a generator with a reward: python -m reward_model_training.score reward=PATH generator=PATH."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eg3d.hydra_command import hydra_command
from eg3d.progress import Advance, ignore, progress_bar

if TYPE_CHECKING:
    from eg3d.generators.eg3d import TriPlaneGenerator
    from reward_model_training.bundle import Reward


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
        if self.first_seed < 0 or self.num_seeds < 1:
            found = f"{self.first_seed}, {self.num_seeds}"
            faults.append(f"first_seed, num_seeds: need 0 or more and 1 or more, got {found}")
        return faults


def score_seeds(
    reward: Reward, G: TriPlaneGenerator, seeds: Iterable[int], *, psi: float | None = None, advance: Advance = ignore
) -> list[tuple[int, float]]:
    """(seed, reward) of each seed, one at a time, canonical camera, slab as the reward was trained on."""
    from dataclasses import replace

    import torch

    from eg3d.representations.sigma_field import seed_slab

    cfg = reward.slab if psi is None else replace(reward.slab, psi=psi)
    scores = []
    with torch.no_grad():
        for seed in seeds:
            scores.append((seed, float(reward(seed_slab(G, seed, cfg)[None])[0])))
            advance()
    return scores


@hydra_command(config_name="reward_score", schema=ScoreConfig)
def main(cfg: ScoreConfig) -> None:
    """Score seeds of a generator with a trained reward and write a table."""
    import statistics

    from eg3d.checkpoints.store import load_generator
    from eg3d.run_folder import choose_device
    from eg3d.safe_write import write_text
    from reward_model_training.bundle import load_reward

    device = choose_device(cfg.device)
    reward, G = load_reward(cfg.reward, device=device), load_generator(cfg.generator, device=device)
    seeds = range(cfg.first_seed, cfg.first_seed + cfg.num_seeds)
    with progress_bar("seeds scored", len(seeds)) as advance:
        scores = score_seeds(reward, G, seeds, psi=cfg.psi, advance=advance)
    psi = reward.slab.psi if cfg.psi is None else cfg.psi
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("seed", "psi", "reward"))
    writer.writerows((seed, psi, repr(score)) for seed, score in scores)
    write_text(cfg.out, text.getvalue())
    values = [score for _, score in scores]
    print(f"reward: mean {statistics.fmean(values):.3f}, median {statistics.median(values):.3f}\ntable:  {cfg.out}")


if __name__ == "__main__":
    main()
