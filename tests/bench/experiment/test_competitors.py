"""A comparison run: what it records is what the pruned network is."""

import pytest
import torch

from scionet.bench.experiment.competitors import COMPETITORS, FORWARD, LOSS, Competitor
from scionet.bench.records.record import RunRecord, load, save
from scionet.bench.runs.competitor_runs import Comparison, outcome
from scionet.budget.costs import measure
from scionet.choices.repair import Refit
from scionet.choices.settings import Settings
from scionet.choices.widths import Uniform
from scionet.files.json_dataclasses import to_json
from scionet.methods.registry import SCORES, method_for
from scionet.models.resnets import digits_cnn
from scionet.pruning import prune
from scionet.training.accuracy import accuracy


def comparison() -> Comparison:
    torch.manual_seed(0)
    model = digits_cnn().eval()
    images, labels = torch.rand(30, 1, 8, 8), torch.arange(30) % 10
    test = [(images[:20], labels[:20]), (images[20:], labels[20:])]
    dense, _ = outcome(model, measure(model, images[:1]), test)
    return Comparison("test", "digits CNN", "noise", model, images[:2], test, dense, "pytest")


def test_a_run_records_what_came_out(tmp_path) -> None:
    place = comparison()
    run = place.run(FORWARD, [images for images, _ in place.test], "macs<=60%", seed=3)
    record = run.record
    cost, found = measure(run.result.model, place.example_inputs), accuracy(run.result.model, place.test)
    assert (record.pruned.macs, record.pruned.params) == (cost.macs, cost.params)
    assert (record.pruned.correct, record.pruned.seen) == (found.correct, 30)
    assert 0.59 * record.dense.macs <= record.pruned.macs <= 0.6 * record.dense.macs
    assert {site.name: site.kept for site in record.sites} == run.result.plan.widths
    for site, choice in zip(record.sites, run.result.plan.choices, strict=True):
        assert site.curve[-1][0] == len(choice.kept)
        assert abs(site.curve[-1][1] + choice.values[-1]) < 1e-5
    assert record.plan_hash == run.result.plan.identity
    assert record.spec.seed == 3
    assert load(save(record, tmp_path)) == RunRecord.from_json(record.to_json())


def test_a_competitor_may_be_a_method_of_ones_own() -> None:
    place, settings = comparison(), Settings(Uniform(), (Refit(),))
    images = [images for images, _ in place.test]
    given = (
        Competitor("l1", method_for("l1", settings)),
        Competitor("l1", SCORES["l1"], "uniform", ("refit",)),
        Competitor("l1", "l1", Uniform(), (Refit(),)),
    )
    own, ranker, named = (place.run(each, images, "macs<=60%", seed=3).record for each in given)
    assert own.plan_hash == ranker.plan_hash == named.plan_hash
    assert own.spec == ranker.spec == named.spec


def test_competitors_differ_and_only_the_task_loss_asks_for_labels() -> None:
    labels = [competitor.label for competitor in (*COMPETITORS, LOSS)]
    assert len(set(labels)) == len(labels)
    assert len({to_json(competitor.described) for competitor in (*COMPETITORS, LOSS)}) == len(labels)
    assert FORWARD in COMPETITORS
    asking = [c.label for c in (*COMPETITORS, LOSS) if method_for(c.method, Settings()).uses_labels]
    assert {label.split(" + ")[0] for label in asking} == {"taylor", "forward task loss"}


@pytest.mark.parametrize(
    ("label", "method", "widths", "repair"),
    [
        ("forward least squares", "forward", {"name": "uniform"}, ["refit"]),
        ("l1 + refit + error curves", "l1", {"name": "error_curves"}, ["refit"]),
        ("l1 + recalibration", "l1", {"name": "uniform"}, ["recalibrate"]),
        ("random", "random", {"name": "uniform"}, []),
    ],
)
def test_a_label_says_what_a_competitor_does(label: str, method: str, widths: dict, repair: list[str]) -> None:
    described = next(competitor for competitor in COMPETITORS if competitor.label == label).described
    assert (described["method"], described["widths"]) == (method, widths)
    assert [step["name"] for step in described["repair"]] == repair


def test_the_defaults_of_prune_are_forward_least_squares_at_sensitivity() -> None:
    place = comparison()
    images = [images for images, _ in place.test]
    plain = prune(place.model, images, "macs<=60%", example_inputs=place.example_inputs, seed=3)
    assert plain.plan.identity == place.run(FORWARD, images, "macs<=60%", seed=3).record.plan_hash
