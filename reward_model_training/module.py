"""Lightning module of reward training: steps, metrics and the optimiser, nothing else.

Shapes: M items of a batch, B rows, K items a row, P pairs, E ties. Source: the released system.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from reward_model_training.data.dataset import RankedBatch
from reward_model_training.data.transforms import TransformConfig, to_network_input, upper_end
from reward_model_training.losses import (
    RankedPairs,
    RewardLossConfig,
    pairs_are_right,
    pairs_loss,
    pairs_tie_loss,
    preference_loss,
    random_orders,
    ranked_pairs,
    reconstruction_loss,
    tie_loss,
)
from reward_model_training.models import RewardModel
from reward_model_training.optimiser import OptimiserConfig

MOST_SKIPPED = 10  # steps in a row without finite loss and gradient, after which a run ends
log = logging.getLogger(__name__)


class MadeOutputs(NamedTuple):
    """Pair logits of pairs that nobody ranked: against damaged copies, or ties."""

    pairs: RankedPairs
    forward: Tensor  # [P, 2] or [E, 2], better (of a tie: first) item first
    backward: Tensor  # the other order


class Outputs(NamedTuple):
    """Head outputs of one batch."""

    forward: Tensor  # [P, 2] pair logits, better item first
    backward: Tensor  # [P, 2] pair logits, worse item first
    scalar: Tensor  # [M] rewards
    bt: Tensor  # [M] log strengths
    recon: Tensor  # scalar, reconstruction loss
    made: MadeOutputs | None = None  # clean, mild and severe damage
    ties: MadeOutputs | None = None


class RewardModule(LightningModule):
    """Trains `model` on what `transform` makes of the ranked representations."""

    def __init__(
        self,
        model: RewardModel,
        transform: TransformConfig,
        loss: RewardLossConfig,
        optimiser: OptimiserConfig,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.model, self.transform_cfg, self.loss_cfg, self.optimiser_cfg = model, transform, loss, optimiser
        self.seed = seed
        self.num_skipped = 0  # steps in a row that were not taken

    def outputs(self, batch: RankedBatch, pairs: RankedPairs) -> Outputs:
        """Encode every item of a batch once and apply the heads; the reconstruction loss comes along."""
        cfg, embeddings, recon = self.loss_cfg, [], []
        for items in batch.x.split(self.optimiser_cfg.items_at_once):
            x = to_network_input(items, self.transform_cfg)
            feature, made = self.model.encode(x)
            embeddings.append(self.model.trunk(feature))
            if cfg.lambda_recon > 0 and made is not None:
                upper = upper_end(self.transform_cfg) if cfg.normalise_recon else 1.0
                recon.append(len(x) * reconstruction_loss(made, x, kind=cfg.recon_kind, upper=upper))
        f = torch.cat(embeddings)
        first, second = f[pairs.first], f[pairs.second]
        return Outputs(
            forward=self.model.pairs(first, second),
            backward=self.model.pairs(second, first),
            scalar=self.model.scalar(f),
            bt=self.model.bt(f),
            recon=torch.stack(recon).sum() / len(f) if recon else f.new_zeros(()),
            made=self._made(f, batch.made),
            ties=self._made(f, batch.ties),
        )

    def _made(self, f: Tensor, index: Tensor | None) -> MadeOutputs | None:
        if index is None:
            return None
        pairs = ranked_pairs(index)
        first, second = f[pairs.first], f[pairs.second]
        return MadeOutputs(pairs, self.model.pairs(first, second), self.model.pairs(second, first))

    def terms(self, out: Outputs, pairs: RankedPairs) -> dict[str, Tensor]:
        """Unweighted loss terms and their weighted sum `loss`, all scalars."""
        cfg, orders = self.loss_cfg, None
        if 0 <= cfg.single_order_from_epoch <= self.current_epoch:
            orders = random_orders(len(pairs.first), seed=self.seed, step=self.global_step, device=out.forward.device)
        terms = {
            "pairs_loss": pairs_loss(out.forward, out.backward, pairs.weight, takes_forward=orders),
            "scalar_loss": preference_loss(out.scalar[pairs.first], out.scalar[pairs.second], pairs.weight),
            "bt_loss": preference_loss(out.bt[pairs.first], out.bt[pairs.second], pairs.weight),
            "recon_loss": out.recon,
        }
        heads = (cfg.lambda_pairs, cfg.lambda_scalar_rwd, cfg.lambda_BT)
        weights = [*heads, cfg.lambda_recon]
        if out.made is not None:
            terms |= _made_terms(out, out.made)
            weights += [cfg.lambda_made * weight for weight in heads]
        if out.ties is not None:
            terms |= _tie_terms(out, out.ties)
            weights += [cfg.lambda_ties * weight for weight in heads]
        weighted = [w * term for w, term in zip(weights, terms.values(), strict=True)]
        terms["loss"] = torch.stack(weighted).sum()
        return terms

    def training_step(self, batch: RankedBatch, _: int) -> Tensor:
        """The weighted sum of the loss terms of a batch, a scalar."""
        return self._step(batch, "train")

    def validation_step(self, batch: RankedBatch, _: int) -> None:
        self._step(batch, "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        cfg = self.optimiser_cfg
        return torch.optim.Adam(self.model.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """A step, unless its loss or gradient is not finite: it then counts, but leaves weights and moments alone.

        Raises RuntimeError after MOST_SKIPPED such steps in a row.
        """
        loss = optimizer_closure() if optimizer_closure is not None else None
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        size = torch.nn.utils.get_total_norm(gradients)
        if torch.isfinite(size) and (loss is None or torch.isfinite(loss)):
            self.num_skipped = 0
            for group in optimizer.param_groups:
                group["lr"] = self.optimiser_cfg.lr_at(self.global_step / self.trainer.num_training_batches)
            optimizer.step()
            return
        self.num_skipped += 1
        what = f"step {self.global_step + 1}: loss {loss}, norm of its gradient {size}"
        if self.num_skipped >= MOST_SKIPPED:
            raise RuntimeError(f"{what}: not finite {MOST_SKIPPED} times in a row; lower optimiser.lr")
        log.warning("%s: not finite, the step is skipped", what)

    def _step(self, batch: RankedBatch, stage: str) -> Tensor:
        pairs = ranked_pairs(batch.index)
        out = self.outputs(batch, pairs)
        terms = self.terms(out, pairs)
        logged = {f"{stage}/{name}": value.detach() for name, value in terms.items()}
        logged |= {f"{stage}/{name}": value for name, value in accuracies(out, pairs).items()}
        self.log_dict(logged, batch_size=len(batch.index), on_step=False, on_epoch=True)
        if stage == "train":
            self.log("train/step_loss", terms["loss"].detach(), on_step=True, on_epoch=False)
        return terms["loss"]


def _made_terms(out: Outputs, made: MadeOutputs) -> dict[str, Tensor]:
    """The losses of the three heads over pairs of clean, mild and severe."""
    first, second, weight = made.pairs
    return {
        "made_pairs_loss": pairs_loss(made.forward, made.backward, weight),
        "made_scalar_loss": preference_loss(out.scalar[first], out.scalar[second], weight),
        "made_bt_loss": preference_loss(out.bt[first], out.bt[second], weight),
    }


def _tie_terms(out: Outputs, ties: MadeOutputs) -> dict[str, Tensor]:
    """The losses of the three heads over pairs that must be judged the same."""
    first, second, _ = ties.pairs
    return {
        "ties_pairs_loss": pairs_tie_loss(ties.forward, ties.backward),
        "ties_scalar_loss": tie_loss(out.scalar[first], out.scalar[second]),
        "ties_bt_loss": tie_loss(out.bt[first], out.bt[second]),
    }


def accuracies(out: Outputs, pairs: RankedPairs) -> dict[str, Tensor]:
    """Share of the pairs of a batch that each head orders rightly, rows weighted equally: scalars, 0 to 1."""
    with torch.no_grad():
        found = {} if out.made is None else {"made_scalar_accuracy": _made_accuracy(out, out.made)}
        return found | {
            "pairs_accuracy": (pairs.weight * pairs_are_right(out.forward, out.backward)).sum(),
            "scalar_accuracy": (pairs.weight * (out.scalar[pairs.first] > out.scalar[pairs.second])).sum(),
            "bt_accuracy": (pairs.weight * (out.bt[pairs.first] > out.bt[pairs.second])).sum(),
        }


def _made_accuracy(out: Outputs, made: MadeOutputs) -> Tensor:
    first, second, weight = made.pairs
    return (weight * (out.scalar[first] > out.scalar[second])).sum()
