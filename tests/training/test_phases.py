"""One optimiser step of a phase: accumulation, summing of terms, what is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from tiny import toy_draw
from torch import Tensor, nn

from eg3d.data import Batch
from eg3d.random_streams import SampleStreams
from eg3d.training.config import TrainConfig
from eg3d.training.loop import Trainer
from eg3d.training.nonfinite import clean_gradient, gradient_norm
from eg3d.training.phases import Draw, Phase, Term


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


@pytest.mark.parametrize("spoilt", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_step_that_is_not_finite_moves_nothing(spoilt: float, is_first: bool) -> None:
    """1e30: its square is infinite where Adam keeps it."""

    def bad(y: Tensor) -> Tensor:
        return y.sum() * spoilt

    moved, phase = _gradient(*((bad, _square) if is_first else (_square, bad)))
    assert torch.equal(moved, torch.zeros_like(moved))
    (fault,) = phase.faults
    assert fault.startswith(f"term{1 - is_first}: ") and "gradient" in fault


def test_optimiser_and_centre_stay_as_they_were(train_config: Callable[..., TrainConfig]) -> None:
    trainer = Trainer(train_config())
    phase = next(phase for phase in trainer.phases if phase.name == "Dmain")
    mean = trainer.generator.backbone.mapping.w_avg
    phase.step(toy_draw(trainer, 1), micro_batch=2, num_images=0)
    before = [mean.clone(), *(value.clone() for entry in phase.optimizer.state.values() for value in entry.values())]
    assert float(mean.abs().sum()) > 0
    phase.terms.append(Term("bad", lambda draw: trainer.discriminator.b4.out.weight.sum() * math.nan))
    phase.step(toy_draw(trainer, 2), micro_batch=2, num_images=0)
    after = [mean, *(value for entry in phase.optimizer.state.values() for value in entry.values())]
    assert phase.faults == ["bad: loss nan, gradient nan"]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    del phase.terms[-1]
    phase.step(toy_draw(trainer, 3), micro_batch=2, num_images=0)  # nothing of the skipped step comes late
    other = Trainer(train_config(out=f"{trainer.folder} other"))
    same = next(phase for phase in other.phases if phase.name == "Dmain")
    for key in (1, 3):
        same.step(toy_draw(other, key), micro_batch=2, num_images=0)
    assert torch.equal(mean, other.generator.backbone.mapping.w_avg)
    for one, two in zip(trainer.discriminator.parameters(), other.discriminator.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_loss_that_is_not_finite_is_found_behind_a_finite_gradient() -> None:
    """As of a clipped reward: the gradient of a clamped NaN is 0."""
    moved, phase = _gradient(lambda y: _square(y) + (y.sum() * 0).detach() * math.nan)
    assert torch.equal(moved, torch.zeros_like(moved))
    assert math.isfinite(phase.norms["term0"])
    assert phase.faults == ["term0: loss nan"]


def test_published_clean_up_steps_with_what_is_left() -> None:
    network = _network()
    before, phase = network.weight.clone(), _phase(network, lambda y: y.sum() * math.inf)
    phase.step(_draw(), micro_batch=6, num_images=0, nonfinite="published")
    assert "gradient" in phase.faults[0]
    assert set((before - network.weight).abs().flatten().tolist()) <= {0.0, 1e5}
    assert phase.norms["term0"] <= 1e5 * len(before.flatten())
    dirty = torch.tensor([math.nan, math.inf, -math.inf, 2.0])
    assert clean_gradient(dirty).tolist() == [0.0, 1e5, -1e5, 2.0]  # type: ignore[union-attr]
    assert clean_gradient(None) is None


def test_a_term_without_a_loss_has_no_part_in_the_step() -> None:
    seen: list[int] = []
    network = _network()
    phase = _phase(network, _square)
    phase.terms.insert(0, Term("looks", lambda draw: seen.append(len(draw.z)), 2))
    before = network.weight.clone()
    phase.step(_draw(), micro_batch=6, num_images=0)
    assert seen == [2, 2, 2]
    assert set(phase.norms) == {"term0"}
    assert torch.equal(before - network.weight, _gradient(_square)[0])
    phase.terms = phase.terms[:1]
    phase.step(_draw(), micro_batch=6, num_images=0)  # a phase of such terms alone


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
