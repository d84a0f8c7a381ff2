"""A comparison run: what it records is what the pruned network is."""

import torch

from scionet.bench.experiment.competitors import COMPETITORS, FORWARD, LOSS, Comparison, Competitor, outcome
from scionet.bench.records.record import RunRecord, load, save
from scionet.budget.costs import measure
from scionet.methods.registry import build
from scionet.models.resnets import digits_cnn
from scionet.training.accuracy import accuracy


def comparison() -> Comparison:
    torch.manual_seed(0)
    model = digits_cnn().eval()
    images, labels = torch.rand(30, 1, 8, 8), torch.arange(30) % 10
    test = [(images[:20], labels[:20]), (images[20:], labels[20:])]
    dense, _ = outcome(model, measure(model, images[:1]), test)
    return Comparison("test", "digits CNN", "noise", model, images[:2], test, dense, "pytest")


def test_a_run_records_what_came_out(tmp_path):
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
    assert record.plan_hash == run.result.plan.identity and record.spec.seed == 3
    assert load(save(record, tmp_path)) == RunRecord.from_json(record.to_json())


def test_a_contestant_may_be_a_method_of_ones_own():
    place, settings = comparison(), {"refit": True, "allocation": "uniform"}
    images = [images for images, _ in place.test]
    own, named = (
        place.run(Competitor("l1", method, given), images, "macs<=60%", seed=3).record
        for method, given in ((build("l1", **settings), {}), ("l1", settings))
    )
    assert own.plan_hash == named.plan_hash
    assert own.spec == named.spec


def test_contestants_differ_and_only_the_task_loss_asks_for_labels():
    labels = [competitor.label for competitor in (*COMPETITORS, LOSS)]
    assert len(set(labels)) == len(labels)
    asked = {(c.method, tuple(sorted(c.settings.items()))) for c in (*COMPETITORS, LOSS)}
    assert len(asked) == len(labels)
    assert FORWARD in COMPETITORS and [c for c in COMPETITORS if c.settings.get("objective") == "loss"] == []
