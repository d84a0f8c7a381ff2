"""Widths tried by whole walks: the one that moves the output least is kept, as measured on examples apart."""

import re

import numpy as np
import pytest
from support.subjects import SUBJECTS, budget_for

from scionet.budget.costs import CostModel
from scionet.errors import InvalidSetting
from scionet.methods.registry import build
from scionet.methods.walk import Walk
from scionet.methods.widths.sensitivity import OutputDistance
from scionet.network.discovery.discover import discover
from scionet.network.surgery.gates import call_with, masked_tensors

BRANCHED = SUBJECTS["branched"]
SETTINGS = {"measured_examples": 20, "survey_examples": 40, "allocation": "measured", "refit": True}


def planned(n_trials: int, method: str = "forward", seed: int = 0, **settings):
    model, batches = BRANCHED.network(), list(BRANCHED.batches(3, 24))
    sites = discover(model, BRANCHED.example())
    chosen = build(method, **{**SETTINGS, "width_trials": n_trials, **settings})
    budget = budget_for(sites, 0.4)
    return chosen.select(model, batches, sites, budget, seed), model, sites, budget


@pytest.mark.parametrize("method", ["forward", "l1"])
def test_the_widths_of_least_effect_among_those_tried_are_kept(monkeypatch, method):
    walked, effects = list[Walk](), list[float]()
    grow, effect = Walk.grow, OutputDistance.effect
    monkeypatch.setattr(Walk, "grow", lambda self: walked.append(self) or grow(self))
    monkeypatch.setattr(OutputDistance, "effect", lambda self, t: effects.append(effect(self, t)) or effects[-1])
    plan, _, sites, budget = planned(8, method)
    *tried, final = walked
    effects = effects[: len(tried)]
    best = int(np.argmin(effects))
    assert len(tried) > 2 and len({tuple(walk.shares.widths.values()) for walk in tried}) == len(tried)
    assert plan.widths == final.shares.widths == tried[best].shares.widths
    found = re.search(r"best of (\d+) widths tried .* apart (\S+) -> (\S+);", plan.status)
    assert found and int(found[1]) == len(tried)
    assert float(found[2]) == pytest.approx(effects[0], rel=5e-3)
    assert float(found[3]) == pytest.approx(effects[best], rel=5e-3)
    costs = CostModel(sites)
    assert all(0 <= budget.slack(costs.cost(walk.shares.widths), costs.dense) < 0.1 for walk in walked)


def test_effects_are_of_the_walked_network_on_examples_that_it_has_not_seen(monkeypatch):
    walked, effects = list[Walk](), list[float]()
    grow, effect = Walk.grow, OutputDistance.effect
    monkeypatch.setattr(Walk, "grow", lambda self: walked.append(self) or grow(self))
    monkeypatch.setattr(OutputDistance, "effect", lambda self, t: effects.append(effect(self, t)) or effects[-1])
    _, model, sites, _ = planned(2)
    trial = walked[0]
    apart, others, rest = map(list, trial.allocator.parts)
    assert [*map(len, trial.inputs)] == [*map(len, others)]
    assert [sum(map(len, part)) for part in (apart, others, rest)] == [20, 40, 12]
    judged = [*apart, *rest]
    seen = {tuple(x.flatten().tolist()) for batch in others for x in batch}
    assert not any(tuple(x.flatten().tolist()) in seen for batch in judged for x in batch)
    masked = masked_tensors(model, sites, trial.plan())
    total = 0.0
    for batch in judged:
        before, after = model(batch).log_softmax(1), call_with(model, masked, batch).log_softmax(1)
        total += float((before.exp() * (before - after)).sum().detach())
    assert effects[0] == pytest.approx(total / 32, rel=1e-9)


def test_without_trials_nothing_is_tried_and_the_same_seed_tries_the_same():
    plain, *_ = planned(0)
    assert "tried" not in plain.status
    assert planned(5)[0].to_json() == planned(5)[0].to_json()


def test_trials_need_measured_widths():
    for settings in ({"allocation": "uniform"}, {"allocation": "curves"}):
        with pytest.raises(InvalidSetting, match="width_trials=1 goes with allocation 'measured', this method's is"):
            planned(1, **settings)
    with pytest.raises(InvalidSetting, match="width_trials are whole numbers of 0 or more"):
        planned(-1)
