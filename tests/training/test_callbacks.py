"""Hooks: when they run, what they see, what they may change; in `fit` and in a loop of one's own."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from support.pages import code_of
from support.pupils import CLASSES, QUICK, Execution, Recipe, examples, learnt, network, plain, tensors
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import scionet
from scionet.errors import TrainingError
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.training.accuracy import accuracy
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.order import Order
from scionet.training.state import Epoch


@dataclass
class Journal(Callback):
    """Writes down the hooks that run."""

    events: list[tuple[str, int, int, float]] = field(default_factory=list, init=False)

    def on_start(self, context: TrainingContext) -> None:
        self._note("start", context)

    def penalty(self, context: TrainingContext) -> None:
        assert all(parameter.grad is None for parameter in context.network.parameters())
        self._note("penalty", context)

    def after_backward(self, context: TrainingContext) -> None:
        assert all(parameter.grad is not None for parameter in context.network.parameters())
        self._note("backward", context)

    def before_step(self, context: TrainingContext) -> None:
        self._note("before step", context)

    def after_step(self, context: TrainingContext) -> None:
        assert all(parameter.grad is None for parameter in context.network.parameters())
        self._note("step", context)

    def before_validation(self, context: TrainingContext) -> None:
        self._note("validation", context)

    def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
        assert epoch.number == context.epoch
        self._note("epoch", context)

    def _note(self, hook: str, context: TrainingContext) -> None:
        assert context.steps_per_epoch == 4
        assert context.seed == 3
        self.events.append((hook, context.epoch, context.step, context.learning_rate))


@pytest.mark.parametrize("validated", [False, True])
def test_hooks_run_in_their_order(validated: bool) -> None:
    journal, recipe = Journal(), replace(QUICK, epochs=1.25)
    learnt(network(), recipe, callbacks=[journal], validation=examples(20, 2) if validated else None, seed=3)
    rates = [recipe.learning_rate * recipe.rate(step, 4) for step in range(5)]
    expected = [("start", 1, 0, recipe.learning_rate)]
    for step in range(1, 6):
        epoch, rate = 1 + step // 5, rates[step - 1]
        expected += [(hook, epoch, step, rate) for hook in ("penalty", "backward", "before step", "step")]
        if step in (4, 5):
            expected += [(hook, epoch, step, rate) for hook in ("validation", "epoch")][0 if validated else 1 :]
    assert [event[:3] for event in journal.events] == [event[:3] for event in expected]
    assert [event[3] for event in journal.events] == pytest.approx([event[3] for event in expected])


def test_a_callback_may_change_gradients_and_weights() -> None:
    class Frozen(Callback):
        def after_backward(self, context: TrainingContext) -> None:
            context.network[0].weight.grad.zero_()  # type: ignore[index, union-attr]

        def before_step(self, context: TrainingContext) -> None:
            context.network[1].weight.grad.zero_()  # type: ignore[index, union-attr]

        def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
            context.network[6].bias.data.fill_(7.0)  # type: ignore[index, union-attr]

    model = network()
    first = [model[i].weight.detach().clone() for i in (0, 1)]  # type: ignore[index, union-attr, operator]
    result = learnt(model, replace(QUICK, weight_decay=0), callbacks=[Frozen()])
    assert torch.equal(model[0].weight, first[0])  # type: ignore[index, arg-type]
    assert torch.equal(model[1].weight, first[1])  # type: ignore[index, arg-type]
    assert torch.equal(result.state.network["6.bias"], torch.full((CLASSES,), 7.0))


def norm_of_gradient(model: nn.Module) -> float:
    return float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())


def norms(recipe: Recipe, accelerator: Accelerator | None = None) -> tuple[list[float], list[float]]:
    """Norms of the gradient after the backward pass and before the step."""
    after, before = list[float](), list[float]()

    class Norms(Callback):
        def after_backward(self, context: TrainingContext) -> None:
            after.append(norm_of_gradient(context.network))

        def before_step(self, context: TrainingContext) -> None:
            before.append(norm_of_gradient(context.network))

    learnt(plain(), recipe, callbacks=[Norms()], accelerator=accelerator)
    return after, before


def test_gradients_are_clipped_between_the_backward_pass_and_the_step() -> None:
    after, before = norms(replace(QUICK, clip_norm=0.5))
    assert before == pytest.approx([min(norm, 0.5) for norm in after], rel=1e-4)
    assert max(after) > 0.6
    after, before = norms(QUICK)
    assert after == before


@pytest.fixture
def float16() -> Iterator[Accelerator]:
    """Loss scaling as on a GPU, on the CPU."""
    machine = Accelerator(cpu=True)
    machine.scaler, machine.native_amp = torch.amp.GradScaler("cpu", init_scale=1024.0), True
    machine.state._mixed_precision = "fp16"
    yield machine
    AcceleratorState._reset_state()


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_gradients_are_unscaled_before_the_step(clip_norm: float | None, float16: Accelerator) -> None:
    after, before = norms(replace(QUICK, clip_norm=clip_norm), float16)
    assert before == pytest.approx([min(norm / 1024, clip_norm or 1e9) for norm in after], rel=1e-3)
    assert min(after) > 100


@dataclass
class L1(Callback):
    """The sum of absolute weights."""

    strength: float = 1e-3
    calls: int = field(default=0, init=False)

    def penalty(self, context: TrainingContext) -> Tensor:
        self.calls += 1
        return self.strength * sum(parameter.abs().sum() for parameter in context.network.parameters())


def loop_with_penalty(model: nn.Module, strength: float) -> list[float]:
    """The obvious loop; the mean penalty of each epoch."""
    images, labels = tensors(70)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    penalties = []
    for step, batch in enumerate(Order(70, 16, 0).batches(0, 12)):
        chosen = [index for index, _ in batch]
        optimizer.param_groups[0]["lr"] = 0.1 * QUICK.rate(step, 4)
        penalty = strength * sum(parameter.abs().sum() for parameter in model.parameters())
        optimizer.zero_grad()
        (functional.cross_entropy(model(images[chosen]), labels[chosen]) + penalty).backward()
        optimizer.step()
        penalties.append(penalty.item())
    return [sum(penalties[first : first + 4]) / 4 for first in (0, 4, 8)]


@pytest.mark.parametrize("parts", [1, 4])
def test_a_penalty_is_added_to_the_loss_once_and_recorded_apart(parts: int) -> None:
    model, expected, callback = plain(), plain(), L1()
    result = learnt(model, callbacks=[callback], execution=Execution(parts=parts))
    means = loop_with_penalty(expected, 1e-3)
    for one, two in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert callback.calls == 12
    assert [epoch.penalties for epoch in result.history] == [{"L1": pytest.approx(mean, rel=1e-4)} for mean in means]


def test_the_loss_of_an_epoch_is_without_penalties() -> None:
    class Constant(Callback):
        def penalty(self, context: TrainingContext) -> Tensor | None:
            return torch.tensor(5.0) if context.epoch == 2 else None

    result, expected = learnt(plain(), callbacks=[Constant()]), learnt(plain())
    assert [epoch.loss for epoch in result.history] == [epoch.loss for epoch in expected.history]
    assert [epoch.penalties for epoch in result.history] == [{}, {"Constant": 5.0}, {}]


def test_penalties_of_equal_names_are_numbered_and_none_is_left_out() -> None:
    result = learnt(plain(), callbacks=[L1(), Callback(), L1(2e-3)])
    last = result.history[-1].penalties
    assert list(last) == ["L1", "L1 2"]
    assert last["L1 2"] == pytest.approx(2 * last["L1"], rel=1e-5)


def test_penalties_in_the_middle_of_an_epoch_are_saved_with_the_state(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class Stopping(Callback):
        def after_step(self, context: TrainingContext) -> None:
            if context.step == limit:
                raise Stop

    file, limit = tmp_path / "run.safetensors", 7
    options = {"state_file": file, "execution": Execution(save_steps=3)}
    with pytest.raises(Stop):
        learnt(plain(), callbacks=[L1(), Stopping()], **options)
    limit = 0
    result = learnt(plain(), callbacks=[L1(), Stopping()], **options)
    assert result.history == learnt(plain(), callbacks=[L1()]).history


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.5, "must be a scalar tensor; given a float; give one, or None for no penalty"),
        (torch.ones(2), r"must be a scalar tensor; given a tensor \(2,\)"),
        (torch.tensor(torch.nan), "the penalty of Wrong is NaN or infinite at step 1 of 12"),
    ],
    ids=["number", "vector", "nan"],
)
def test_a_wrong_penalty_is_refused(given: object, message: str) -> None:
    class Wrong(Callback):
        def penalty(self, context: TrainingContext) -> Tensor:
            return given  # type: ignore[return-value]

    with pytest.raises(TrainingError, match=message):
        learnt(plain(), callbacks=[Wrong()])


def test_weights_that_are_changed_before_validation_are_validated() -> None:
    class Ordering(Callback):
        @torch.no_grad()
        def before_validation(self, context: TrainingContext) -> None:
            context.network[6].weight.zero_()  # type: ignore[index, union-attr, operator]
            context.network[6].bias.copy_(torch.arange(CLASSES))  # type: ignore[index, union-attr, operator]

    model = network()
    result = learnt(model, validation=examples(30, 2), callbacks=[Ordering()])
    share = (tensors(30, 2)[1] == CLASSES - 1).float().mean()
    assert [epoch.validation.rate for epoch in result.history if epoch.validation] == [pytest.approx(float(share))] * 3
    assert accuracy(model, [tensors(30, 2)]).rate == pytest.approx(float(share))


def test_random_numbers_of_callbacks_follow_from_the_seed() -> None:
    numbers: list[list[float]] = []

    class Random(Callback):
        def on_start(self, context: TrainingContext) -> None:
            numbers.append([torch.rand(()).item()])

        def after_step(self, context: TrainingContext) -> None:
            numbers[-1].append(torch.rand(()).item())

        def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
            numbers[-1].append(torch.rand(()).item())

    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        model = network()
        torch.manual_seed(global_seed)
        learnt(model, callbacks=[Random()], seed=seed)
    assert numbers[0] == numbers[1]
    assert not set(numbers[0]) & set(numbers[2])
    assert len(set(numbers[0])) == 16


@dataclass
class Proximal(Callback):
    """Every hook of a step changes something: L1, a running mean of gradients, soft thresholds."""

    strength: float = 1e-2
    mean: dict[str, Tensor] = field(default_factory=dict, init=False)

    def penalty(self, context: TrainingContext) -> Tensor:
        return self.strength * sum(p.abs().sum() for p in context.network.parameters()) / context.step

    def after_backward(self, context: TrainingContext) -> None:
        for name, parameter in context.network.named_parameters():
            gradient = parameter.grad
            assert gradient is not None
            self.mean[name] = self.mean.get(name, torch.zeros_like(gradient)).lerp(gradient, 0.1)

    def before_step(self, context: TrainingContext) -> None:
        for name, parameter in context.network.named_parameters():
            parameter.grad.add_(self.mean[name])  # type: ignore[union-attr]

    @torch.no_grad()
    def after_step(self, context: TrainingContext) -> None:
        threshold = self.strength * context.learning_rate * context.epoch
        for parameter in context.network.parameters():
            parameter.copy_(functional.softshrink(parameter, threshold))


def test_a_callback_works_in_a_loop_of_ones_own_as_in_fit() -> None:
    recipe = replace(QUICK, schedule="constant", clip_norm=0.7)
    model, expected, callback = plain(), plain(), Proximal()
    learnt(model, recipe, callbacks=[Proximal()])
    images, labels = tensors(70)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    for step, batch in enumerate(Order(70, 16, 0).batches(0, 12), 1):
        if step == 6:  # saved, and loaded into another one
            kept = callback.state()
            callback = Proximal()
            callback.load_state(kept)
        chosen = [index for index, _ in batch]
        context = TrainingContext(expected, optimizer, step=step, epoch=-(-step // 4))
        loss = functional.cross_entropy(expected(images[chosen]), labels[chosen]) + callback.penalty(context)
        optimizer.zero_grad()
        loss.backward()
        callback.after_backward(context)
        nn.utils.clip_grad_norm_(expected.parameters(), 0.7)
        callback.before_step(context)
        optimizer.step()
        callback.after_step(context)
    for one, two in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert not torch.allclose(model[1].weight, plain()[1].weight, atol=1e-3)  # type: ignore[index, arg-type]


def test_a_context_is_made_by_hand_from_network_and_optimiser() -> None:
    model = plain()
    context = scionet.TrainingContext(network=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.3))
    assert (context.step, context.epoch, context.steps_per_epoch, context.seed) == (1, 1, 1, 0)
    assert (context.learning_rate, context.device, context.is_main_process) == (0.3, torch.device("cpu"), True)
    context.optimizer.param_groups[0]["lr"] = 0.1
    assert context.learning_rate == 0.1


@pytest.mark.parametrize(("given", "message"), [(Callback, "given Callback"), (print, "given a builtin_function")])
def test_what_is_no_callback_is_refused(given: object, message: str) -> None:
    with pytest.raises(
        TrainingError, match=r"callbacks\[1\] must be an instance of a subclass of Callback; " + message
    ):
        learnt(plain(), callbacks=[Callback(), given])


@pytest.mark.parametrize("recipe", [QUICK, replace(QUICK, average_decay=0.9), replace(QUICK, patience=3)])
def test_callbacks_see_and_change_all_that_the_network_may_end_with(recipe: Recipe) -> None:
    class Zeroing(Callback):
        """Removes the bias for good, in the middle of the training."""

        @torch.no_grad()
        def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
            if epoch.number == 2:
                for tensors in (dict(context.network.named_parameters()), *context.other_weights):
                    assert tensors["6.bias"].all()
                    tensors["6.bias"].zero_()
            counts.append(len(context.other_weights))

    counts: list[int] = []
    model = network()
    model[6].bias.requires_grad_(False)  # type: ignore[index, union-attr, operator]
    result = learnt(model, recipe, callbacks=[Zeroing()], validation=examples(20, 2))
    assert counts == [bool(recipe.average_decay) + bool(recipe.patience)] * 3
    parts = (result.state.network, result.state.average, result.state.best)
    assert not any(bool(part["6.bias"].any()) for part in parts if part)
    assert not bool(model[6].bias.any())  # type: ignore[index, union-attr, operator]


def test_the_callback_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = network()
    names: dict[str, Any] = {"model": model, "train": examples(), "recipe": QUICK, "torch": torch}
    exec(code_of("training.md", 3, 7), names)
    alone, before = network(), hash_tensors(state_of(model))
    learnt(alone)
    assert len(names["lasso"].norms) == 3
    assert norm_of_channels(model) < 0.97 * norm_of_channels(alone)
    names["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.1)
    names["loader"] = DataLoader(examples(), batch_size=16)
    exec(code_of("training.md", 4, 7), names)
    assert hash_tensors(state_of(model)) != before
    assert names["saved"] == {"norms": []}


def norm_of_channels(model: nn.Module) -> float:
    return sum(float(p.detach().flatten(1).norm(dim=1).sum()) for p in model.parameters() if p.ndim > 1)
