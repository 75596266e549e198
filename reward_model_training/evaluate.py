"""Accuracy of a reward bundle on held-out rankings: python -m reward_model_training.evaluate reward=PATH ...

Rows of the table: split; filter (`all_seeds` = with an anchor in front of each row, `no_goodseeds` = regular
samples only, the published names); pairs (`best_worst` of a ranking, or `all` of its pairs); head; reference
(`rankings` as given, or `noise_free_simulated`: the simulated annotator's own scores without its noise).
The head `annotator` compares the rankings themselves with the noise-free order: the noise that training saw.
Source: Sculpting NeRF Geometry (2026) and its released behaviour.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from eg3d.file_hash import sha256_of
from eg3d.hydra_command import hydra_command
from eg3d.progress import progress_bar
from eg3d.safe_write import write_text
from reward_model_training.data.dataset import RankedDataConfig, Splits, make_splits, reduced, row_anchor
from reward_model_training.data.representation_store import RepresentationStore, SampleKey
from reward_model_training.intervals import clustered_interval, wilson
from reward_model_training.preferences.rankings import read_rankings

if TYPE_CHECKING:
    from torch import Tensor

    from reward_model_training.bundle import BundledReward
    from reward_model_training.card import RewardCard

HEADS = ("pairs", "scalar", "BT")


class SamplePair(NamedTuple):
    """Two samples of one ranking batch."""

    better: SampleKey
    worse: SampleKey
    batch: int


@dataclass(frozen=True)
class Accuracy:
    """One row of the accuracy table."""

    split: str
    filter: str
    pairs: str
    head: str
    reference: str
    n_examples: int  # pairs
    n_correct: int
    accuracy: float  # share, 0 to 1
    ci_low: float  # Wilson interval, 95 %, as if pairs were independent
    ci_high: float
    n_clusters: int  # ranking batches that the pairs come from
    design_effect: float  # variance of the accuracy over that of as many independent pairs
    clustered_low: float  # interval, 95 %, that knows that pairs of a batch go together
    clustered_high: float


@dataclass
class EvaluateConfig:
    """Which bundle on which rankings; the split is made as in training."""

    reward: str = ""  # bundle folder, or a name in checkpoints/manifest.json
    data: RankedDataConfig = field(default_factory=RankedDataConfig)
    seed: int = 42  # names the anchor of each row
    items_at_once: int = 1  # items per encoder pass
    out: str = "final_metrics.csv"  # table to write
    into_card: bool = False  # also into the bundle's reward.yaml, in place of the table there: of the same pairs
    device: str = "auto"

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        faults = [] if self.reward else ["reward: give reward=PATH"]
        return faults + self.data.missing_inputs("data.")


def read_scores(cfg: RankedDataConfig) -> dict[int, float] | None:
    """Noise-free simulated scores by seed (higher = better), or None where there is no table.

    Raises FileNotFoundError for a named table that is missing, ValueError for a malformed one.
    """
    path = Path(cfg.scores) if cfg.scores else Path(cfg.rankings).with_name("scores.csv")
    if not path.is_file():
        if cfg.scores:
            raise FileNotFoundError(f"{path}: no such table of simulated scores (data.scores)")
        return None
    from reward_model_training.preferences import simulated_rankings

    return {seed: found.score for seed, found in simulated_rankings.read_scores(path).items()}


def embed(
    reward: BundledReward, store: RepresentationStore, keys: Iterable[SampleKey], *, items_at_once: int = 1
) -> dict[SampleKey, Tensor]:
    """Embedding [D] of every sample, each encoded once; on the CPU."""
    import torch

    keys, device = list(dict.fromkeys(keys)), next(reward.parameters()).device
    chunks = [keys[i : i + items_at_once] for i in range(0, len(keys), items_at_once)]
    found: dict[SampleKey, Tensor] = {}
    with torch.no_grad(), progress_bar("items encoded", len(keys)) as advance:
        for chunk in chunks:
            features = reward.features(store.batch(chunk).to(device)).cpu()
            found |= dict(zip(chunk, features, strict=True))
            advance(len(chunk))
    return found


def accuracy_table(
    reward: BundledReward,
    splits: Splits,
    store: RepresentationStore,
    *,
    seed: int,
    scores: dict[int, float] | None = None,
    items_at_once: int = 1,
) -> list[Accuracy]:
    """Accuracy of the three heads, for anchors on and off, by the rankings and by the noise-free order."""
    table = []
    for split in ("val", "test"):
        embeddings = embed(reward, store, splits.keys(split), items_at_once=items_at_once)
        reductions = ("best_worst", "all") if any(len(r.items) > 2 for r in splits.rows[split]) else ("best_worst",)
        for reduction in reductions:
            for filter_name in ("all_seeds", "no_goodseeds"):
                pairs = _pairs(splits, split, reduction, with_anchor=filter_name == "all_seeds", seed=seed)
                if filter_name == "all_seeds" and len(splits.anchors[split]) == 0:
                    continue
                label = (split, filter_name, reduction)
                table += _judged(reward, embeddings, pairs, label, "rankings")
                if scores is not None and filter_name == "no_goodseeds":
                    table += _judged_noise_free(reward, embeddings, pairs, scores, label)
    return table


def check_same_pairs(card: RewardCard, cfg: EvaluateConfig, *, generator_sha256: str) -> None:
    """Raise ValueError, in one line, where `cfg` has other rankings, generator or splits than the card was made of.

    The members of an ensemble have a seed each, so that none is the ensemble's. Where they learnt from rankings of
    their own, any table will do, and the card names it: that no member learnt from the rows of its splits val and test
    is for the caller to see to.
    """
    from reward_model_training.card import EnsembleCard

    made, data = card.provenance, cfg.data
    training = made.get("training", {})
    both = {
        "data.rankings": (made.get("rankings", {}).get("sha256"), sha256_of(data.rankings)),
        "data.generator": (made.get("generator", {}).get("sha256"), generator_sha256),
        "data.anchors": (training.get("anchors"), asdict(data.anchors)),
        "data.proportion": (training.get("proportion"), data.proportion),
        "seed": (training.get("seed"), cfg.seed),
    }
    if isinstance(card, EnsembleCard):
        del both["seed"]
        if len({member.card.provenance.get("rankings", {}).get("sha256") for member in card.members}) > 1:
            del both["data.rankings"]
    found = [f"{name}: the card has {there}, now {here}" for name, (there, here) in both.items() if there != here]
    if found:
        raise ValueError(f"into_card: {cfg.reward} was evaluated on other pairs ({'; '.join(found)}); give those")


def write_accuracy(path: str | Path, table: Sequence[Accuracy]) -> None:
    """Write an accuracy table as CSV, atomically."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [f.name for f in fields(Accuracy)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in table)
    write_text(path, text.getvalue())


def table_text(table: Sequence[Accuracy]) -> str:
    """The table for a terminal."""
    head = f"{'split':6}{'filter':14}{'pairs':12}{'head':11}{'reference':22}{'accuracy':>9}"
    lines = [f"{head}  95 % interval   by batch        pairs of batches"]
    lines += [
        f"{r.split:6}{r.filter:14}{r.pairs:12}{r.head:11}{r.reference:22}{r.accuracy:9.4f}  "
        f"{r.ci_low:.3f} to {r.ci_high:.3f}  {r.clustered_low:.3f} to {r.clustered_high:.3f}  "
        f"{r.n_examples} of {r.n_clusters}"
        for r in table
    ]
    return "\n".join(lines)


def _pairs(splits: Splits, split: str, reduction: str, *, with_anchor: bool, seed: int) -> list[SamplePair]:
    pairs = []
    for number, row in enumerate(splits.rows[split]):
        anchor = row_anchor(splits.anchors[split], seed=seed, epoch=0, row=number, probability=float(with_anchor))
        front = () if anchor is None else (splits.anchor(anchor),)
        pairs += [SamplePair(*pair, row.batch) for pair in combinations(front + reduced(row, reduction), 2)]
    return pairs


def _judged(
    reward: BundledReward,
    embeddings: dict[SampleKey, Tensor],
    pairs: list[SamplePair],
    label: tuple[str, str, str],
    reference: str,
) -> list[Accuracy]:
    import torch

    from reward_model_training.losses import pairs_are_right

    if not pairs:
        return []
    device = next(reward.parameters()).device
    first = torch.stack([embeddings[pair.better] for pair in pairs]).to(device)
    second = torch.stack([embeddings[pair.worse] for pair in pairs]).to(device)
    model = reward.model
    with torch.no_grad():
        right = {
            "pairs": pairs_are_right(model.pairs(first, second), model.pairs(second, first)),
            "scalar": model.scalar(first) > model.scalar(second),
            "BT": model.bt(first) > model.bt(second),
        }
    return [_accuracy(label, head, reference, right[head].tolist(), pairs) for head in HEADS]


def _judged_noise_free(
    reward: BundledReward,
    embeddings: dict[SampleKey, Tensor],
    pairs: list[SamplePair],
    scores: dict[int, float],
    label: tuple[str, str, str],
) -> list[Accuracy]:
    known = [p for p in pairs if p.better.seed in scores and p.worse.seed in scores]
    known = [p for p in known if scores[p.better.seed] != scores[p.worse.seed]]
    agrees = [scores[p.better.seed] > scores[p.worse.seed] for p in known]
    true = [p if is_so else SamplePair(p.worse, p.better, p.batch) for p, is_so in zip(known, agrees, strict=True)]
    if not true:
        return []
    reference = "noise_free_simulated"
    rows = _judged(reward, embeddings, true, label, reference)
    return [*rows, _accuracy(label, "annotator", reference, agrees, known)]


def _accuracy(
    label: tuple[str, str, str], head: str, reference: str, correct: Sequence[bool], pairs: Sequence[SamplePair]
) -> Accuracy:
    found = clustered_interval(np.array(correct), np.array([pair.batch for pair in pairs]))
    simple = wilson(found.count, found.total)
    split, filter_name, reduction = label
    return Accuracy(
        split=split,
        filter=filter_name,
        pairs=reduction,
        head=head,
        reference=reference,
        n_examples=found.total,
        n_correct=found.count,
        accuracy=found.value,
        ci_low=simple.low,
        ci_high=simple.high,
        n_clusters=found.num_clusters,
        design_effect=found.design_effect,
        clustered_low=found.low,
        clustered_high=found.high,
    )


def evaluate(cfg: EvaluateConfig) -> list[Accuracy]:
    """The accuracy table of a bundle, written to `cfg.out`, and into its card where `cfg` says so.

    Raises ValueError or FileNotFoundError, in one line, for unusable inputs.
    """
    from eg3d.run_folder import choose_device
    from reward_model_training.bundle import load_reward, replace_metrics

    reward = load_reward(cfg.reward, device=choose_device(cfg.device))
    splits = make_splits(read_rankings(cfg.data.rankings), cfg.data, seed=cfg.seed)
    store = cfg.data.open_store(reward.representation, reward.sample, device=choose_device(cfg.device))
    if cfg.into_card:
        check_same_pairs(reward.card, cfg, generator_sha256=store.source)
    table = accuracy_table(
        reward, splits, store, seed=cfg.seed, scores=read_scores(cfg.data), items_at_once=cfg.items_at_once
    )
    write_accuracy(cfg.out, table)
    if cfg.into_card:
        pairs = {"name": Path(cfg.data.rankings).name, "sha256": sha256_of(cfg.data.rankings)}
        is_own = reward.card.provenance.get("rankings", {}).get("sha256") == pairs["sha256"]
        replace_metrics(cfg.reward, [asdict(row) for row in table], evaluated_on={} if is_own else pairs)
    return table


@hydra_command(config_name="reward_evaluate", schema=EvaluateConfig)
def main(cfg: EvaluateConfig) -> None:
    """Accuracy of a trained reward on the validation and test splits of a rankings table, with intervals."""
    from reward_model_training.bundle import bundle_files

    print(f"{table_text(evaluate(cfg))}\ntable: {cfg.out}")
    if cfg.into_card:
        print(f"card:  {bundle_files(cfg.reward)[1]}")


if __name__ == "__main__":
    main()
