"""What a reward makes of known damage: python -m reward_model_training.stress reward=PATH generator=twin.

Shapes of seeds that no stage has seen are damaged (damage.py), mildly and severely, at places that no training has
seen; a reward that is worth following orders clean above mild above severe, and says the same of what is the same.
Changes are in standard deviations of the clean scores, so that rewards of any scale compare. Answers of one seed go
together, and the intervals know it. A reward is a bundle, or any callable that fine-tuning would take (`_target_`).
Shapes: N slabs, X, Y, Z their sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eg3d.config_checks import at_least, one_of
from eg3d.hydra_command import hydra_command
from eg3d.progress import Advance, ignore, progress_bar
from eg3d.seeds import LARGEST_SEED, MOST_SEEDS
from reward_model_training.damage import LEVEL, damages, ties

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from eg3d.finetuning.rewards import Reward
    from eg3d.generators.protocol import Generator

DAMAGE, TIE = "damage", "tie"
SCORE_COLUMNS = {
    "kind": "of damage.py",
    "group": "damage, or tie = a change that must not matter",
    "seed": "seed of the latent, not used in any training",
    "draw": "which of the seed's draws of places",
    "clean": "score of the shape as it is",
    "mild": "score after the change at the mild severity",
    "severe": "score after the change at the severe severity",
}
COLUMNS = {
    "kind": "of damage.py",
    "group": "damage, or tie = a change that must not matter",
    "trained": "whether the reward's training was shown this kind: yes, no, or unknown (not a bundle)",
    "n": "answers",
    "n_seeds": "seeds that they come from",
    "clean_mild_share": "share of answers with clean strictly above mild",
    "clean_mild_low": "95 % interval, clustered by seed",
    "clean_mild_high": "95 % interval, clustered by seed",
    "mild_severe_share": "share of answers with mild strictly above severe",
    "mild_severe_low": "95 % interval, clustered by seed",
    "mild_severe_high": "95 % interval, clustered by seed",
    "clean_severe_share": "share of answers with clean strictly above severe",
    "clean_severe_low": "95 % interval, clustered by seed",
    "clean_severe_high": "95 % interval, clustered by seed",
    "mild_change": "mean change of the score by mild change, standard deviations of the clean scores",
    "mild_change_low": "Student 95 % interval over seeds",
    "mild_change_high": "Student 95 % interval over seeds",
    "severe_change": "mean change of the score by severe change, standard deviations of the clean scores",
    "severe_change_low": "Student 95 % interval over seeds",
    "severe_change_high": "Student 95 % interval over seeds",
    "size_of_change": "mean absolute change of the score by severe change, standard deviations of the clean scores",
    "size_of_change_low": "Student 95 % interval over seeds",
    "size_of_change_high": "Student 95 % interval over seeds",
    "clean_sd": "standard deviation of the clean scores, in units of the score",
}
PAIRS = (("clean", "mild"), ("mild", "severe"), ("clean", "severe"))


@dataclass
class ProbeConfig:
    """Which shapes are damaged, in which ways, and how much."""

    first_seed: int = 500000
    num_seeds: int = 40
    draws: int = 1  # places of damage a seed and kind
    kinds: list[str] = field(default_factory=lambda: list(damages()))
    ties: list[str] = field(default_factory=lambda: list(ties()))
    mild: float = 1 / 3  # severity
    severe: float = 1.0  # severity
    level: float = LEVEL  # raw density of the surface
    psi: float | None = None  # truncation strength; null = as the reward was trained, 1 where it does not say
    items_at_once: int = 8  # slabs a call of the reward

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = at_least(self, 1, "draws", "items_at_once")
        if not 2 <= self.num_seeds <= MOST_SEEDS or not 0 <= self.first_seed <= LARGEST_SEED - self.num_seeds + 1:
            found = f"{self.first_seed}, {self.num_seeds}"
            faults.append(
                f"first_seed, num_seeds: need 2 to {MOST_SEEDS} seeds between 0 and {LARGEST_SEED}, got {found}"
            )
        for name, known in (("kinds", damages()), ("ties", ties())):
            faults += [fault for each in getattr(self, name) for fault in one_of(name, each, known)]
        if not (self.kinds or self.ties):
            faults.append("kinds, ties: name one at least")
        if not 0 < self.mild < self.severe <= 1:
            faults.append(f"mild, severe: need 0 < mild < severe <= 1, got {self.mild}, {self.severe}")
        return faults


@dataclass
class StressConfig(ProbeConfig):
    """Which reward on which generator; where the tables go."""

    # A bundle folder, or a name in checkpoints/manifest.json; or reward._target_=... with its arguments, as for
    # fine-tuning, and reward.representation.name=sigma_field where it is a plain function.
    reward: Any = ""
    generator: str = "twin"  # network file, or a name in checkpoints/manifest.json
    out: str = "stress.csv"  # table to write; beside it a JSON about it, and the scores behind it (NAME_scores.csv)
    device: str = "auto"

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = super().validate()
        if isinstance(self.reward, Mapping):
            faults += [] if self.reward.get("_target_") else ["reward._target_: give a function that is a reward"]
        elif not isinstance(self.reward, str) or not self.reward:
            faults.append("reward: give reward=PATH, a name in checkpoints/manifest.json, or reward._target_=FUNCTION")
        faults += [] if self.generator else ["generator: give generator=PATH"]
        if Path(self.out).suffix != ".csv":
            faults.append(f"out: expected the path of a .csv file, got {self.out!r}")
        return faults


def stress_scores(G: Generator, reward: Reward, cfg: ProbeConfig, *, advance: Advance = ignore) -> pd.DataFrame:
    """Scores of clean, mildly and severely changed shapes: one row (SCORE_COLUMNS) a kind, seed and draw.

    Raises ValueError, in one line, for a reward that does not read density slabs or whose scores are not finite.
    """
    import pandas as pd
    import torch

    from eg3d.finetuning.rewards import sampled_for
    from eg3d.representations.sigma_field import SigmaField
    from eg3d.samples import SampleConfig, sample_seeds
    from reward_model_training.damage import damaged
    from reward_model_training.data.made_pairs import STRESS_SEEDS

    representation = reward.representation
    if not isinstance(representation, SigmaField):
        raise ValueError(f"reward: damage is known for density slabs (sigma_field), it reads {representation.name}")
    shown = sampled_for(reward, getattr(reward, "sample", SampleConfig()))
    shown = shown if cfg.psi is None else replace(shown, psi=cfg.psi)
    groups = [(kind, DAMAGE) for kind in cfg.kinds] + [(kind, TIE) for kind in cfg.ties]
    rows = []
    with torch.no_grad():
        for seed in range(cfg.first_seed, cfg.first_seed + cfg.num_seeds):
            sample = sample_seeds(G, [seed], shown)
            clean, voxel = representation.extract(G, sample).float(), representation.voxel(sample.field.box_warp)
            slabs = [clean]
            for kind, _ in groups:
                where = [STRESS_SEEDS + cfg.draws * seed + draw for draw in range(cfg.draws) for _ in (0, 1)]
                copies, severities = clean.expand(len(where), -1, -1, -1), [cfg.mild, cfg.severe] * cfg.draws
                slabs.append(damaged(copies, kind, severities, where, voxel=voxel, level=cfg.level))
            scores = _scores(reward, torch.cat(slabs), cfg.items_at_once, seed)
            pairs = [scores[1 + i : 3 + i] for i in range(0, len(scores) - 1, 2)]
            names = [(kind, group, seed, draw) for kind, group in groups for draw in range(cfg.draws)]
            rows += [(*name, scores[0], *pair) for name, pair in zip(names, pairs, strict=True)]
            advance()
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


def _scores(reward: Reward, slabs: Tensor, at_once: int, seed: int) -> list[float]:
    from eg3d.finetuning.rewards import name_of, require_finite_scores

    found: list[float] = []
    for part in slabs.split(at_once):
        scores = reward(part)
        if scores.shape != (len(part),):
            raise ValueError(f"reward: expected scores [{len(part)}], one a sample, got {list(scores.shape)}")
        found += scores.tolist()
    require_finite_scores(found, name_of(reward), of=[f"seed {seed}"] * len(found))
    return found


def stress_table(scores: pd.DataFrame, trained: Sequence[str] | None = None) -> pd.DataFrame:
    """The damage table (COLUMNS) of the scores behind it, one row a kind.

    trained: kinds that the reward's training was shown; None = nobody knows. Raises ValueError when all clean shapes
    have the same score, so that nothing can be measured by their spread.
    """
    import pandas as pd

    from reward_model_training.intervals import clustered_interval, mean_interval

    spread = float(scores.groupby("seed")["clean"].first().std(ddof=1))
    if not spread > 0:
        raise ValueError("reward: it gives every clean shape the same score, so there is no spread to measure by")
    rows = []
    for (kind, group), part in scores.groupby(["kind", "group"], sort=False):
        is_known = "unknown" if trained is None else "yes" if kind in trained else "no"
        row: dict[str, Any] = {"kind": kind, "group": group, "trained": is_known}
        row |= {"n": len(part), "n_seeds": part["seed"].nunique()}
        for better, worse in PAIRS:
            is_right = (part[better] > part[worse]).to_numpy()
            share, name = clustered_interval(is_right, part["seed"].to_numpy()), f"{better}_{worse}"
            row |= {f"{name}_share": share.value, f"{name}_low": share.low, f"{name}_high": share.high}
        changes = {f"{each}_change": (part[each] - part["clean"]) / spread for each in ("mild", "severe")}
        changes["size_of_change"] = changes["severe_change"].abs()
        for name, values in changes.items():
            row |= mean_interval(values.groupby(part["seed"]).mean().to_numpy()).columns(name)
        rows.append(row | {"clean_sd": spread})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def trained_kinds(reward: Reward) -> tuple[str, ...] | None:
    """Kinds of damage and ties that a bundle says its training was shown; None for another reward."""
    card = getattr(reward, "card", None)
    if card is None:
        return None
    found: dict[str, None] = {}
    for provenance in [card.provenance, *(member.card.provenance for member in getattr(reward, "members", ()))]:
        training = provenance.get("training")
        made = training.get("made_pairs") if isinstance(training, Mapping) else None
        for names, often in (("kinds", "triples_per_row"), ("ties", "ties_per_row")):
            if isinstance(made, Mapping) and made.get(often):
                found |= dict.fromkeys(map(str, made.get(names, [])))
    return tuple(found)


def table_text(table: pd.DataFrame) -> str:
    """The table for a terminal: what must be ordered, then what must not matter."""
    head = f"{'damage':15}{'trained':9}{'clean > mild':22}{'mild > severe':22}{'clean > severe':22}"
    lines = [f"{head}change in sd: mild, severe"]
    for row in table[table["group"] == DAMAGE].to_dict("records"):
        shares = "".join(f"{_share(row, f'{better}_{worse}'):22}" for better, worse in PAIRS)
        changes = f"{row['mild_change']:+7.2f} {row['severe_change']:+7.2f}"
        changes += f" ({row['severe_change_low']:+.2f} to {row['severe_change_high']:+.2f})"
        lines.append(f"{row['kind']:15}{row['trained']:9}{shares}{changes}")
    is_tie = table["group"] == TIE
    if is_tie.any():
        lines += ["", f"{'must not matter':15}{' trained':9}size of change in sd"]
    for row in table[is_tie].to_dict("records"):
        size = f"{row['size_of_change']:.2f} ({row['size_of_change_low']:.2f} to {row['size_of_change_high']:.2f})"
        lines.append(f"{row['kind']:15}{row['trained']:9}{size}")
    first = table.iloc[0]
    lines.append(f"\n1 sd = {first['clean_sd']:.3g} of the score; {first['n_seeds']} seeds; 95 % intervals by seed")
    return "\n".join(lines)


def _share(row: Mapping[str, Any], name: str) -> str:
    return f"{row[f'{name}_share']:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})"


def load(reward: str | Mapping[str, Any], *, device: str) -> tuple[Reward, dict[str, Path]]:
    """The reward that a command line names, frozen, and the files behind it, by what they are."""
    from eg3d.finetuning.loop import reward_inputs
    from eg3d.finetuning.rewards import reward_from
    from reward_model_training.bundle import load_reward

    named = {"path": reward} if isinstance(reward, str) else dict(reward)
    loaded = load_reward(reward, device=device) if isinstance(reward, str) else reward_from(named, device=device)
    files: dict[str, Path] = {}
    for found in reward_inputs(named).values():
        files |= {f"reward {path.name}": path for path in ([found] if isinstance(found, Path) else found)}
    return loaded, files


@hydra_command(config_name="reward_stress", schema=StressConfig)
def main(cfg: StressConfig) -> None:
    """Damage shapes in known ways and see whether a reward notices, and whether it minds what must not matter."""
    from eg3d.checkpoints.manifest import resolve
    from eg3d.checkpoints.store import load_generator
    from eg3d.run_folder import choose_device
    from reward_model_training.tables import write_table

    device = choose_device(cfg.device)
    reward, files = load(cfg.reward, device=str(device))
    inputs = {"generator": resolve(cfg.generator)} | files
    with progress_bar("seeds damaged", cfg.num_seeds) as advance:
        scores = stress_scores(load_generator(cfg.generator, device=device), reward, cfg, advance=advance)
    table, out = stress_table(scores, trained_kinds(reward)), Path(cfg.out)
    settings = {name: value for name, value in asdict(cfg).items() if name in ProbeConfig.__dataclass_fields__}
    if isinstance(cfg.reward, Mapping):
        settings["reward"] = dict(cfg.reward)
    behind = out.with_name(f"{out.stem}_scores.csv")
    write_table(behind, scores, columns=SCORE_COLUMNS, inputs=inputs, settings=settings)
    write_table(out, table, columns=COLUMNS, inputs=inputs, settings=settings)
    print(f"{table_text(table)}\ntable:  {out}\nscores: {behind}")


if __name__ == "__main__":
    main()
