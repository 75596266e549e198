"""Numbers that are not finite: how a phase finds them in one look at the device, and what is never written.

Source of the clean-up that mode "published" keeps: StyleGAN2-ADA (2020), its gradients before a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

MODES = ("skip", "published")
NAN_GRADIENT, INFINITE_GRADIENT = 0.0, 1e5  # what "published" puts in place of NaN and of infinities
LARGEST_NORM = 1e18  # Adam keeps squares of gradients, in float32: what is larger counts as infinite
NUM_NAMED = 3  # names shown of a longer list


def clean_gradient(gradient: Tensor | None) -> Tensor | None:
    """NaN to 0 and infinities to +-1e5, as published, in a gradient [...]; None stays None (it had no part)."""
    if gradient is None:
        return None
    return torch.nan_to_num(gradient, nan=NAN_GRADIENT, posinf=INFINITE_GRADIENT, neginf=-INFINITE_GRADIENT)


def gradient_norm(gradients: Iterable[Tensor | None]) -> Tensor:
    """L2 norm over all tensors, a scalar where they are; not finite where one of their numbers is not."""
    return torch.nn.utils.get_total_norm([g for g in gradients if g is not None])


def fault_of(name: str, loss: float, norm: float) -> str:
    """What is not finite of a term, "adversarial: loss nan, gradient inf"; empty when both are finite."""
    parts = [] if math.isfinite(loss) else [f"loss {loss}"]
    parts += [] if norm <= LARGEST_NORM else [f"gradient {norm:g}"]
    return f"{name}: {', '.join(parts)}" if parts else ""


def require_finite(
    networks: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer], *, where: str
) -> None:
    """Raise RuntimeError when a number of a network or an optimiser is not finite, before anything is written.

    `where` says which run it is and how far it is, for the message.
    """
    tensors = {f"{key} of {name}": value for name, net in networks.items() for key, value in net.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, entry in optimizer.state_dict()["state"].items():
            tensors |= {f"{key} {index} of {name}'s Adam": torch.as_tensor(value) for key, value in entry.items()}
    kept = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    wrong = [name for name, is_fine in zip(kept, all_finite(list(kept.values())), strict=True) if not is_fine]
    if wrong:
        shown = ", ".join(wrong[:NUM_NAMED]) + (", ..." if len(wrong) > NUM_NAMED else "")
        raise RuntimeError(
            f"{where}, {shown} is not finite: training diverged; the last snapshot and state are as they were: start "
            "from them with lower learning rates"
        )


def all_finite(tensors: Sequence[Tensor]) -> list[bool]:
    """Of each tensor [...], of any shape, whether all its numbers are finite; devices are asked once each."""
    flags = [tensor.isfinite().all() for tensor in tensors]
    found = [False] * len(flags)
    for device in {flag.device for flag in flags}:
        there = [number for number, flag in enumerate(flags) if flag.device == device]
        for number, flag in zip(there, torch.stack([flags[number] for number in there]).tolist(), strict=True):
            found[number] = flag
    return found
