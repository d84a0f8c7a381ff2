"""Losses with labels: which of several outputs has the classes."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from support.small_networks import Net
from torch import Tensor, nn

from scionet import prune
from scionet.choices.methods import Forward, TaskLoss
from scionet.choices.outputs import Output, Outputs
from scionet.errors import CalibrationError, UnsupportedModel
from scionet.network.comparison import class_scores

METHODS: Mapping[str, Any] = {
    "taylor": "taylor",
    "obd": "obd",
    "grasp": "grasp",
    "task loss": Forward(TaskLoss()),
    "task loss by gradients": Forward(TaskLoss(scoring="taylor")),
}
FORMS: Mapping[str, tuple[Callable[[Tensor, Tensor], Any], Outputs | None]] = {
    "a sole output": (lambda scores, _: scores, None),
    "a sole output, compared by squared error": (lambda scores, _: scores, Outputs("squared")),
    "the output named logits": (lambda scores, other: {"features": other, "logits": scores}, None),
    "the chosen output": (lambda scores, other: (other, scores), Outputs(of=("1",))),
    "the chosen output with classes": (lambda scores, other: (other, scores), Outputs(of=("0", Output("1", "kl")))),
    "beside class indices": (lambda scores, _: (scores.argmax(1), scores), None),
}


def network(form: Callable[[Tensor, Tensor], Any]) -> Net:
    def forward(m: Any, x: Tensor) -> Any:
        features = torch.relu(m.first(x))
        return form(m.scores(features), m.other(features))

    torch.manual_seed(0)
    return Net(forward, first=nn.Linear(5, 12), scores=nn.Linear(12, 3), other=nn.Linear(12, 7)).double()


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=generator, dtype=torch.float64)
    return [*zip(x.split(16), torch.randint(3, (64,), generator=generator).split(16), strict=True)]


def order(form: str, method: str) -> tuple[int, ...]:
    make, outputs = FORMS[form]
    given = {"example_inputs": data()[0][0], "method": METHODS[method], "outputs": outputs}
    (choice,) = prune(network(make), data(), "params<=60%", **given, widths="uniform", repair=[]).plan.choices
    return choice.order


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_that_of_the_class_scores(form: str, method: str) -> None:
    assert order(form, method) == order("a sole output", method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("form", "outputs", "text"),
    [
        (lambda scores, other: (scores, other), None, r"'0', '1', of which 0 are .* outputs=Outputs\(of="),
        (lambda scores, other: (scores, other), "kl", "of which 2 are"),
        (lambda scores, other: {"a": {"logits": scores}, "b": {"logits": other}}, None, "'a.logits', 'b.logits'"),
    ],
    ids=["two outputs", "two with classes", "two names"],
)
def test_it_is_refused_where_several_outputs_could_be_meant(form: Any, outputs: Any, text: str, method: str) -> None:
    given = {"example_inputs": data()[0][0], "method": METHODS[method], "outputs": outputs}
    with pytest.raises(UnsupportedModel, match=text):
        prune(network(form), data(), "params<=60%", **given)


def test_labels_that_do_not_fit_the_chosen_output_are_refused() -> None:
    given = {"example_inputs": data()[0][0], "method": "taylor", "outputs": Outputs(of=("b",))}
    model = network(lambda scores, other: {"a": scores, "b": other[:, :2]})
    with pytest.raises(CalibrationError, match=r"outputs of shape \(\d+, 2\)"):
        prune(model, data(), "params<=60%", **given)


def test_names_inside_nested_outputs() -> None:
    scores = torch.zeros(4, 3)
    assert class_scores([{"x": torch.zeros(4), "logits": scores}]) is scores
