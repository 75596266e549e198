"""Inception score of class probabilities. Shape letters: N images, K classes."""

from __future__ import annotations

import torch
from torch import Tensor


def inception_score(probabilities: Tensor, *, num_splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL divergence to the mean of each split: its mean and standard deviation over splits.

    probabilities [N, K], rows that sum to 1; splits are consecutive.
    Source: Improved techniques for training GANs (2016), section 4.
    Raises ValueError if there are fewer images than splits.
    """
    if probabilities.ndim != 2 or len(probabilities) < num_splits:
        raise ValueError(
            f"probabilities must be [N, K] with N of {num_splits} (splits) or more, got {list(probabilities.shape)}"
        )
    num = len(probabilities)
    scores = []
    for split in range(num_splits):
        part = probabilities[split * num // num_splits : (split + 1) * num // num_splits].double()
        marginal = part.mean(0, keepdim=True)
        divergence = (torch.xlogy(part, part) - torch.xlogy(part, marginal)).sum(1)
        scores.append(divergence.mean().exp())
    stacked = torch.stack(scores)
    return float(stacked.mean()), float(stacked.std(unbiased=False))
