"""Losses of reward training, as pure functions of head outputs.

Symbols: x an item, f = MLP(N(x)) its embedding (N the backbone), r_theta(x) its scalar reward, b its log strength,
h the pairs head, sigma the logistic function, C(K, 2) = K (K - 1) / 2 the pairs of a row of K items; w better, l worse.
Shapes: B ranked rows, K items a row (best first), P ordered pairs of a batch.

    L = L_rank + lambda_recon L_recon + lambda_made L_made + lambda_ties L_ties
    L_rank = lambda_pairs L_pairs + lambda_scalar_rwd L_w + lambda_BT L_BT

L_w is the loss of the paper; the released system adds the others, and its weights make L_pairs the largest. Source:
Sculpting NeRF Geometry (2026), reward training, and its released behaviour. Two released terms are left out because
they do nothing: the norm of the strengths (weight 1e-8, taken of detached values, so without gradient) and the norm of
the features (weight 0). L_made is L_rank over made rows (clean, mild, severe damage), L_ties the same sum of tie losses
over pairs that must be judged the same; both are new, and nothing without data.made_pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d.config_checks import one_of

RECON_KINDS = ("l1", "mse")


@dataclass
class RewardLossConfig:
    """Weights of the terms; the defaults are those of the published density experiment."""

    lambda_pairs: float = 1.0  # of L_pairs
    lambda_scalar_rwd: float = 1e-3  # of L_w: the head that fine-tuning uses
    lambda_BT: float = 1e-3  # of L_BT
    lambda_recon: float = 1e-2  # of L_recon; 0 for backbones that reconstruct nothing
    lambda_made: float = 1.0  # of L_made, beside rankings of weight 1; without made triples it does nothing
    lambda_ties: float = 1.0  # of L_ties; without made ties it does nothing
    recon_kind: str = "l1"  # l1 or mse
    normalise_recon: bool = True  # both volumes as shares of the normalised range, so that the term is about 0..1
    # The released code takes one random order of each pair from epoch 3 on, in validation too. -1 = always both.
    single_order_from_epoch: int = -1  # epoch index; 3 = as released

    def validate(self) -> list[str]:
        """All faults of this config, one string each."""
        names = ("lambda_pairs", "lambda_scalar_rwd", "lambda_BT", "lambda_recon", "lambda_made", "lambda_ties")
        faults = [f"{n}: {getattr(self, n)} is negative" for n in names if not getattr(self, n) >= 0]
        if all(getattr(self, n) == 0 for n in names[:3]):
            faults.append("lambda_pairs, lambda_scalar_rwd, lambda_BT: all are 0, so nothing learns the rankings")
        return faults + one_of("recon_kind", self.recon_kind, RECON_KINDS)


class RankedPairs(NamedTuple):
    """Every pair (i, j), i < j, of every row of a batch."""

    first: Tensor  # [P] index of the better item
    second: Tensor  # [P] index of the worse item
    weight: Tensor  # [P] float32: 1 / (B C(K, 2)), B rows that have pairs; sums to 1


def ranked_pairs(index: Tensor) -> RankedPairs:
    """Pairs of the rows of index [B, K], item numbers best first, padded with -1 at the end.

    Rows with fewer than two items count for nothing; without any pair all three tensors are empty.
    """
    i, j = torch.triu_indices(index.shape[1], index.shape[1], offset=1, device=index.device)
    first, second = index[:, i], index[:, j]  # [B, pairs of a full row]
    is_pair = second >= 0
    num_pairs = is_pair.sum(1, keepdim=True)
    num_rows = (num_pairs > 0).sum().clamp(min=1)
    weight = (1.0 / (num_pairs.clamp(min=1) * num_rows)).expand_as(first)
    return RankedPairs(first[is_pair], second[is_pair], weight[is_pair])


def pairs_loss(
    logits_forward: Tensor, logits_backward: Tensor, weight: Tensor, *, takes_forward: Tensor | None = None
) -> Tensor:
    """L_pairs = 1/C(K, 2) E [CE(h(f_w, f_l), 0) + CE(h(f_l, f_w), 1)] / 2: cross-entropy of both orders of each pair.

    weight [P] of `ranked_pairs` holds 1/C(K, 2) and the mean over rows.
    logits_forward [P, 2] = head(better, worse), whose right class is 0; logits_backward [P, 2] =
    head(worse, better), whose right class is 1. Given bool takes_forward [P], only that order of each pair
    counts (the released single-order training).
    """
    loss_forward = F.softplus(logits_forward[:, 1] - logits_forward[:, 0])
    loss_backward = F.softplus(logits_backward[:, 0] - logits_backward[:, 1])
    if takes_forward is None:
        return (weight * (loss_forward + loss_backward)).sum() / 2
    return (weight * torch.where(takes_forward, loss_forward, loss_backward)).sum()


def pairs_are_right(forward: Tensor, backward: Tensor) -> Tensor:
    """bool [P]: the probability of the right answer, averaged over both orders, exceeds 0.5 (strictly)."""
    right = forward.softmax(1)[:, 0] + backward.softmax(1)[:, 1]
    return right > 1.0


def preference_loss(better: Tensor, worse: Tensor, weight: Tensor) -> Tensor:
    """L_w = -1/C(K, 2) E_{(x_w, x_l) ~ D} [log sigma(r_theta(x_w) - r_theta(x_l))], the paper's ranking loss.

    better, worse [P]: the scores r_theta(x_w), r_theta(x_l) of each pair; weight [P] of `ranked_pairs` holds 1/C(K, 2)
    and the mean over rows. Returns a scalar, finite for any finite scores. On log strengths it is the Bradley-Terry
    loss L_BT = -1/C(K, 2) E [log(exp(b_w) / (exp(b_w) + exp(b_l)))].
    """
    return (weight * F.softplus(worse - better)).sum()


def tie_loss(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of the scores [E] of pairs that are the same; a scalar."""
    return (first - second).square().mean()


def pairs_tie_loss(forward: Tensor, backward: Tensor) -> Tensor:
    """Cross-entropy of both orders of tied pairs against one half each, above its least (log 2); a scalar, 0 or more.

    forward, backward [E, 2]: logits of the pairs head, of each order. It is the same for the pair turned round.
    """
    gaps = torch.cat([forward[:, 1] - forward[:, 0], backward[:, 1] - backward[:, 0]])
    return (0.5 * (F.softplus(gaps) + F.softplus(-gaps)) - math.log(2)).mean()


def reconstruction_loss(recon: Tensor, target: Tensor, *, kind: str, upper: float = 1.0) -> Tensor:
    """L_recon: L1 or mean squared difference of two tensors of one shape [N, ...], both divided by `upper` first.

    `target` is what the network was shown, up to `upper`; the result, a scalar, is then a share of that range.
    """
    difference = (recon - target) / upper
    return difference.abs().mean() if kind == "l1" else difference.square().mean()


def random_orders(num_pairs: int, *, seed: int, step: int, device: torch.device | str = "cpu") -> Tensor:
    """bool [P]: which order of each pair is taken, named by run seed and step, so that a resumed run agrees."""
    rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return (torch.rand(num_pairs, generator=rng) < 0.5).to(device)
