"""What every method must keep, over the table of methods and a few small networks."""

import random
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import selecting
from support.method_table import ROWS, Row
from support.subjects import SUBJECTS
from torch import Tensor, nn

from scionet import load_pruned, save_pruned
from scionet.budget.budget import Budget
from scionet.budget.costs import Cost, CostModel, measure
from scionet.choices.checking import name_of
from scionet.choices.depth import DEPTH
from scionet.choices.limits import Limits
from scionet.choices.methods import CANDIDATES, OBJECTIVES, Forward, Score
from scionet.choices.repair import REPAIR
from scionet.choices.resources import Resources
from scionet.choices.widths import WIDTHS
from scionet.files.safetensors_files import hash_tensors
from scionet.methods.registry import METHODS, SCORES, list_methods
from scionet.network.calling import call, state_of
from scionet.network.discovery.discover import discover
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut
from scionet.network.surgery.verification import verify

DOCS = Path(__file__).parents[2] / "docs"
CARDS = "\n".join(card.read_text() for card in (*(DOCS / "methods").glob("*.md"), DOCS / "repair.md"))
PRINCIPAL = [
    row
    for row in ROWS
    if str(row) in {"forward", "Forward(objective='line_search') repair=()", "l1", "random widths=uniform repair=()"}
    or "TaskLoss(), candidates=Stochastic(sample_size=2)" in str(row)
]
SHALLOW = [row for row in ROWS if row.drops_branches]
WIDE = [row for row in ROWS if not row.drops_branches]
ROWS_OF = {"branched": WIDE, "residual": [*PRINCIPAL, *SHALLOW]}
CASES = [(row, name) for name in SUBJECTS for row in ROWS_OF.get(name, PRINCIPAL)]


def over(cases: list[tuple[Row, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("row", "name"), cases, ids=lambda value: str(value))


each = over(CASES)


@dataclass(frozen=True, eq=False)
class Outcome:
    """A network and what a method made of it."""

    model: nn.Module
    sites: Sites
    plan: Plan
    pruned: nn.Module
    dense_cost: Cost


@cache
def network(name: str) -> tuple[nn.Module, Sites]:
    model = SUBJECTS[name].network()
    return model, discover(model, SUBJECTS[name].example())


def select(row: Row, name: str, seed: int = 0) -> Plan:
    model, sites = network(name)
    subject = SUBJECTS[name]
    batches = subject.pairs(2, 8) if row.uses_labels else subject.batches()
    budget = None if row.budget is None else Budget(row.budget)
    return selecting.select(row.method, model, batches, sites, budget, seed, **row.choices)


@cache
def outcome(row_text: str, name: str) -> Outcome:
    row = next(row for row in ROWS if str(row) == row_text)
    model, sites = network(name)
    plan = select(row, name)
    return Outcome(model, sites, plan, cut(model, plan, sites), measure(model, SUBJECTS[name].example()))


def test_rows_have_different_names() -> None:
    assert len({str(row) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_rows_and_a_card(name) -> None:
    repairs = {bool(row.choices.get("repair", ("refit",))) for row in ROWS if row.name == name}
    assert repairs == {True, False}
    assert f"`{name}`" in CARDS


def test_every_score_is_a_method_with_a_description() -> None:
    assert set(METHODS) == {"forward", *SCORES} == set(list_methods())
    described = list_methods(with_description=True)
    assert described.keys() == set(METHODS)
    assert all(10 < len(text) < 150 and text.endswith(".") for text in described.values())


CHOICES = {**OBJECTIVES, **CANDIDATES, **WIDTHS, **DEPTH, **REPAIR}


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_has_a_row_and_stands_in_a_card(name) -> None:
    rows = [selecting.method_with(row.method, **row.choices).described for row in ROWS]
    assert f"'name': '{name}'" in str(rows)
    assert f"`{CHOICES[name].__name__}" in CARDS


@pytest.mark.parametrize("kind", [*CHOICES.values(), Forward, Score, Limits, Resources])
def test_every_parameter_stands_in_a_card(kind) -> None:
    assert [field.name for field in fields(kind) if not re.search(rf"`{field.name}\b", CARDS)] == [], name_of(kind)


@each
def test_budget_is_respected_and_predicted(row, name) -> None:
    found = outcome(str(row), name)
    cost = measure(found.pruned, SUBJECTS[name].example())
    left = CostModel(found.sites).without(found.plan.dropped)
    assert cost == left.cost(found.plan.widths)
    assert set(found.plan.widths) == set(left.sites)
    assert bool(found.plan.dropped) == row.drops_branches or row.choices["depth"] == "branch_damage"
    if row.budget is None:
        return
    limit = Budget(row.budget).absolute(found.dense_cost).macs
    assert cost.macs <= limit
    assert (cost.macs < limit - 0.01 * found.dense_cost.macs) == ("is met with macs" in found.plan.status)


@over([(row, name) for row, name in CASES if name != "branched"])
def test_same_seed_gives_the_same_plan(row, name) -> None:
    """For the branched network, all rows: `test_input_is_left_untouched`."""
    assert select(row, name).identity == outcome(str(row), name).plan.identity


@pytest.mark.parametrize("row", [row for row in ROWS if row.is_random], ids=str)
def test_other_seed_takes_other_units(row) -> None:
    plans = (select(row, "branched", seed=1), outcome(str(row), "branched").plan)
    first, second = ([choice.order for choice in plan.choices] for plan in plans)
    assert first != second


@each
def test_plan_survives_json(row, name) -> None:
    plan = outcome(str(row), name).plan
    constants = {name: constant for name, constant in plan.dropped.items() if constant is not None}
    back = Plan.from_json(plan.to_json(), plan.tensors, constants)
    assert back.identity == plan.identity
    assert (back.choices, back.method, dict(back.settings)) == (plan.choices, row.name, dict(plan.settings))
    assert Plan.from_json(plan.to_json()).choices == plan.choices


@each
def test_masked_network_equals_cut_one(row, name) -> None:
    found = outcome(str(row), name)
    fresh = SUBJECTS[name].batches(1, 5, seed=7)[0]
    assert verify(found.model, found.plan, found.sites, found.pruned, fresh, 1e-10) <= 1e-10


@each
def test_result_survives_save_and_load(row, name, tmp_path) -> None:
    found, subject = outcome(str(row), name), SUBJECTS[name]
    path = save_pruned(tmp_path / "pruned.safetensors", found.pruned, found.plan, found.sites)
    back = load_pruned(path, subject.network(seed=5)).eval()
    fresh = subject.batches(1, 5, seed=7)[0]
    assert torch.equal(call(back, fresh), call(found.pruned, fresh))
    assert hash_tensors(back.state_dict()) == hash_tensors(found.pruned.state_dict())


def traces(model: nn.Module) -> Mapping[str, Any]:
    """Everything that a method might leave behind."""
    return {
        "state": hash_tensors(state_of(model)),
        "objects": {name: id(tensor) for name, tensor in state_of(model).items()},
        "training": [module.training for module in model.modules()],
        "grads": {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "threads": threading.active_count(),
    }


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_input_is_left_untouched(row) -> None:
    """Nor does the state of the input decide anything: in training mode and half frozen, it has the same plan."""
    name = "residual" if row.drops_branches else "branched"
    subject = SUBJECTS[name]
    model = subject.network()
    model.train()
    model.get_submodule("block2.bn1" if row.drops_branches else "side").eval()
    model.get_parameter("head.weight").requires_grad_(False)
    sites = discover(model, subject.example())
    batches = subject.pairs(2, 8) if row.uses_labels else subject.batches()
    copies = [tuple(t.clone() for t in b) if isinstance(b, tuple) else b.clone() for b in batches]
    budget = None if row.budget is None else Budget(row.budget)
    before = traces(model)
    plan = selecting.select(row.method, model, batches, sites, budget, **row.choices)
    cut(model, plan, sites)
    assert traces(model) == before
    assert plan.identity == outcome(str(row), name).plan.identity
    for batch, copy in zip(batches, copies, strict=True):
        assert all(map(torch.equal, *([x] if isinstance(x, Tensor) else x for x in (batch, copy))))


@pytest.mark.parametrize("stage", ["first batch", "later batch"])
def test_failure_leaves_no_thread_and_no_trace(stage) -> None:
    subject = SUBJECTS["residual"]
    model, sites = network("residual")
    batches = subject.batches(3, 4)
    batches[0 if stage == "first batch" else 2][0, 0, 0, 0] = torch.nan
    before = traces(model)
    with pytest.raises(ValueError, match="NaN or infinite"):
        selecting.select("forward", model, batches, sites, Budget("macs<=50%"))
    assert traces(model) == before
