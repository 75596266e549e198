"""One optimiser step of a phase: accumulation, summing of terms, what is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from eg3d.data import Batch
from eg3d.random_streams import SampleStreams
from eg3d.training.phases import MOST_SKIPPED, Draw, Phase, Term, gradient_norm


def _draw(n: int = 6, group: int = 1) -> Draw:
    rng = torch.Generator().manual_seed(0)
    z, c = torch.randn(n, 4, generator=rng), torch.randn(n, 25, generator=rng)
    real = Batch(torch.randn(n, 3, 2, 2, generator=rng), c, torch.randn(n, 2, generator=rng))
    coin = torch.full((n, 1), 0.5)
    return Draw(z, c, c.roll(1, 0), c.std(0), coin, real, SampleStreams.seeded(range(n)), group)


def _network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 1).requires_grad_(False)


def _phase(network: nn.Linear, *losses: Callable[[Tensor], Tensor], micro_batch: int = 0) -> Phase:
    """A phase whose gradient is what the weights lose in a step: plain descent at rate 1."""
    terms = [
        Term(f"term{k}", lambda draw, loss=loss: loss(network(draw.z)), micro_batch) for k, loss in enumerate(losses)
    ]
    return Phase("toy", network, torch.optim.SGD(network.parameters(), lr=1.0), terms)


def _gradient(*losses: Callable[[Tensor], Tensor], micro_batch: int = 6, of_term: int = 0) -> tuple[Tensor, Phase]:
    network = _network()
    before = network.weight.clone()
    phase = _phase(network, *losses, micro_batch=of_term)
    phase.step(_draw(), micro_batch=micro_batch, num_images=0)
    return before - network.weight, phase


def _square(y: Tensor) -> Tensor:
    return y.square().mean()


def _bend(y: Tensor) -> Tensor:
    return nn.functional.softplus(3 * y).mean()


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 6, 100])
def test_micro_batches_add_up_to_the_batch(micro_batch: int) -> None:
    whole, _ = _gradient(_square)
    assert torch.allclose(_gradient(_square, micro_batch=micro_batch)[0], whole, atol=1e-6)  # 4: parts of 4 and 2
    assert torch.allclose(_gradient(_square, of_term=micro_batch)[0], whole, atol=1e-6)


def test_the_terms_of_a_phase_sum_in_one_step() -> None:
    (first, _), (second, _) = _gradient(_square), _gradient(_bend)
    both, phase = _gradient(_square, _bend)
    assert torch.allclose(both, first + second, atol=1e-6)
    assert set(phase.norms) == {"term0", "term1"}


def test_norms_are_those_of_each_term_alone() -> None:
    _, alone = _gradient(_bend)
    _, both = _gradient(_square, _bend)
    assert both.norms["term1"] == pytest.approx(alone.norms["term0"])


def test_a_norm_is_over_all_tensors() -> None:
    assert gradient_norm([torch.tensor([3.0]), None, torch.tensor([[4.0]])]) == 5.0


@pytest.mark.parametrize("spoilt", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_step_that_is_not_finite_moves_nothing_and_counts(
    spoilt: float, is_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(y: Tensor) -> Tensor:
        return y.sum() * spoilt

    moved, phase = _gradient(*((bad, _square) if is_first else (_square, bad)))
    assert torch.equal(moved, torch.zeros_like(moved))
    assert phase.num_skipped == 1
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"toy at 0 images: term{1 - is_first}: loss ")


def test_a_loss_that_is_not_finite_is_found_behind_a_finite_gradient() -> None:
    """As of a clipped reward: the gradient of a clamped NaN is 0."""
    moved, phase = _gradient(lambda y: _square(y) + (y.sum() * 0).detach() * math.nan)
    assert torch.equal(moved, torch.zeros_like(moved))
    assert math.isfinite(phase.norms["term0"]) and phase.num_skipped == 1


def test_a_phase_that_stays_not_finite_ends_the_run() -> None:
    network, losses = _network(), [math.nan] * 3 + [1.0] + [math.nan] * MOST_SKIPPED
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    phase = Phase("toy", network, optimizer, [Term("x", lambda draw: network(draw.z).mean() * losses.pop(0))])
    for number in range(4 + MOST_SKIPPED - 1):
        phase.step(_draw(), micro_batch=6, num_images=number)
        assert phase.num_skipped == (number + 1 if number < 3 else number - 3)
    before = network.weight.clone()
    with pytest.raises(RuntimeError, match=r"toy at 99 images: x: loss nan.*not finite 10 times in a row") as error:
        phase.step(_draw(), micro_batch=6, num_images=99)
    assert "\n" not in str(error.value)
    assert torch.equal(network.weight, before)
    assert {int(entry["step"]) for entry in optimizer.state.values()} == {1}


def test_parameters_without_a_part_keep_no_gradient() -> None:
    network = nn.ModuleDict({"used": _network(), "unused": _network()}).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    phase = Phase("toy", network, optimizer, [Term("loss", lambda draw: network["used"](draw.z).mean())])
    phase.step(_draw(), micro_batch=6, num_images=0)
    assert {id(p) for p in optimizer.state} == {id(p) for p in network["used"].parameters()}
    assert torch.equal(network["unused"].weight, _network().weight)


def test_gradients_are_wanted_only_during_the_step() -> None:
    network, seen = _network(), []
    phase = _phase(network, lambda y: (seen.append(network.weight.requires_grad), y.mean())[1])
    phase.step(_draw(), micro_batch=6, num_images=0)
    assert seen == [True]
    assert not network.weight.requires_grad
    assert network.weight.grad is None


def test_when_a_phase_is_due() -> None:
    network = _network()
    optimizer = torch.optim.SGD(network.parameters())
    phase = Phase("toy", network, optimizer, [], interval=4, first_image=100, last_image=200)
    assert [phase.is_due(4, n) for n in (99, 100, 199, 200)] == [False, True, True, False]
    assert [phase.is_due(k, 100) for k in (0, 1, 4, 6)] == [True, False, True, False]


def test_the_rate_follows_the_images_shown() -> None:
    network = _network()
    phase = _phase(network, _square)
    phase.lr = lambda num_images: num_images / 10
    phase.step(_draw(), micro_batch=6, num_images=5)
    assert phase.optimizer.param_groups[0]["lr"] == 0.5


def test_splitting_a_draw_keeps_its_parts_together() -> None:
    draw = _draw()
    parts = draw.split(4)
    assert [len(part.z) for part in parts] == [4, 2]
    assert torch.equal(parts[1].real.image, draw.real.image[4:])
    assert torch.equal(parts[1].real.code, draw.real.code[4:])  # type: ignore[arg-type]
