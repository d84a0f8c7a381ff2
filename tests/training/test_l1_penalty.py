"""The L1 penalty of a recipe: its gradient, its record, its place in the identity."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from support.pupils import QUICK, Execution, learnt, network, plain
from torch import Tensor, nn

from scionet.errors import PruneError
from scionet.network.calling import state_of
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.l1_penalty import L1Penalty

RECIPE = replace(QUICK, l1_weight=0.01)


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(state_of(one)[name], tensor) for name, tensor in state_of(other).items())


@dataclass
class BySubgradient(Callback):
    """The same by hand: weight · sign(w) is added to the gradients."""

    def after_backward(self, context: TrainingContext) -> None:
        for name, parameter in context.network.named_parameters():
            if name in ("0.weight", "6.weight"):
                assert parameter.grad is not None
                parameter.grad.add_(parameter.detach().sign(), alpha=0.01)


@dataclass
class Sums(Callback):
    """Sums of absolute values before every step."""

    def __post_init__(self) -> None:
        self.sums: list[float] = []

    def settings(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, float]:
        return {}

    def penalty(self, context: TrainingContext) -> Tensor | None:
        weights = [context.network.get_parameter(name).detach() for name in ("0.weight", "6.weight")]
        self.sums.append(sum(float(weight.abs().sum()) for weight in weights))
        return None


def test_weights_of_two_dimensions_are_penalised_and_the_penalty_is_recorded_apart() -> None:
    model, by_hand, sums = network(), network(), Sums()
    found, expected = learnt(model, RECIPE, callbacks=[sums]), learnt(by_hand, QUICK, callbacks=[BySubgradient()])
    for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert [e.loss for e in found.history] == pytest.approx([e.loss for e in expected.history])
    means = [0.01 * sum(sums.sums[start : start + 4]) / 4 for start in (0, 4, 8)]
    assert [epoch.penalties for epoch in found.history] == [{"L1Penalty": pytest.approx(mean)} for mean in means]


def test_without_a_weight_nothing_is_added() -> None:
    model, expected = network(), network()
    result = learnt(model, replace(QUICK, l1_weight=0.0))
    learnt(expected)
    assert equal(model, expected)
    assert result.state.callbacks == ()
    assert result.history[-1].penalties == {}


def test_it_is_that_of_the_callback_and_counts_once_where_batches_are_taken_in_parts() -> None:
    model, by_callback, in_parts = plain(), plain(), plain()
    learnt(model, RECIPE)
    learnt(by_callback, QUICK, callbacks=[L1Penalty(0.01)])
    learnt(in_parts, RECIPE, execution=Execution(parts=2))
    assert equal(model, by_callback)
    for one, other in zip(model.parameters(), in_parts.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_frozen_weights_are_not_penalised() -> None:
    model = plain()
    context = TrainingContext(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model[1].weight.requires_grad_(False)  # type: ignore[index, union-attr, operator]
    expected = 0.5 * model[3].weight.abs().sum()  # type: ignore[index, union-attr, operator]
    assert torch.equal(L1Penalty(0.5).penalty(context), expected)  # type: ignore[arg-type]
    assert L1Penalty(0.5).penalty(replace(context, network=model.requires_grad_(False))) is None


@pytest.mark.parametrize("other", [0.0, 0.02])
def test_another_weight_is_refused_on_resuming(other: float, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    learnt(network(), RECIPE, state_file=file, until=1)
    with pytest.raises(PruneError, match=r"L1Penalty(.weight was 0.01, is 0.02| is missing)"):
        learnt(network(), replace(RECIPE, l1_weight=other), state_file=file)
    assert learnt(network(), RECIPE, state_file=file).status.startswith("finished")
