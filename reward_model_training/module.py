"""Lightning module of reward training: steps, metrics and the optimiser, nothing else.

Shapes: M slabs of a batch, B rows, K items a row, P pairs. Source: the released system.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from eg3d.representations.sigma_field import normalise_sigma_self, to_network_axes
from reward_model_training.data.dataset import RankedBatch
from reward_model_training.losses import (
    LossConfig,
    RankedPairs,
    pairs_are_right,
    pairs_loss,
    preference_loss,
    random_orders,
    ranked_pairs,
    reconstruction_loss,
)
from reward_model_training.models import SigmaRewardModel
from reward_model_training.optimiser import OptimiserConfig


class Outputs(NamedTuple):
    """Head outputs of one batch."""

    forward: Tensor  # [P, 2] pair logits, better item first
    backward: Tensor  # [P, 2] pair logits, worse item first
    scalar: Tensor  # [M] rewards
    bt: Tensor  # [M] log strengths
    recon: Tensor  # scalar, reconstruction loss


class RewardModule(LightningModule):
    """Trains `model`; `upper` is the upper end of the slab normalisation."""

    def __init__(
        self,
        model: SigmaRewardModel,
        loss: LossConfig,
        optimiser: OptimiserConfig,
        *,
        seed: int,
        upper: float = 100.0,
    ) -> None:
        super().__init__()
        self.model, self.loss_cfg, self.optimiser_cfg = model, loss, optimiser
        self.seed, self.upper = seed, upper

    def outputs(self, batch: RankedBatch, pairs: RankedPairs) -> Outputs:
        """Encode every slab of a batch once and apply the heads; the reconstruction loss comes along."""
        cfg, embeddings, recon = self.loss_cfg, [], []
        for slabs in batch.slabs.split(self.optimiser_cfg.items_at_once):
            x = to_network_axes(normalise_sigma_self(slabs.float(), 0.0, self.upper))
            feature, volume = self.model.encode(x)
            embeddings.append(self.model.trunk(feature))
            if cfg.lambda_recon > 0:
                scale = self.upper if cfg.normalise_recon else 1.0
                recon.append(len(x) * reconstruction_loss(volume, x, kind=cfg.recon_kind, upper=scale))
        f = torch.cat(embeddings)
        first, second = f[pairs.first], f[pairs.second]
        return Outputs(
            forward=self.model.pairs(first, second),
            backward=self.model.pairs(second, first),
            scalar=self.model.scalar(f),
            bt=self.model.bt(f),
            recon=torch.stack(recon).sum() / len(f) if recon else f.new_zeros(()),
        )

    def terms(self, out: Outputs, pairs: RankedPairs) -> dict[str, Tensor]:
        """Unweighted loss terms and their weighted sum `loss`."""
        cfg, orders = self.loss_cfg, None
        if 0 <= cfg.single_order_from_epoch <= self.current_epoch:
            orders = random_orders(len(pairs.first), seed=self.seed, step=self.global_step, device=out.forward.device)
        terms = {
            "pairs_loss": pairs_loss(out.forward, out.backward, pairs.weight, takes_forward=orders),
            "scalar_loss": preference_loss(out.scalar[pairs.first], out.scalar[pairs.second], pairs.weight),
            "bt_loss": preference_loss(out.bt[pairs.first], out.bt[pairs.second], pairs.weight),
            "recon_loss": out.recon,
        }
        weights = (cfg.lambda_pairs, cfg.lambda_scalar_rwd, cfg.lambda_BT, cfg.lambda_recon)
        weighted = [w * term for w, term in zip(weights, terms.values(), strict=True)]
        terms["loss"] = torch.stack(weighted).sum()
        return terms

    def training_step(self, batch: RankedBatch, _: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: RankedBatch, _: int) -> None:
        self._step(batch, "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        cfg = self.optimiser_cfg
        return torch.optim.Adam(self.model.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)

    def _step(self, batch: RankedBatch, stage: str) -> Tensor:
        pairs = ranked_pairs(batch.index)
        out = self.outputs(batch, pairs)
        terms = self.terms(out, pairs)
        if stage == "train" and not torch.isfinite(terms["loss"]):
            raise RuntimeError(f"the loss is {terms['loss'].item()} at step {self.global_step}; lower optimiser.lr")
        logged = {f"{stage}/{name}": value.detach() for name, value in terms.items()}
        logged |= {f"{stage}/{name}": value for name, value in accuracies(out, pairs).items()}
        self.log_dict(logged, batch_size=len(batch.index), on_step=False, on_epoch=True)
        if stage == "train":
            self.log("train/step_loss", terms["loss"].detach(), on_step=True, on_epoch=False)
        return terms["loss"]


def accuracies(out: Outputs, pairs: RankedPairs) -> dict[str, Tensor]:
    """Share of the pairs of a batch that each head orders rightly, rows weighted equally."""
    with torch.no_grad():
        return {
            "pairs_accuracy": (pairs.weight * pairs_are_right(out.forward, out.backward)).sum(),
            "scalar_accuracy": (pairs.weight * (out.scalar[pairs.first] > out.scalar[pairs.second])).sum(),
            "bt_accuracy": (pairs.weight * (out.bt[pairs.first] > out.bt[pairs.second])).sum(),
        }
