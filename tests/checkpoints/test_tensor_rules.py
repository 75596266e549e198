"""The one rule for weights from a file: names, sizes, kinds of numbers, all finite; and networks no larger than it."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from eg3d.checkpoints.tensor_rules import at_most, check_tensors, listed, not_finite

EXPECTED = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "steps": torch.zeros((), dtype=torch.int64)}


def fitting(**changes: Tensor) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in EXPECTED.items()} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"weight": torch.zeros(2, 3).half()}, {"weight": torch.zeros(2, 3).bfloat16()},
        {"weight": torch.full((2, 3), -1e30).double()}, {"weight": torch.full((2, 3), 3e38)},
        {"bias": torch.empty(4)[::2].zero_()},
    ],
)  # fmt: skip
def test_what_fits(changes: dict[str, Tensor]) -> None:
    """Real numbers of any precision; a sum that overflows is no infinity."""
    check_tensors(fitting(**changes), EXPECTED, "file")
    check_tensors(fitting(**changes), {name: tensor.to("meta") for name, tensor in EXPECTED.items()}, "file")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weight": torch.zeros(3, 2)}, "mis-shaped: weight [3, 2] instead of [2, 3]"),
        ({"weight": torch.zeros(2, 3, dtype=torch.int8)}, "not of real numbers: weight (torch.int8)"),
        ({"weight": torch.zeros(2, 3, dtype=torch.bool)}, "not of real numbers: weight (torch.bool)"),
        ({"weight": torch.zeros(2, 3, dtype=torch.complex64)}, "not of real numbers: weight (torch.complex64)"),
        ({"weight": torch.zeros(2, 3).to(torch.float8_e4m3fn)}, "not of real numbers: weight (torch.float8_e4m3fn)"),
        ({"steps": torch.zeros(())}, "of another kind of number: steps (torch.float32 instead of torch.int64)"),
        ({"steps": torch.zeros((), dtype=torch.int32)}, "of another kind of number: steps (torch.int32 instead of"),
        ({"a\nb": torch.zeros(1)}, r"unknown: 'a\nb'"),
    ],
)
def test_misfits(changes: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=r"^file, G: the tensors do not fit the network; ") as error:
        check_tensors(fitting(**changes), EXPECTED, "file, G")
    assert said in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize(
    "bad",
    [
        torch.tensor([0.0, float("nan")]), torch.tensor([float("inf"), float("-inf")]),
        torch.tensor([0.0, 1e39], dtype=torch.float64), torch.tensor([1.0, float("inf")]).half(),
    ],
)  # fmt: skip
def test_numbers_that_are_not_finite(bad: Tensor) -> None:
    """Also those that are not in the precision of the network."""
    with pytest.raises(ValueError, match=r"^file: has NaN or infinite numbers in bias; "):
        check_tensors(fitting(bias=bad), EXPECTED, "file")
    assert not_finite([("a", torch.ones(2)), ("b", bad.float())]) == ["b"]


def test_all_faults_at_once() -> None:
    tensors = fitting(weight=torch.zeros(1), **{f"x{k:02}": torch.zeros(1) for k in range(25)})
    del tensors["bias"]
    with pytest.raises(ValueError, match=r"missing: bias; unknown: x00, x01, .* and 5 more; mis-shaped: weight"):
        check_tensors(tensors, EXPECTED, "file")
    assert len(listed(["x" * 10**6])) < 300


def test_a_network_larger_than_its_file_is_never_built() -> None:
    start = time.monotonic()
    for make in (
        lambda: nn.Linear(1 << 20, 1 << 20),
        lambda: torch.zeros((1 << 20, 1 << 20)),
        lambda: torch.full([1 << 20, 1 << 20], 0.0),
        lambda: torch.randn(size=(1 << 20, 1 << 20)),
        lambda: [torch.ones(100) for _ in range(1 << 20)],
    ):
        with pytest.raises(ValueError, match="a larger network than its numbers fill"), at_most(1000):
            make()
    assert time.monotonic() - start < 5
    with at_most(1000):
        made = nn.Linear(30, 30)
    assert made.weight.shape == (30, 30)
