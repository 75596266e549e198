"""Rank the shapes of a generator with the simulated annotator: python -m reward_model_training.rank generator=..."""

from __future__ import annotations

from pathlib import Path

from eg3d.hydra_command import hydra_command
from eg3d.progress import progress_bar
from reward_model_training.preferences.rankings import write_rankings
from reward_model_training.preferences.simulated_rankings import RankConfig, annotate_seeds, rankings_of, summary


@hydra_command(config_name="rank", schema=RankConfig)
def main(cfg: RankConfig) -> None:
    """Score the surfaces of seeds and rank them in batches; a stand-in for a person. Run again to continue."""
    with progress_bar("scoring", cfg.count) as advance:
        scores = annotate_seeds(cfg, advance=advance)
    rankings = rankings_of(cfg, scores)
    write_rankings(cfg.out, rankings)
    print(summary(scores.values()))
    print(f"rankings (simulated): {cfg.out}, {len(rankings)} batches of up to {cfg.batch_size}")
    print(f"scores (simulated):   {Path(cfg.out).parent / 'scores.csv'}")


if __name__ == "__main__":
    main()
