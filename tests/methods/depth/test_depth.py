"""Which branches are dropped: against networks that are really cut, and against all other choices."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from support.selecting import method_with, problem_for, select, select_each
from torch import Tensor, nn
from torch.nn import functional

from scionet import prune, prune_each
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.choices.depth import BranchDamage, BranchElimination, BranchScores, DepthRule, DropBranches
from scionet.choices.limits import Limits
from scionet.choices.widths import Sensitivity, Uniform, Whole, Widths
from scionet.errors import CalibrationError, InvalidSetting, UnreachableBudget, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.methods.contract import SiteView
from scionet.methods.depth.constants import branch_means
from scionet.methods.problem import Problem
from scionet.models.factory import import_torchvision
from scionet.network.calling import state_of
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut

CLASSES = 5


class Body(nn.Module):
    """Two maps with a scale that says how much the branch matters."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.up, self.down, self.scale = nn.Linear(6, width), nn.Linear(width, 6), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.down(functional.gelu(self.up(x)))


class Blocks(nn.Module):
    """Branches of different widths, of which some hardly matter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        sizes = ((12, 1.0), (8, 0.05), (20, 0.3), (12, 0.02), (16, 0.6))
        self.bodies = nn.ModuleList(Body(width, scale) for width, scale in sizes)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for body in self.bodies:
            x = x + body(torch.tanh(x))
        return self.head(x)


@cache
def made() -> tuple[nn.Module, Sites]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Blocks().double().eval()
    return model, discover(model, torch.zeros(2, 4, dtype=torch.float64))


def batches(labels: bool = False, count: int = 2) -> list[Any]:
    rng = torch.Generator().manual_seed(1)
    x = [torch.randn(64, 4, generator=rng, dtype=torch.float64) for _ in range(count)]
    return [(each, torch.randint(CLASSES, (64,), generator=rng)) for each in x] if labels else x


@cache
def prepared(labels: bool = False) -> Problem:
    """The problem with the examples that a method fits on, and those that it holds out."""
    model, sites = made()
    problem = problem_for(model, batches(labels), sites, labels=labels)
    return method_with("forward", widths="sensitivity").prepared(problem, 0)


@cache
def constants(problem: Problem) -> dict[str, Tensor]:
    branches = problem.sites.branches.values()
    return branch_means(problem.network, problem.calibration, branches)


def damage(problem: Problem, names: Iterable[str], measure: str = "output", with_constants: bool = True) -> float:
    """The damage by dropping some branches, of a network that is really cut, on the held-out examples."""
    means = constants(problem)
    dropped = {name: means[name] if with_constants else None for name in names}
    pruned, total, count = cut(problem.network.model, Plan((), dropped=dropped), problem.sites), 0.0, 0
    assert problem.held_out is not None
    for x, labels in problem.held_out.pairs:
        with torch.no_grad():
            before, after = (model(x).log_softmax(1) for model in (problem.network.model, pruned))
        if measure == "output":
            total += float((before.exp() * (before - after)).sum())
        else:
            total += float((before - after)[torch.arange(len(x)), labels].sum())
        count += len(x)
    return total / count


def saved(sites: Sites, name: str) -> float:
    """The fraction of the MACs that a branch has."""
    whole = sum(operation.macs for operation in sites.operations)
    return sum(op.macs for op in sites.operations if op.weight in sites.branches[name].tensors) / whole


def dropped_by(rule: DepthRule, method: Any = "l1", labels: bool = False, **choices: Any) -> tuple[str, ...]:
    model, sites = made()
    options = {"widths": Widths({}), "repair": [], **choices}
    budget = options.pop("budget", None)
    return tuple(select(method, model, batches(labels), sites, budget, depth=rule, **options).dropped)


# -- orders ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["output", "task_loss"])
@pytest.mark.parametrize("with_constants", [False, True])
def test_branches_go_in_the_order_of_their_own_damage_per_cost(measure: Any, with_constants: bool) -> None:
    problem = prepared(labels=True)
    ratios = {
        name: damage(problem, [name], measure, with_constants) / saved(problem.sites, name)
        for name in problem.sites.branches
    }
    expected = sorted(ratios, key=ratios.__getitem__)
    for count in (0, 1, 3, 5):
        rule = BranchDamage(count, measure, with_constants)
        assert dropped_by(rule, labels=True) == tuple(expected[:count])


@pytest.mark.parametrize("measure", ["output", "task_loss"])
def test_elimination_measures_again_after_every_branch(measure: Any) -> None:
    problem = prepared(labels=True)
    chosen: list[str] = []
    for count in range(1, 5):
        now = damage(problem, chosen, measure) if chosen else 0.0
        left = [name for name in problem.sites.branches if name not in chosen]
        ratios = [(damage(problem, [*chosen, name], measure) - now) / saved(problem.sites, name) for name in left]
        chosen.append(left[int(np.argmin(ratios))])
        assert dropped_by(BranchElimination(count, measure), labels=True) == tuple(chosen)


def size_of_maps(view: SiteView, rng: np.random.Generator) -> np.ndarray:
    """The sum of the absolute weights that make each unit."""
    (producer, *_) = view.site.producers
    weights = view.network.state[producer][torch.from_numpy(view.site.slot(producer, 0).index[:, 0])]
    return weights.abs().sum(1).numpy()


@pytest.mark.parametrize("over", ["mean", "sum"])
def test_branches_go_in_the_order_of_the_scores_of_their_units(over: Any) -> None:
    model, sites = made()
    scores = {}
    for name in sites.branches:
        weights = model.get_parameter(f"{name}.up.weight").detach().abs().sum(1)
        scores[name] = float(weights.mean() if over == "mean" else weights.sum())
    expected = sorted(scores, key=scores.__getitem__)
    assert dropped_by(BranchScores(3, over), size_of_maps) == tuple(expected[:3])


def test_scores_of_weights_need_no_data() -> None:
    model, sites = made()
    rule = BranchScores(2, constants=False)
    plan = select(size_of_maps, model, [], sites, None, widths=Widths({}), repair=[], depth=rule)
    assert tuple(plan.dropped) == dropped_by(rule, size_of_maps)


def test_any_score_that_compares_sites_ranks_branches() -> None:
    for method in ("random", "energy", "taylor", "synflow"):
        assert len(dropped_by(BranchScores(2), method, labels=True)) == 2
    for method in ("l1", "l2", "fpgm"):
        with pytest.raises(InvalidSetting, match=f"the scores of method '{method}' are relative to the mean"):
            dropped_by(BranchScores(2), method)


# -- how many ----------------------------------------------------------------------------------------------------------


FURTHER = ["macs<=80%", "params<=30%"]


def predicted(plan: Plan) -> float:
    (text,) = (note for note in plan.status.split("; ") if note.startswith("change of the output"))
    return float(text.partition("predicted ")[2].partition(",")[0])


@pytest.mark.parametrize("rule", [BranchDamage, BranchElimination, BranchScores])
@pytest.mark.parametrize("budget", ["macs<=50%", *(pytest.param(b, marks=pytest.mark.slow) for b in FURTHER)])
def test_the_number_of_branches_is_that_of_the_least_predicted_change(rule: Any, budget: str) -> None:
    model, sites = made()
    options = {"widths": "sensitivity", "repair": ["refit"]}
    method = "energy" if rule is BranchScores else "l1"
    best = select(method, model, batches(), sites, Budget(budget), depth=rule(), **options)
    found = {}
    for count in range(6):
        try:
            plan = select(method, model, batches(), sites, Budget(budget), depth=rule(count), **options)
        except UnreachableBudget:
            continue
        found[count] = predicted(plan), tuple(plan.dropped), plan.widths
    least = min(found, key=lambda count: found[count][0])
    assert found[least][0] == predicted(best)
    assert found[least][1:] == (tuple(best.dropped), best.widths)


@pytest.mark.parametrize("budget", ["macs<=80%", "macs<=50%", "params<=30%", "macs<=70%, params<=60%"])
def test_with_whole_widths_as_many_branches_go_as_the_budget_asks_for(budget: str) -> None:
    model, sites = made()
    plan = select("l1", model, batches(), sites, Budget(budget), widths=Whole(), repair=[], depth=BranchDamage())
    costs, limit = CostModel(sites), Budget(budget)
    names = list(plan.dropped)
    assert limit.met(costs.without(plan.dropped).cost({}), costs.dense)
    fewer = {name: plan.dropped[name] for name in names[:-1]}
    assert not limit.met(costs.without(fewer).cost({}), costs.dense)
    assert all(choice.kept == tuple(range(choice.width)) for choice in plan.choices)


def test_no_branch_is_dropped_where_that_is_best_or_nothing_is_asked_for() -> None:
    model, sites = made()
    plan = select("l1", model, batches(), sites, Budget("macs<=100%"), widths="sensitivity", depth=BranchDamage())
    assert not plan.dropped
    assert "none of 5 residual branches dropped" in plan.status
    plan = select("l1", model, batches(), sites, Budget("macs<=50%"), widths="sensitivity")
    assert not plan.dropped
    assert "branches" not in plan.status


@pytest.mark.parametrize("widths", [Sensitivity(), Sensitivity(search=2), Uniform(), "error_curves", "isomorphic"])
def test_given_branches_go_beside_any_widths(widths: Any) -> None:
    model, sites = made()
    budget = Budget("macs<=45%")
    plan = select("l1", model, batches(), sites, budget, widths=widths, depth=["bodies.1", "bodies.4"])
    assert list(plan.dropped) == ["bodies.1", "bodies.4"]
    costs = CostModel(sites)
    assert budget.met(costs.without(plan.dropped).cost(plan.widths), costs.dense)
    assert "2 of 5 residual branches dropped: bodies.1, bodies.4" in plan.status
    assert plan.kept.keys() == {f"bodies.{n}.up" for n in (0, 2, 3)} | (plan.kept.keys() & {"embed"})


def test_the_predicted_change_counts_the_given_branches() -> None:
    problem, (model, sites) = prepared(), made()
    options = {"widths": "sensitivity", "depth": ["bodies.0"]}
    plan = select("l1", model, batches(), sites, Budget("macs<=100%"), **options)
    assert predicted(plan) == pytest.approx(damage(problem, ["bodies.0"]), rel=1e-2)


def test_several_budgets_share_the_measurements_and_give_the_plans_of_each() -> None:
    model, sites = made()
    budgets = [Budget("macs<=80%"), Budget("macs<=40%")]
    options = {"widths": "sensitivity", "depth": BranchElimination()}
    together = select_each("l1", model, batches(), sites, budgets, **options)
    alone = [select("l1", model, batches(), sites, budget, **options) for budget in budgets]
    assert [plan.identity for plan in together] == [plan.identity for plan in alone]


# -- the whole pipeline ------------------------------------------------------------------------------------------------


def pruned(depth: Any, budget: Any = "macs<=50%", data: Sequence[Any] = (), **options: Any) -> Any:
    model, _ = made()
    example = torch.zeros(2, 4, dtype=torch.float64)
    return prune(model, data or batches(), budget, example_inputs=example, depth=depth, progress=False, **options)


def test_a_pruned_network_has_what_the_report_says() -> None:
    model, _ = made()
    before = hash_tensors(state_of(model))
    result = prune(
        model,
        batches(),
        "macs<=50%",
        example_inputs=torch.zeros(2, 4, dtype=torch.float64),
        depth=["bodies.1", "bodies.3"],
        progress=False,
    )
    assert hash_tensors(state_of(model)) == before
    assert result.report.difference <= 1e-10
    assert result.report.dropped == {"bodies.1": True, "bodies.3": True}
    assert result.report.widths["bodies.1.up"] == (8, 0)
    assert result.report.pruned.macs <= 0.5 * result.report.dense.macs
    assert "depth   2 residual branches dropped\n  bodies.1\n  bodies.3\n" in str(result.report)
    nothing = pruned(DropBranches(["bodies.1"], constants=False)).report
    assert "depth   1 residual branch dropped\n  bodies.1 (without a constant)\n" in str(nothing)


@pytest.mark.parametrize(
    "repair",
    [["refit", "recalibrate"], pytest.param(["reconstruct"], marks=pytest.mark.slow), ["refit", "reconstruct"]],
)
def test_further_repair_keeps_the_branches_dropped(repair: list[Any]) -> None:
    result = pruned(["bodies.1", "bodies.2"], repair=repair)
    assert result.report.difference <= 1e-10
    plain = pruned(["bodies.1", "bodies.2"], repair=[each for each in repair if each == "refit"])
    assert result.plan.kept == plain.plan.kept
    changed = [not torch.equal(result.plan.dropped[name], c) for name, c in plain.plan.dropped.items()]
    assert all(changed) == ("reconstruct" in repair)


def test_one_call_for_several_budgets() -> None:
    model, _ = made()
    example = torch.zeros(2, 4, dtype=torch.float64)
    results = prune_each(
        model, batches(), ["macs<=70%", "macs<=30%"], example_inputs=example, depth="branch_damage", progress=False
    )
    assert len(results[1].plan.dropped) >= len(results[0].plan.dropped)


# -- sparse structure selection ----------------------------------------------------------------------------------------

STRUCTURES = {
    41: [(0, False), (4, True), (6, True), (3, True)],
    32: [(1, False), (4, True), (4, True), (1, True)],
    26: [(0, False), (2, False), (5, False), (1, True)],
}
"""Residual branches of ResNet-50 that remain in each stage, and whether the first one does; Huang and Wang, 2018."""


@pytest.mark.parametrize("depth", [26, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (32, 41))])
def test_sparse_structure_selection_leaves_resnets_of_41_32_and_26_layers(depth: int) -> None:
    models = import_torchvision().models
    model = models.ResNet(models.resnet.Bottleneck, [3, 4, 6, 3], num_classes=10, width_per_group=8).eval()
    x = torch.randn(2, 3, 32, 32)
    sites = discover(model, x)
    assert len(sites.branches) == 16
    gone = []
    for stage, (blocks, (count, first)) in enumerate(zip((3, 4, 6, 3), STRUCTURES[depth], strict=True), 1):
        left = [0, *range(1, count)] if first else range(1, 1 + count)
        gone += [f"layer{stage}.{block}" for block in range(blocks) if block not in left]
    plan = Plan((), dropped=dict.fromkeys(gone))
    small = cut(model, plan, sites)
    layers = [name for name, m in small.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len([name for name in layers if "downsample" not in name]) == depth
    assert len([name for name in layers if "downsample" in name]) == 4
    assert list(discover(small, x).branches) == [b for b in sites.branches if b not in gone]
    assert CostModel(sites).without(plan.dropped).cost({}).params == sum(p.numel() for p in small.parameters())


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "options", "message"),
    [
        (["bodies.7"], {}, "unknown residual branch 'bodies.7'; allowed: bodies.0"),
        (["bodies.0", "bodies.0"], {}, "lies in the other"),
        ("damage", {}, "unknown depth 'damage'.* Did you mean 'branch_damage'"),
        (3, {}, "depth must be one of drop_branches, branch_damage"),
        (BranchDamage(6), {}, "6 branches shall be dropped, and 5 can be"),
        (BranchDamage(), {"widths": "uniform"}, "give a budget with widths 'sensitivity' or 'whole', or a count"),
        (BranchDamage(), {"widths": Widths({}), "budget": None}, "without a count lets a budget"),
        (BranchDamage(measure="task_loss"), {}, "would add the rise of the loss to changes of the output"),
        (None, {"widths": "whole"}, "say which branches go, such as depth='branch_damage'"),
        (BranchScores(2), {"method": "forward"}, "depth 'branch_scores' compare units of different sites by a score"),
        (["bodies.0"], {"widths": Widths({"bodies.0.up": 3}), "budget": None}, "unknown site 'bodies.0.up'"),
    ],
    ids=str,
)
def test_choices_that_do_not_go_together(depth: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        pruned(depth, **{"method": "l1", **options})


def test_budgets_out_of_reach_are_refused_before_data_are_read() -> None:
    def unread() -> Iterable[Any]:
        raise AssertionError("read")
        yield

    model, _ = made()
    example = torch.zeros(2, 4, dtype=torch.float64)
    for depth in (["bodies.0"], "branch_damage"):
        with pytest.raises(UnreachableBudget):
            prune(model, unread(), "macs<=1%", example_inputs=example, depth=depth)
    with pytest.raises(UnreachableBudget, match="cannot be met at full widths"):
        pruned(["bodies.0"], "macs<=50%", widths="whole")


def test_branches_make_budgets_reachable_that_widths_do_not() -> None:
    limits = Limits(min_units=6)
    with pytest.raises(UnreachableBudget):
        pruned(None, "macs<=40%", limits=limits)
    result = pruned("branch_damage", "macs<=40%", limits=limits)
    assert 1 <= len(result.plan.dropped) <= 4


def test_constants_and_measures_need_data_and_labels() -> None:
    model, _ = made()
    example = torch.zeros(2, 4, dtype=torch.float64)
    for depth in (["bodies.0"], BranchDamage(1, constants=False)):
        with pytest.raises(CalibrationError, match="the calibration data are empty"):
            prune(model, (), "macs<=80%", example_inputs=example, method="l1", depth=depth, progress=False)
    with pytest.raises(CalibrationError, match="the task loss needs labels"):
        pruned(BranchDamage(1, measure="task_loss"))


def test_a_network_with_branches_alone_can_be_pruned_in_depth_only() -> None:
    class Simple(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.layer_norm(x + self.first(functional.layer_norm(x, (4,))), (4,))
            x = functional.layer_norm(x + self.second(x), (4,))
            return self.head(x)

    model, x = Simple().double().eval(), torch.zeros(2, 4, dtype=torch.float64)
    sites = discover(model, x)
    assert not sites
    assert list(sites.branches) == ["first", "second"]
    with pytest.raises(UnsupportedModel, match="2 residual branches that can be dropped: give depth"):
        prune(model, batches(), "macs<=70%", example_inputs=x, progress=False)
    result = prune(model, batches(), "macs<=70%", example_inputs=x, depth="branch_damage", progress=False)
    assert len(result.plan.dropped) == 1
    assert "left whole" in str(result.report)


def test_branches_inside_dropped_ones_are_left_out_of_the_order() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = Body(8, 0.5), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x + self.body(x))

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.outer, self.plain, self.head = nn.Linear(4, 6), Outer(), Body(7, 0.5), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            x = x + self.outer(x)
            return self.head(x + self.plain(x))

    model = Nested().double().eval()
    sites = discover(model, torch.zeros(2, 4, dtype=torch.float64))
    assert set(sites.branches) == {"outer.body", "outer", "plain"}
    options: dict[str, Any] = {"widths": Widths({}), "repair": []}
    for rule in (BranchDamage(2), BranchElimination(2)):
        plan = select("l1", model, batches(), sites, None, depth=rule, **options)
        assert plan.dropped.keys() in [{"outer.body", "plain"}, {"outer", "plain"}]
    for pair in permutations(("outer", "outer.body")):
        with pytest.raises(InvalidSetting, match="lies in the other"):
            select("l1", model, batches(), sites, None, depth=pair, **options)


def test_networks_without_a_branch_say_so() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    sites = discover(model, torch.zeros(2, 4, dtype=torch.float64))
    network = Network(model, replace(sites))
    assert not network.sites.branches
    with pytest.raises(InvalidSetting, match="1 branches shall be dropped, and 0 can be"):
        select("l1", model, batches(), sites, None, widths=Widths({}), repair=[], depth=BranchDamage(1))
