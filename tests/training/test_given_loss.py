"""Losses of the caller: against loops by hand, on batches of any kind, as a part of the training's identity."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pages import code_of
from support.pupils import QUICK, Execution, examples, learnt, network, plain, tensors
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

import scionet
from scionet.errors import CheckpointError, InvalidSetting, PruneError, TrainingError
from scionet.network.calling import state_of
from scionet.training.accuracy import Accuracy, accuracy
from scionet.training.fit import fit
from scionet.training.identity import of_loss
from scionet.training.order import Order
from scionet.training.state import Epoch, best_epoch, load_state
from scionet.training.validation import MeanLoss

RECIPE = replace(QUICK, momentum=0.0, nesterov=False, weight_decay=0.0, schedule="constant", learning_rate=0.05)


def regression(count: int = 70, seed: int = 1) -> TensorDataset:
    images, labels = tensors(count, seed)
    return TensorDataset(images, labels.double()[:, None] * torch.ones(5))


def squared(outputs: Tensor, batch: list[Tensor]) -> Tensor:
    return functional.mse_loss(outputs, batch[1])


def absolute(outputs: Tensor, batch: list[Tensor]) -> Tensor:
    return functional.l1_loss(outputs, batch[1])


def cross_entropy(outputs: Tensor, batch: list[Tensor]) -> Tensor:
    return functional.cross_entropy(outputs, batch[1])


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(state_of(one)[name], tensor) for name, tensor in state_of(other).items())


def number(loss: Tensor) -> float:
    return float(loss.detach())


@dataclass
class Output:
    """As Hugging Face's transformers give it."""

    logits: Tensor
    loss: Tensor | None = None


class OfItsOwn(nn.Module):
    """A network that computes its loss where it gets labels; its kind of output can be chosen."""

    def __init__(self, kind: Callable[..., Any] = Output) -> None:
        super().__init__()
        self.inner, self.kind = plain(), kind

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.inner(images)
        return self.kind(logits=logits, loss=None if labels is None else functional.cross_entropy(logits, labels))


class Named(Dataset):
    """Examples as dicts."""

    def __init__(self, count: int = 70, seed: int = 1) -> None:
        self.images, self.labels = tensors(count, seed)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"images": self.images[index], "labels": int(self.labels[index])}


def test_a_function_is_minimised_as_in_a_loop_by_hand() -> None:
    model, by_hand = plain(), plain()
    result = fit(model, regression(), RECIPE, loss=squared)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=RECIPE.learning_rate)
    images, targets = regression().tensors
    losses = []
    for batch in Order(70, 16, 0).batches(0, 12):
        indices = [index for index, _ in batch]
        optimizer.zero_grad()
        loss = functional.mse_loss(by_hand(images[indices]), targets[indices].float())
        loss.backward()
        optimizer.step()
        losses.append(number(loss))
    assert equal(model, by_hand)
    assert [epoch.loss for epoch in result.history] == pytest.approx([sum(losses[n : n + 4]) / 4 for n in (0, 4, 8)])


def test_cross_entropy_as_a_function_is_the_default() -> None:
    model, default = network(), network()
    found, expected = fit(model, examples(), QUICK, loss=cross_entropy), fit(default, examples(), QUICK)
    assert equal(model, default)
    assert found.history == expected.history


@pytest.mark.parametrize("kind", [Output, dict], ids=["attribute", "key"])
@pytest.mark.parametrize("data", [Named(), examples()], ids=["keywords", "arguments"])
def test_the_networks_own_loss_is_minimised(data: Any, kind: Callable[..., Any]) -> None:
    model, expected = OfItsOwn(kind), plain()
    found = fit(model, data, QUICK, loss="model", validation=Named(21, 2))
    fit(expected, examples(), QUICK)
    assert equal(model.inner, expected)
    last = found.history[-1].validation
    assert isinstance(last, MeanLoss)
    assert last.mean == pytest.approx(number(functional.cross_entropy(expected(tensors(21, 2)[0]), tensors(21, 2)[1])))


def test_the_batch_is_any_tree_and_the_network_gets_the_first_entry() -> None:
    class Pieces(Named):
        def __getitem__(self, index: int) -> Any:
            half = torch.full((2,), float(self.labels[index]), dtype=torch.float64)
            return (self.images[index], self.images[index]), {"target": half, "name": f"number {index}"}

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain()

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return self.inner(one + other)

    seen = []

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        (one, other), target = batch
        seen.append((outputs.shape, one.shape, torch.equal(one, other), target["target"].dtype, len(target["name"])))
        return (outputs.mean(1) - target["target"].mean(1)).square().mean()

    fit(Sum(), Pieces(), replace(QUICK, epochs=0.25), loss=loss)
    assert seen == [((16, 5), (16, 2, 6, 6), True, torch.float32, 16)]


def test_the_losses_of_the_docs() -> None:
    model, own = plain(), OfItsOwn()
    names = {"model": model, "pairs_of_tensors": regression(), "held_out": regression(9, 2), "recipe": RECIPE}
    names |= {"language_model": own, "dicts_with_labels": Named(), "scionet": scionet}
    exec(code_of("training.md", 1, 7), names)
    assert not equal(model, plain())
    assert not equal(own, OfItsOwn())


def test_parts_of_a_batch_give_the_same_weights() -> None:
    whole, parts = plain(), plain()
    fit(whole, regression(), RECIPE, loss=squared)
    fit(parts, regression(), RECIPE, loss=squared, execution=Execution(parts=4, channels_last=True))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_validation_measures_the_mean_loss_of_all_examples() -> None:
    model, held_out = network(), regression(21, 2)
    result = fit(model, regression(), RECIPE, loss=squared, validation=held_out)
    images, targets = held_out.tensors
    expected = functional.mse_loss(model.eval()(images), targets.float())
    last = result.history[-1].validation
    assert isinstance(last, MeanLoss)
    assert last.seen == 21
    assert last.mean == pytest.approx(number(expected))
    assert last.value == -last.score == last.mean
    assert repr(result).endswith(f", validation loss {last.mean:.4g})")


def test_the_loss_of_a_classifier_and_the_accuracy_under_another_loss_can_be_measured() -> None:
    model, held_out = network(), examples(21, 2)
    result = fit(model, examples(), QUICK, validation=held_out, validation_measure="loss")
    expected = functional.cross_entropy(model.eval()(held_out.tensors[0]), held_out.tensors[1])
    last = result.history[-1].validation
    assert isinstance(last, MeanLoss)
    assert last.mean == pytest.approx(number(expected))
    result = fit(model, examples(), QUICK, loss=cross_entropy, validation=held_out, validation_measure="accuracy")
    assert result.history[-1].validation == accuracy(model, [held_out.tensors])


def test_patience_looks_at_what_is_measured() -> None:
    epochs = [Epoch(n, n, 0.0, 0.0, MeanLoss(loss, 4)) for n, loss in enumerate((3.0, 1.0, 2.0, 1.0), 1)]
    assert best_epoch(epochs) == 2
    model = plain()
    recipe = replace(RECIPE, epochs=6, learning_rate=2.0, patience=2)  # diverges
    result = fit(model, regression(), recipe, loss=absolute, validation=regression(21, 2))
    losses = [epoch.validation.value for epoch in result.history if epoch.validation]
    best = losses.index(min(losses)) + 1
    assert best_epoch(result.history) == best
    assert len(losses) == min(6, best + 2)
    images, targets = regression(21, 2).tensors
    assert number(functional.l1_loss(model(images), targets.float())) == pytest.approx(min(losses))


def test_a_training_with_its_history_of_losses_goes_on(tmp_path: Path) -> None:
    file, model, whole = tmp_path / "run.safetensors", plain(), plain()
    for until in (1, None):
        fit(model, regression(), RECIPE, loss=squared, validation=regression(9, 2), state_file=file, until=until)
    expected = fit(whole, regression(), RECIPE, loss=squared, validation=regression(9, 2))
    assert equal(model, whole)
    assert load_state(file).history == expected.history


def loss_of(weight: float) -> Any:
    def loss(outputs: Tensor, batch: list[Tensor]) -> Tensor:
        return weight * squared(outputs, batch)

    return loss


def scaled(outputs: Tensor, batch: list[Tensor], weight: float) -> Tensor:
    return weight * squared(outputs, batch)


@dataclass(frozen=True)
class Scaled:
    """A loss with a setting."""

    weight: float

    def __call__(self, outputs: Tensor, batch: list[Tensor]) -> Tensor:
        return self.weight * squared(outputs, batch)


@dataclass(frozen=True)
class ScaledBy:
    """A loss that says what identifies it."""

    weight: float
    note: str = ""

    def identity(self) -> dict[str, float]:
        return {"weight": self.weight}

    def __call__(self, outputs: Tensor, batch: list[Tensor]) -> Tensor:
        return self.weight * squared(outputs, batch)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (squared, absolute),
        (squared, "model"),
        (loss_of(1), loss_of(2)),
        (functools.partial(scaled, weight=1), functools.partial(scaled, weight=2)),
        (Scaled(1), Scaled(2)),
        (Scaled(1).__call__, Scaled(2).__call__),
        (ScaledBy(1), ScaledBy(2)),
        (nn.MSELoss(), nn.MSELoss(reduction="sum")),
        (lambda outputs, batch: outputs.sum(), lambda outputs, batch: outputs.mean()),
    ],
    ids=["functions", "own", "closures", "partial", "object", "method", "identified", "module", "lambdas"],
)
def test_another_loss_has_another_identity(first: Any, second: Any) -> None:
    assert of_loss(first) == of_loss(first)
    assert of_loss(first) != of_loss(second)


def test_the_code_of_a_loss_is_part_of_its_identity() -> None:
    found = []
    for body in ("outputs.mean()", "outputs.sum()", "outputs.mean()"):
        names: dict[str, Any] = {"__name__": "session"}
        exec(f"def loss(outputs, batch):\n    return (lambda x: x)({body})", names)
        found.append(of_loss(names["loss"]))
    assert found[0] == found[2] != found[1]
    assert of_loss(ScaledBy(1, "a")) == of_loss(ScaledBy(1, "b"))


def test_another_loss_or_measure_is_refused_on_resuming(tmp_path: Path) -> None:
    file, given = (
        tmp_path / "run.safetensors",
        {"validation": regression(9, 2), "state_file": tmp_path / "run.safetensors"},
    )
    fit(plain(), regression(), RECIPE, loss=loss_of(1), until=1, **given)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"\(loss\.is\.enclosed\.0 was 1, is 2\)"):
        fit(plain(), regression(), RECIPE, loss=loss_of(2), **given)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"loss\.code was"):
        fit(plain(), regression(), RECIPE, loss=absolute, **given)  # type: ignore[arg-type]
    assert fit(plain(), regression(), RECIPE, loss=loss_of(1), **given).status.startswith("finished")  # type: ignore[arg-type]
    file.unlink()
    given["validation"] = examples(9, 2)
    fit(plain(), examples(), RECIPE, until=1, **given)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"\(validation_measure was accuracy, is loss\)"):
        fit(plain(), examples(), RECIPE, validation_measure="loss", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"loss": "own"}, InvalidSetting, "loss must be a function .* 'model' .* or None .* given 'own'"),
        ({"loss": nn.MSELoss}, InvalidSetting, "given MSELoss"),
        ({"loss": nn.Linear(5, 1)}, InvalidSetting, "the loss Linear has parameters, .* give loss='model'"),
        ({"validation_measure": "error"}, InvalidSetting, "unknown validation_measure 'error'"),
        (
            {"recipe": replace(QUICK, label_smoothing=0.1, teacher_weight=0.5), "teacher": plain()},
            InvalidSetting,
            r"label_smoothing, teacher_weight, teacher= cannot be combined with loss=",
        ),
        ({"recipe": replace(QUICK, features=("1",))}, InvalidSetting, r"features cannot be combined with loss="),
        ({"loss": lambda outputs, batch: outputs}, TrainingError, r"the loss must be a scalar .* tensor \(16, 5\)"),
        ({"loss": lambda outputs, batch: 0.5}, TrainingError, "the loss must be a scalar tensor; given a float"),
        ({"loss": lambda outputs, batch: batch[1].sum()}, TrainingError, "the loss does not depend on the weights"),
        ({"loss": lambda outputs, batch: outputs.sum() / 0}, TrainingError, "the loss is NaN or infinite at step 1"),
        ({"loss": "model"}, PruneError, r"loss='model' needs outputs with a loss, .* this Tensor has none"),
        (
            {"loss": lambda outputs, batch: outputs.sum() * (1.0 if outputs.requires_grad else torch.nan)},
            TrainingError,
            "the mean loss of 9 validation examples is nan",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_loss_that_does_not_fit_is_refused(given: dict[str, Any], error: type[PruneError], message: str) -> None:
    data = TensorDataset(regression().tensors[0]) if given.get("loss") == "model" else regression()
    with pytest.raises(error, match=message):
        fit(plain(), data, **{"recipe": RECIPE, "loss": squared, "validation": regression(9, 2), **given})


def test_examples_of_another_kind_need_a_loss() -> None:
    with pytest.raises(
        TrainingError, match=r"given a dict\. Other examples need loss=, a function of outputs and batch"
    ):
        learnt(plain(), data=Named())
    with pytest.raises(TrainingError, match=r"a label must be a whole number.* Other targets need loss="):
        learnt(plain(), data=regression())
    with pytest.raises(TrainingError, match="an example must be a pair"):
        fit(OfItsOwn(), Named(), QUICK, loss="model", validation=Named(9, 2), validation_measure="accuracy")


def test_results_of_validation_are_numbers() -> None:
    assert (Accuracy(3, 4).value, Accuracy(3, 4).score, str(Accuracy(3, 4))) == (0.75, 0.75, "accuracy 75.00%")
    with pytest.raises(TrainingError, match="the mean loss of 0 validation examples"):
        MeanLoss(0.0, 0)
