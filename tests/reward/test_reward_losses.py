"""Reward losses: symmetries, closed forms, extreme values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from reward_model_training.losses import (
    RewardLossConfig,
    pairs_are_right,
    pairs_loss,
    preference_loss,
    random_orders,
    ranked_pairs,
    reconstruction_loss,
)


def test_published_weights():
    cfg = RewardLossConfig()
    weights = (cfg.lambda_pairs, cfg.lambda_scalar_rwd, cfg.lambda_BT, cfg.lambda_recon)
    assert weights == (1.0, 1e-3, 1e-3, 1e-2)
    assert cfg.single_order_from_epoch == -1
    assert cfg.validate() == []


def test_pairs_of_ragged_rows():
    index = torch.tensor([[4, 1, 7], [3, 2, -1], [5, -1, -1]])
    pairs = ranked_pairs(index)
    found = sorted(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.weight.tolist(), strict=True))
    assert [(i, j) for i, j, _ in found] == [(1, 7), (3, 2), (4, 1), (4, 7)]
    assert [w for *_, w in found] == pytest.approx([1 / 6, 1 / 2, 1 / 6, 1 / 6])


def test_no_pairs_give_zero_not_nan():
    pairs = ranked_pairs(torch.tensor([[0], [1]]))
    empty = torch.zeros(0, 2)
    assert pairs_loss(empty, empty, pairs.weight) == 0
    assert preference_loss(empty[:, 0], empty[:, 0], pairs.weight) == 0


def test_pairs_loss_is_the_mean_of_two_cross_entropies():
    forward, backward = torch.randn(5, 2), torch.randn(5, 2)
    zeros = torch.zeros(5, dtype=torch.long)
    expected = (F.cross_entropy(forward, zeros) + F.cross_entropy(backward, zeros + 1)) / 2
    torch.testing.assert_close(pairs_loss(forward, backward, torch.full((5,), 0.2)), expected)


def test_swapping_a_pair_and_its_label_leaves_the_loss():
    """Both orders count, so naming the pair (j, i) with the opposite label is the same example."""
    torch.manual_seed(0)
    head, f = torch.nn.Linear(8, 2), torch.randn(6, 4)
    i, j, weight = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5]), torch.full((3,), 1 / 3)

    def loss(first, second, first_is_better: bool):
        forward = head(torch.cat([f[first], f[second]], 1))
        backward = head(torch.cat([f[second], f[first]], 1))
        return pairs_loss(forward, backward, weight) if first_is_better else pairs_loss(backward, forward, weight)

    torch.testing.assert_close(loss(i, j, True), loss(j, i, False), rtol=0, atol=0)


def test_single_order_takes_the_named_order():
    forward, backward, weight = torch.randn(4, 2), torch.randn(4, 2), torch.full((4,), 0.25)
    both = pairs_loss(forward, backward, weight)
    only = [pairs_loss(forward, backward, weight, takes_forward=torch.full((4,), flag)) for flag in (True, False)]
    torch.testing.assert_close(sum(only) / 2, both)


def test_random_orders_are_named_by_seed_and_step():
    first = random_orders(200, seed=1, step=5)
    assert torch.equal(first, random_orders(200, seed=1, step=5))
    assert not torch.equal(first, random_orders(200, seed=1, step=6))
    assert 0.3 < first.float().mean() < 0.7


def test_bradley_terry_equals_the_scalar_form():
    b_i, b_j = torch.randn(9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    weight = torch.full((9,), 1 / 9, dtype=torch.float64)
    strengths = -torch.log(b_i.exp() / (b_i.exp() + b_j.exp())).mean()
    torch.testing.assert_close(preference_loss(b_i, b_j, weight), strengths)


@pytest.mark.parametrize("gap", [1e4, -1e4, 0.0])
def test_extreme_scores_stay_finite(gap):
    score = torch.tensor([gap], requires_grad=True)
    loss = preference_loss(score, torch.zeros(1), torch.ones(1))
    loss.backward()
    assert loss.item() == pytest.approx(max(-gap, 0.0) if gap else math.log(2))
    assert torch.isfinite(score.grad).all()


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = pairs_loss(logits, logits, torch.ones(1))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("kind", "expected"), [("l1", 0.5), ("mse", 0.25)])
def test_reconstruction_is_a_share_of_the_range(kind, expected):
    target = torch.full((2, 1, 3, 3, 3), 100.0)
    loss = reconstruction_loss(target / 2, target, kind=kind, upper=100.0)
    assert loss.item() == pytest.approx(expected)
    assert reconstruction_loss(target, target, kind=kind, upper=100.0) == 0


def test_pair_accuracy_is_strict_and_averages_both_orders():
    tie = torch.zeros(1, 2)
    assert not pairs_are_right(tie, tie).item()
    sure, unsure = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.5, 0.0]])
    assert pairs_are_right(sure, unsure).item()  # right in one order by more than it is wrong in the other
    assert not pairs_are_right(unsure, sure).item()


def test_faults_of_a_loss_config():
    faults = RewardLossConfig(lambda_pairs=0, lambda_scalar_rwd=0, lambda_BT=0, recon_kind="l3").validate()
    assert any("nothing learns" in fault for fault in faults)
    assert any("recon_kind" in fault for fault in faults)
    assert RewardLossConfig(lambda_recon=-1).validate()
