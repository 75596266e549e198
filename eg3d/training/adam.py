"""Adam as torch.optim.Adam computes it, number for number. Source: Adam (2015), algorithm 1.

PyTorch's own loads its compiler with the first optimiser: 1.4 s and some 100 MB of every run, for nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Optimizer(Protocol):
    """What a phase and a saved state need of an optimiser; those of torch.optim have it too."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any:
        """Move the parameters by their gradients."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""

    def state_dict(self) -> dict[str, Any]:
        """State by position of the parameter, and groups with `params` as positions."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""


class Adam:
    """One group of parameters of any shapes; its state dict is laid out as that of torch.optim.Adam."""

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(params), "lr": lr, "betas": betas, "eps": eps}]
        self.state: dict[int, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for index, parameter in enumerate(self.param_groups[0]["params"]):
            if parameter.grad is not None:
                self._move(parameter, parameter.grad, self._entry(index, parameter))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients; they are never set to zeros."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """State by position of the parameter: step, exp_avg, exp_avg_sq; and the settings, with positions."""
        group = self.param_groups[0]
        return {"state": dict(self.state), "param_groups": [{**group, "params": list(range(len(group["params"])))}]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of another one for the same parameters; it is copied to where they are."""
        params = self.param_groups[0]["params"]
        self.state = {}
        for index, entry in state_dict["state"].items():
            moments = {key: entry[key].to(params[index], copy=True) for key in ("exp_avg", "exp_avg_sq")}
            self.state[index] = {"step": entry["step"].detach().clone().cpu(), **moments}
        settings = {key: value for key, value in state_dict["param_groups"][0].items() if key != "params"}
        self.param_groups[0].update(settings)

    def _entry(self, index: int, parameter: Tensor) -> dict[str, Tensor]:
        if index not in self.state:
            zeros = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            self.state[index] = {"step": torch.tensor(0.0), **zeros}
        return self.state[index]

    def _move(self, parameter: Tensor, gradient: Tensor, entry: dict[str, Tensor]) -> None:
        group, first, second = self.param_groups[0], entry["exp_avg"], entry["exp_avg_sq"]
        beta1, beta2 = group["betas"]
        entry["step"] += 1
        count = entry["step"].item()
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        step_size, scale = group["lr"] / (1 - beta1**count), math.sqrt(1 - beta2**count)
        parameter.addcdiv_(first, (second.sqrt() / scale).add_(group["eps"]), value=-step_size)
