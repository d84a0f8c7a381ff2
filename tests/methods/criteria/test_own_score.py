"""A function as a method: from one score per unit to a pruned network, and what is refused on the way."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.subjects import SUBJECTS, budget_for

from scionet import prune
from scionet.errors import InvalidSetting
from scionet.methods.criteria.unit_scores import score
from scionet.network.discovery.discover import discover

RESIDUAL = SUBJECTS["residual"]


def outgoing(view, rng) -> Any:
    """L1 norm of the weights that read each unit."""
    total = np.zeros(view.site.width)
    for consumer in view.site.consumers:
        sums = view.network.state[consumer].detach().abs().sum((0, *range(2, view.network.state[consumer].ndim)))
        total += sums.numpy()[view.site.slot(consumer, 1).index].sum(1)
    return total


def pruned_by(method, data=(), **choices) -> Any:
    model = RESIDUAL.network()
    budget = budget_for(discover(model, RESIDUAL.example()), 0.6)
    return model, prune(model, data, budget, example_inputs=RESIDUAL.example(), method=method, **choices)


def test_a_function_alone_prunes_without_data_and_keeps_the_units_of_highest_score() -> None:
    model, result = pruned_by(outgoing)
    assert result.plan.method == "outgoing"
    assert not result.plan.tensors
    assert result.report.difference <= 1e-10
    assert result.report.pruned.macs < result.report.dense.macs
    weight = model.get_parameter("block1.conv2.weight").detach().numpy()
    sums = np.array([np.abs(weight[:, unit]).sum() for unit in range(12)])
    assert result.plan.kept["block1.conv1"] == tuple(sorted(np.argsort(-sums)[: result.plan.widths["block1.conv1"]]))


def test_with_data_widths_are_measured_and_consumers_refitted_as_for_every_method() -> None:
    _, result = pruned_by(outgoing, RESIDUAL.batches())
    assert "predicted" in result.report.status
    assert result.plan.tensors
    assert result.plan.settings["method"] == {"name": "outgoing", "passes": 1}
    assert result.plan.settings["widths"]["name"] == "sensitivity"


def test_a_score_may_be_random_and_depends_on_the_seed_alone() -> None:
    first, again, other = (
        pruned_by(lambda view, rng: rng.random(view.site.width), seed=seed)[1].plan.kept for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize("kind", ["list", "tensor", "tensor with gradients", "whole numbers"])
def test_scores_may_be_any_array(kind) -> None:
    def like(view, rng) -> Any:
        found = torch.from_numpy(outgoing(view, rng))
        return {
            "list": found.tolist(),
            "tensor": found.float(),
            "tensor with gradients": found.requires_grad_(),
            "whole numbers": (1e6 * found.detach()).long().numpy(),
        }[kind]

    assert pruned_by(like)[1].plan.kept == pruned_by(outgoing)[1].plan.kept


def test_a_decorated_score_is_shown_the_data_and_labels_that_it_asks_for() -> None:
    seen = []

    @score(labels=True, name="by label")
    def labelled(view, rng) -> Any:
        seen.append([tuple(labels.shape) for _, labels in view.calibration.pairs])
        return np.arange(view.site.width)

    _, result = pruned_by(labelled, RESIDUAL.pairs(2, 12), repair=[], widths="uniform")
    assert result.plan.method == "by label"
    assert seen
    assert set(map(tuple, seen)) == {((21,),)}  # one example in eight is held out

    @score(moments=True)
    def first_term(view, rng) -> Any:
        return np.diag(view.terms[0].xx)[view.terms[0].columns].sum(1)

    assert pruned_by(first_term, RESIDUAL.batches())[1].plan.method == "first_term"


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (lambda width: np.ones(width + 1), r"an array of shape \(\d+,\) with 0 NaN"),
        (lambda width: np.ones((width, 1)), r"an array of shape \(\d+, 1\) with 0 NaN"),
        (lambda width: 3.0, r"an array of shape \(\) with 0 NaN"),
        (lambda width: None, r"an array of shape \(\) with 1 NaN"),
        (lambda width: [math.nan] * 2 + [1.0] * (width - 2), r"an array of shape \(\d+,\) with 2 NaN or infinite"),
        (lambda width: [math.inf] + [1.0] * (width - 1), r"an array of shape \(\d+,\) with 1 NaN or infinite"),
        (lambda width: ["high"] * width, "it returned a list"),
        (lambda width: {"score": 1}, "it returned a dict"),
    ],
    ids=["one too many", "a column", "a number", "nothing", "NaN", "infinite", "texts", "a dict"],
)
@pytest.mark.parametrize("data", [(), "batches"], ids=["no data", "data"])
def test_scores_that_are_not_one_finite_number_for_each_unit_are_refused(returned, text, data) -> None:
    def bad_score(view, rng) -> Any:
        return returned(view.site.width)

    message = r"score 'bad_score' must return one finite number for each of the \d+ units of site '[\w.]+'; "
    with pytest.raises(InvalidSetting, match=message + ".*" + text):
        pruned_by(bad_score, RESIDUAL.batches() if data else ())


@pytest.mark.parametrize("method", [lambda view: 0, lambda: 0, lambda view, rng, more: 0])
def test_a_function_of_other_arguments_is_refused_before_anything_is_read(method) -> None:
    def unread() -> Any:
        raise AssertionError("the data are read")
        yield

    with pytest.raises(InvalidSetting, match="a score is called with a SiteView and a random generator"):
        pruned_by(method, unread())


@pytest.mark.parametrize("method", [3, None, object, torch.ones(3)], ids=["a number", "None", "a class", "a tensor"])
def test_what_is_no_method_is_refused(method) -> None:
    with pytest.raises(InvalidSetting, match="method must be a name"):
        pruned_by(method)
