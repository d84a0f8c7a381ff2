"""Which outputs count, how each is compared, and that none is sacrificed for another."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from scionet import prune
from scionet.choices.limits import Limits
from scionet.choices.methods import Average, Forward, LeastSquares, OutputImitation
from scionet.choices.outputs import Output, Outputs
from scionet.choices.repair import Reconstruct
from scionet.choices.widths import Sensitivity, Widths
from scionet.errors import UnsupportedModel
from scionet.methods.widths.output_distance import OutputDistance
from scionet.methods.widths.verdict import verdict
from scionet.network.comparison import variance_of
from scionet.network.named_outputs import named_outputs
from scionet.network.network import Network

DEFAULT = Outputs()


class Pair(NamedTuple):
    """Two outputs with names."""

    logits: Tensor
    boxes: Tensor


@dataclass
class Record:
    """An output object, as those of transformers."""

    loss: Tensor | None
    logits: Tensor
    hidden: tuple[Tensor, ...]


FORMS: Mapping[str, tuple[Any, dict[str, tuple[str, int]]]] = {
    "class scores": (lambda t: t(5, 3), {"": ("kl", 1)}),
    "one score": (lambda t: t(5, 1), {"": ("squared", 0)}),
    "no dimension of classes": (lambda t: t(5), {"": ("squared", 0)}),
    "an image": (lambda t: t(5, 3, 4, 4), {"": ("squared", 0)}),
    "tokens": (lambda t: t(5, 7, 3), {"": ("squared", 0)}),
    "one tensor in a tuple": (lambda t: (t(5, 3),), {"0": ("kl", 1)}),
    "one tensor beside class indices": (lambda t: {"scores": t(5, 3), "best": t(5).long()}, {"scores": ("kl", 1)}),
    "two heads": (lambda t: (t(5, 3), t(5, 2)), {"0": ("squared", 0), "1": ("squared", 0)}),
    "logits of tokens": (lambda t: {"logits": t(5, 7, 3)}, {"logits": ("kl", 2)}),
    "logits of pixels": (lambda t: {"logits": t(5, 3, 4, 4)}, {"logits": ("kl", 1)}),
    "logits of one class": (lambda t: {"logits": t(5, 1)}, {"logits": ("squared", 0)}),
    "an auxiliary head": (lambda t: {"out": t(5, 3), "aux": t(5, 3)}, {"out": ("squared", 0), "aux": ("squared", 0)}),
    "a detector of queries": (lambda t: Pair(t(5, 9, 3), t(5, 9, 4)), {"logits": ("kl", 2), "boxes": ("squared", 0)}),
    "an output object": (
        lambda t: Record(None, t(5, 3), (t(5, 8), t(5, 8))),
        {"logits": ("kl", 1), "hidden.0": ("squared", 0), "hidden.1": ("squared", 0)},
    ),
}


class Returning(nn.Module):
    """Returns what a function makes of random tensors."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.form, self.scale = form, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Any:
        generator = torch.Generator().manual_seed(0)
        return self.form(lambda *shape: self.scale * torch.randn(shape, generator=generator, dtype=torch.float64))


def distance_on(model: nn.Module, x: Tensor, choice: Outputs = DEFAULT) -> OutputDistance:
    return OutputDistance.on(Network(model), [x], choice)


@pytest.mark.parametrize("name", FORMS)
def test_what_is_compared_and_how(name: str) -> None:
    form, expected = FORMS[name]
    distance = distance_on(Returning(form), torch.zeros(5, 2, dtype=torch.float64))
    assert {each.name: (each.metric, each.classes) for each in distance.comparisons} == expected
    assert distance.of({}) == 0
    assert distance.of({"scale": torch.tensor(0.5, dtype=torch.float64)}) > 0
    for each in distance.comparisons:
        assert str(each) in distance.described


def test_the_distance_by_definition() -> None:
    distance = distance_on(Returning(FORMS["a detector of queries"][0]), torch.zeros(5, 2, dtype=torch.float64))
    ((logits, boxes),) = distance.outputs
    before, after = logits.log_softmax(2), (0.5 * logits).log_softmax(2)
    divergence = (before.exp() * (before - after)).sum(2).mean()
    squared = (0.5 * boxes).square().sum() / (boxes - boxes.mean(0)).square().sum()
    found = distance.of({"scale": torch.tensor(0.5, dtype=torch.float64)})
    assert found == pytest.approx(float(divergence + squared), rel=1e-12)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Outputs("squared"), {"logits": ("squared", 0), "boxes": ("squared", 0)}),
        (Outputs("kl"), {"logits": ("kl", 2), "boxes": ("kl", 2)}),
        (Outputs("kl", 1, of=("boxes",)), {"boxes": ("kl", 1)}),
        (Outputs(of=(Output("boxes", classes=-1), "logits")), {"boxes": ("kl", 2), "logits": ("kl", 2)}),
        (Outputs(of=(Output("logits", "squared"),)), {"logits": ("squared", 0)}),
    ],
    ids=str,
)
def test_outputs_says_which_and_how(choice: Outputs, expected: dict[str, tuple[str, int]]) -> None:
    model = Returning(FORMS["a detector of queries"][0])
    distance = distance_on(model, torch.zeros(5, 2, dtype=torch.float64), choice)
    assert {each.name: (each.metric, each.classes) for each in distance.comparisons} == expected


@pytest.mark.parametrize(
    ("form", "choice", "text"),
    [
        (lambda t: t(5), Outputs("kl"), r"needs two or more classes along dimension 1.*\(5,\)"),
        (lambda t: t(5, 1), Outputs("kl"), "two or more classes"),
        (lambda t: t(5, 3), Outputs("kl", 0), "along dimension 0"),
        (lambda t: t(5, 3), Outputs("kl", 2), "along dimension 2"),
        (lambda t: {"a": t(5, 3), "b": t(5)}, Outputs(of=("c",)), "names 'c'; .* are 'a', 'b'"),
        (lambda t: t(5, 3).long(), Outputs(), "no floating-point tensor"),
    ],
)
def test_what_cannot_be_compared_is_refused(form: Any, choice: Outputs, text: str) -> None:
    with pytest.raises(UnsupportedModel, match=text):
        distance_on(Returning(form), torch.zeros(5, 2, dtype=torch.float64), choice)


class Found(nn.Module):
    """Returns as many rows as exceed 0, as a detector does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.second(self.first(x).relu()).flatten()
        return {"boxes": scores[scores > 0]}


def test_outputs_whose_shape_depends_on_the_weights_are_refused_where_they_decide_and_noted_elsewhere() -> None:
    torch.manual_seed(0)
    model, data = Found(), torch.randn(64, 4).split(16)
    given = {"data": data, "budget": "macs<=50%", "example_inputs": data[0]}
    with pytest.raises(UnsupportedModel, match="'boxes' has the shape"):
        prune(model, **given)
    status = prune(model, **given, widths="uniform").report.status
    assert re.search(r"warning: the change of the output was not measured: 'boxes' has the shape", status)
    with pytest.raises(UnsupportedModel, match="outputs names 'logits'"):
        prune(model, **given, widths="uniform", outputs=Outputs(of=("logits",)))


def test_names_of_outputs() -> None:
    one = torch.zeros(1)
    returned = {"a": [one, {"b": one}], "pair": Pair(one, one), "whole": one.long(), "none": None, "number": 3}
    assert [*named_outputs(returned)] == ["a.0", "a.1.b", "pair.logits", "pair.boxes"]
    assert [*named_outputs(one)] == [""]


def test_an_output_that_does_not_vary_is_measured_by_its_size() -> None:
    device = torch.device("cpu")
    assert variance_of([torch.full((6, 2), 3.0)], device) == pytest.approx(18)
    assert variance_of([torch.full((1, 2), 3.0)], device) == pytest.approx(18)
    assert variance_of([torch.tensor([[1e3 - 1], [1e3 + 1]])], device) == pytest.approx(1)
    parts = [torch.tensor([[1.0]]), torch.tensor([[3.0], [5.0]])]
    assert variance_of(parts, device) == pytest.approx(8 / 3)


class TwoHeads(nn.Module):
    """Two regressions on one body, of scales a thousand times apart; or the first alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return 1000 * self.heads[0](features), self.heads[1](features)


def targets(x: Tensor) -> tuple[Tensor, Tensor]:
    return 1000 * (x[:, :1] * x[:, 1:2] + x[:, 2:3]), torch.sin(2 * x[:, 3:4]) + x[:, 4:5] * x[:, 5:6]


@pytest.fixture(scope="module")
def trained() -> tuple[TwoHeads, Tensor, Tensor]:
    """The network, inputs to calibrate on, and others."""
    torch.manual_seed(0)
    model, x = TwoHeads(), torch.randn(4096, 8)
    first, second = targets(x)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(800):
        some = slice(step % 8 * 512, step % 8 * 512 + 512)
        found = model(x[some])
        loss = (found[0] - first[some]).square().mean() / 1e6 + (found[1] - second[some]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval(), x[:1024], torch.randn(2048, 8)


def r2(model: nn.Module, x: Tensor) -> list[float]:
    with torch.no_grad():
        pairs = zip(model(x), targets(x), strict=True)
        return [1 - float((found - y).square().sum() / (y - y.mean()).square().sum()) for found, y in pairs]


CHOICES: Mapping[str, dict[str, Any]] = {
    "defaults": {},
    "imitation of the outputs": {"method": Forward(LeastSquares("output"))},
    "better imitation": {"method": Forward(Average("better"))},
    "reconstruction": {"repair": ["refit", Reconstruct(60)]},
    "greedy imitation": {"method": Forward(OutputImitation()), "widths": "uniform"},
}


@pytest.mark.parametrize("name", CHOICES)
def test_no_head_is_sacrificed_for_the_other(name: str, trained: tuple[TwoHeads, Tensor, Tensor]) -> None:
    model, x, unseen = trained
    few = x[:160] if "imitation" in name else x
    before = r2(model, unseen)
    assert min(before) > 0.85
    result = prune(model, few.split(64), "macs<=50%", example_inputs=x[:2], **CHOICES[name])
    assert min(after / dense for after, dense in zip(r2(result.model, unseen), before, strict=True)) > 0.8
    assert "'0' by squared error, '1' by squared error" in result.report.status
    assert re.search(
        r"squared error of each output, relative to its variance: '[01]' \S+, '[01]' ", result.report.status
    )


WIDTHS: Mapping[str, Any] = {
    "uniform": "uniform",
    "error curves": "error_curves",
    "isomorphic": "isomorphic",
    "global": "global",
    "sensitivity": "sensitivity",
    "search": Sensitivity(search=2),
    "given": Widths({"heads.1.0": 2}),
}


@pytest.mark.parametrize("repair", [[], ["refit"]], ids=["bare", "refitted"])
@pytest.mark.parametrize("name", WIDTHS)
def test_whatever_decides_the_widths_the_change_of_each_output_is_reported(
    name: str, repair: list[Any], trained: tuple[TwoHeads, Tensor, Tensor]
) -> None:
    model, x, _ = trained
    only = Limits(ignored_layers=["body.0", "heads.0.0"])
    budget = None if name == "given" else "params<=60%"
    given = {"example_inputs": x[:2], "method": "l1", "widths": WIDTHS[name], "repair": repair, "limits": only}
    status = prune(model, x.split(64), budget, **given).report.status
    assert "change of the output on 128 held-out examples: " in status
    assert ("predicted" in status) == (name in ("sensitivity", "search"))
    assert "warning: the output '1' changes far more than the others" in status
    assert "fitted on these" not in status


def test_without_data_nothing_is_said_of_the_outputs() -> None:
    status = prune(TwoHeads(), (), "params<=45%", example_inputs=torch.zeros(2, 8), method="l1").report.status
    assert "change of the output" not in status


def test_examples_that_nothing_is_fitted_on_are_as_good_as_held_out_ones() -> None:
    given = {"example_inputs": torch.zeros(2, 8), "method": "l1", "widths": "uniform"}
    few = [torch.randn(7, 8)]
    bare, fitted = (
        prune(TwoHeads(), few, "params<=45%", **given, repair=repair).report.status for repair in ([], ["refit"])
    )
    assert "change of the output on 7 held-out examples: " in bare
    assert "change of the output on 7 examples: " in fitted
    assert "the weights were fitted on these examples" in fitted


def test_an_output_that_is_left_out_may_suffer_and_a_damaged_one_is_a_warning(
    trained: tuple[TwoHeads, Tensor, Tensor],
) -> None:
    model, x, unseen = trained
    given = {"example_inputs": x[:2], "budget": "macs<=50%", "data": x.split(64)}
    alone = prune(model, **given, outputs=Outputs(of=("0",)))
    both = prune(model, **given)
    assert r2(alone.model, unseen)[1] < r2(both.model, unseen)[1]
    assert "changes far more" not in alone.report.status  # it was said that this output does not count


def test_warnings_where_numbers_mislead(trained: tuple[TwoHeads, Tensor, Tensor]) -> None:
    model, _, unseen = trained
    distance = distance_on(model, unseen)
    damaged = {"heads.1.2.weight": 0.5 * model.state_dict()["heads.1.2.weight"]}
    found = distance.of(damaged)
    for predicted, held_out in ((found, True), (found / 20, False), (found * 20, True)):
        text = "; ".join(verdict(predicted, distance, damaged, None, held_out))
        assert f"predicted {predicted:.3g}, measured {found:.3g} relative squared error" in text
        assert ("order of magnitude" in text) == (predicted != found)
        assert ("too few to hold any out" in text) == (not held_out)
        assert "the output '1' changes far more than the others" in text
    quiet = "; ".join(verdict(0.0, distance, {}, damaged, held_out=True))
    assert "order of magnitude" not in quiet  # nothing changed
    assert f"after the repair {found:.3g}" in quiet
