"""The processes of one training run: each works on its share of every batch, and all take the same steps.

`torchrun --nproc-per-node=N -m eg3d.train ...` starts them; Lightning Fabric joins them (NCCL on GPUs, gloo on CPUs).
Gradients are averaged here and not by a wrapper around the networks, whose hooks the gradient penalty would miss.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from eg3d.run_folder import choose_device

PATIENCE = timedelta(hours=4)  # how long processes wait for the first one to write and to evaluate


class Ranks:
    """Who this process is, and sums over all of them; a process alone communicates with nobody."""

    def __init__(self, device: torch.device, fabric: Any = None) -> None:
        self.device, self._fabric = device, fabric
        self.rank: int = fabric.global_rank if fabric else 0
        self.size: int = fabric.world_size if fabric else 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and log lines."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor of any shape over all processes, the same on each."""
        return tensor if self._fabric is None else self._fabric.all_reduce(tensor, reduce_op="sum")

    def gather(self, tensor: Tensor) -> Tensor:
        """[processes, ...]: what each process has, which must be of one shape; the same on each."""
        rows = tensor.new_zeros(self.size, *tensor.shape)
        rows[self.rank] = tensor
        return self.sum(rows)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process, the same on each."""
        return flag if self._fabric is None else bool(self.sum(torch.tensor(int(flag), device=self.device)) > 0)

    def mean(self, tensors: list[Tensor | None]) -> list[Tensor | None]:
        """Means of tensors of any shapes over all processes, in one message; None stays None and is None everywhere."""
        present = [tensor for tensor in tensors if tensor is not None]
        if self._fabric is None or not present:
            return tensors
        flat = self.sum(torch.cat([tensor.reshape(-1) for tensor in present])) / self.size
        parts = iter(flat.split([tensor.numel() for tensor in present]))
        return [None if tensor is None else next(parts).view_as(tensor) for tensor in tensors]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self._fabric is not None:
            self._fabric.barrier()

    def leave(self) -> None:
        """Take leave of the other processes at the end of the run, so that none ends while another still needs it."""
        if self._fabric is not None:
            self._fabric.barrier()
            torch.distributed.destroy_process_group()


def is_launched() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


def is_first_process() -> bool:
    """Whether this process is the one that speaks to the user, known before the processes have joined."""
    return os.environ.get("RANK", "0") == "0"


def join_ranks(device: str) -> Ranks:
    """Join the processes that torchrun started; without torchrun this process is alone on `device`."""
    chosen = choose_device(device)
    if not is_launched():
        return Ranks(chosen)
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    local, total = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ["WORLD_SIZE"])
    if chosen.type == "cuda" and local > torch.cuda.device_count():
        raise ValueError(f"torchrun: {local} processes on {torch.cuda.device_count()} GPUs; give one process a GPU")
    fabric = Fabric(
        accelerator=chosen.type, devices=local, num_nodes=total // local, strategy=DDPStrategy(timeout=PATIENCE)
    )
    fabric.launch()
    return Ranks(fabric.device, fabric)
