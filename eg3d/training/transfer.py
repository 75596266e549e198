"""Starting a network from another one: whatever has the same name and shape is taken over."""

from __future__ import annotations

import logging

import torch
from torch import nn

log = logging.getLogger(__name__)
NUM_NAMED = 4  # names shown of a longer list


@torch.no_grad()
def transfer(network: nn.Module, source: nn.Module, label: str) -> list[str]:
    """Copy parameters and buffers of `source` into `network` by name; returns the names that stay as they were.

    One log line says what was taken over and what not. Raises ValueError when nothing fits.
    """
    found, taken = source.state_dict(), []
    for name, tensor in network.state_dict().items():
        if name in found and found[name].shape == tensor.shape:
            tensor.copy_(found[name])
            taken.append(name)
    left = [name for name in network.state_dict() if name not in set(taken)]
    if not taken:
        raise ValueError(f"start: nothing in {label} has the name and shape of a tensor of this config's network")
    shown = ", ".join(left[:NUM_NAMED]) + (", ..." if len(left) > NUM_NAMED else "")
    log.info("%s: %d tensors taken over%s", label, len(taken), f", {len(left)} new ({shown})" if left else "")
    return left
