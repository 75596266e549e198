"""Our Adam against PyTorch's, number for number, and what training loads for it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from eg3d.training.adam import Adam


def twins() -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    rng = torch.Generator().manual_seed(0)
    values = [torch.randn(3, 4, generator=rng), torch.randn(5, generator=rng), torch.randn([], generator=rng)]
    one, other = ([torch.nn.Parameter(value.clone()) for value in values] for _ in range(2))
    return one, other


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_it_takes_the_steps_of_torch_to_the_bit(beta1: float) -> None:
    ours, theirs = twins()
    settings = {"lr": 0.01, "betas": (beta1, 0.99), "eps": 1e-8}
    one, other = Adam(ours, **settings), torch.optim.Adam(theirs, **settings)
    rng = torch.Generator().manual_seed(1)
    for number in range(6):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = b.grad = None if number == 2 and a.ndim == 1 else torch.randn(a.shape, generator=rng)
        if number == 3:  # each goes on from the other's state
            state = one.state_dict()
            one.load_state_dict(other.state_dict())
            other.load_state_dict({**state, "param_groups": other.state_dict()["param_groups"]})
        one.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 0.01 / (1 + number)
        one.step()
        other.step()
        one.zero_grad(set_to_none=True)
        assert all(parameter.grad is None for parameter in ours)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_step_does_not_load_the_compiler() -> None:
    code = (
        "import sys, torch\nfrom eg3d.training.adam import Adam\np = torch.nn.Parameter(torch.ones(2))\n"
        "o = Adam([p], lr=0.1, betas=(0.0, 0.99), eps=1e-8)\np.sum().backward()\no.step()\no.zero_grad()\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
