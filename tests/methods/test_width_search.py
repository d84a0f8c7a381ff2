"""Widths tried by whole walks: the one that moves the output least is kept, as measured on held-out examples."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from support.selecting import select
from support.subjects import SUBJECTS, budget_for

from scionet.budget.costs import CostModel
from scionet.choices.resources import Resources
from scionet.choices.widths import Sensitivity
from scionet.methods import pipeline
from scionet.methods.walk import Walk
from scionet.methods.widths.allocator import Allocator
from scionet.methods.widths.output_distance import OutputDistance
from scionet.network.discovery.discover import discover
from scionet.network.network import Network

BRANCHED = SUBJECTS["branched"]


def planned(n_tries: int, method: str = "forward") -> Any:
    model, batches = BRANCHED.network(), BRANCHED.batches(3, 24)
    sites = discover(model, BRANCHED.example())
    budget = budget_for(sites, 0.4)
    choices = {"widths": Sensitivity(examples=20, search=n_tries), "resources": Resources(survey_examples=40)}
    return select(method, model, batches, sites, budget, **choices), model, sites, budget


@dataclass(frozen=True, eq=False)
class Watched:
    """What a width search does.

    Attributes:
        allocators: The allocator of each search.
        walks: All walks, the last one included, which makes the plan.
        distances: The distances of the output that were measured of them.
    """

    allocators: list[Allocator] = field(default_factory=list)
    walks: list[Walk] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)


@pytest.fixture
def watched(monkeypatch) -> Any:
    found, walk, distance_of, searched = Watched(), Walk.walk, OutputDistance.of, pipeline.searched
    monkeypatch.setattr(Walk, "walk", lambda self: found.walks.append(self) or walk(self))
    monkeypatch.setattr(
        OutputDistance, "of", lambda self, t: found.distances.append(distance_of(self, t)) or found.distances[-1]
    )
    monkeypatch.setattr(pipeline, "searched", lambda *args: found.allocators.append(args[0]) or searched(*args))
    return found


@pytest.mark.parametrize("method", ["forward", "l1"])
def test_of_the_widths_tried_those_of_least_distance_are_kept(watched, method) -> None:
    plan, _, sites, budget = planned(8, method)
    *tried, final = watched.walks
    distances = watched.distances[: len(tried)]
    best = int(np.argmin(distances))
    assert len(tried) > 2
    assert len({tuple(walk.widths.kept.values()) for walk in tried}) == len(tried)
    assert plan.widths == final.widths.kept == tried[best].widths.kept
    found = re.search(r"best of (\d+) widths tried, .* held-out examples (\S+) -> (\S+);", plan.status)
    assert found
    assert int(found[1]) == len(tried)
    assert float(found[2]) == pytest.approx(distances[0], rel=5e-3)
    assert float(found[3]) == pytest.approx(distances[best], rel=5e-3)
    costs = CostModel(sites)
    assert all(0 <= budget.slack(costs.cost(walk.widths.kept), costs.dense) < 0.1 for walk in watched.walks)


def test_distances_are_of_the_walked_network_on_examples_that_it_has_not_seen(watched) -> None:
    _, model, sites, _ = planned(2)
    (allocator,), first = watched.allocators, watched.walks[0]
    run = allocator.run
    assert run.problem.held_out is not None
    measured, others, rest = (part.inputs for part in (run.problem.held_out, run.surveyed, run.unsurveyed))
    assert [*map(len, first.calibration.inputs)] == [*map(len, others)]
    assert all(map(torch.equal, first.calibration.inputs, others))
    assert [sum(map(len, part)) for part in (measured, others, rest)] == [9, 40, 23]
    judged = [*measured, *rest]
    seen = {tuple(x.flatten().tolist()) for batch in others for x in batch}
    assert not any(tuple(x.flatten().tolist()) in seen for batch in judged for x in batch)
    network = Network(model, sites)
    masked = network.masked_by(first.plan("forward", {}, 0))
    total = 0.0
    for batch in judged:
        before, after = model(batch).log_softmax(1), network.returned(batch, masked).log_softmax(1)
        total += float((before.exp() * (before - after)).sum().detach())
    assert watched.distances[0] == pytest.approx(total / 32, rel=1e-9)


def test_without_a_search_nothing_is_tried_and_the_same_seed_tries_the_same() -> None:
    plain, *_ = planned(0)
    assert "tried" not in plain.status
    assert planned(5)[0].to_json() == planned(5)[0].to_json()
