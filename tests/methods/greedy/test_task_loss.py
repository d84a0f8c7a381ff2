"""The task loss against one forward pass per candidate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.gated import with_gates
from support.naive import FloatArray, after
from support.selecting import select, view_of
from support.subjects import SUBJECTS, budget_for
from torch import Tensor, nn

from scionet.choices.methods import Forward, TaskLoss
from scionet.choices.resources import Resources
from scionet.errors import CalibrationError, UnsupportedModel
from scionet.methods.greedy import network_objective, precomputed
from scionet.methods.greedy.network_objective import Scoring
from scionet.methods.greedy.task_loss import TaskLossObjective
from scionet.network.discovery.discover import discover

Pairs = Sequence[tuple[Tensor, Tensor]]
BATCH_SIZE = 9


def naive_loss(model: nn.Module, pairs: Pairs) -> float:
    """Mean cross-entropy over all examples."""
    with torch.no_grad():
        sums = [nn.functional.cross_entropy(model(x), y, reduction="sum").item() for x, y in pairs]
    return sum(sums) / sum(len(y) for _, y in pairs)


def ragged(name: str) -> Pairs:
    """17 examples: a batch of 9 and one of 8."""
    (x, y), (more, labels) = SUBJECTS[name].pairs(2, 12)
    x, y = torch.cat([x[:5], more]), torch.cat([y[:5], labels])
    return list(zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True))


@pytest.mark.parametrize(
    ("name", "site"), [("residual", "stem"), ("branched", "side"), ("flattened", "2"), ("heads", "layers.0.self_attn")]
)
@pytest.mark.parametrize("picked", [[], [1], [3, 0, 3, 3]])
@pytest.mark.parametrize("block", [2, 1000])
def test_gains_are_those_of_one_forward_pass_per_candidate(name, site, picked, block, monkeypatch) -> None:
    monkeypatch.setattr(network_objective, "BLOCK", block)
    monkeypatch.setitem(precomputed.TOGETHER, "cpu", block)
    model, pairs = SUBJECTS[name].network(), ragged(name)
    sites = discover(model, SUBJECTS[name].example())
    width = sites[site].width
    other = next(s for s in sites if s != site)
    half = np.where(np.arange(sites[other].width) % 2, 1.5, 0.0)
    tensors = {next(iter(sites.consumers)): 1.1 * model.state_dict()[next(iter(sites.consumers))]}
    decided = {"gates": {other: torch.from_numpy(half)}, "tensors": tensors}
    objective = TaskLossObjective(view_of(model, sites, site, pairs, labels=True, batch_size=BATCH_SIZE, **decided))

    def naive(counts: FloatArray) -> float:
        gates = width * counts / max(counts.sum(), 1)
        return -naive_loss(with_gates(after(model, tensors), sites, {other: half, site: gates}), pairs)

    state, counts = objective.start(), np.zeros(width)
    for unit in picked:
        state, counts = objective.commit(state, unit), counts + np.eye(width)[unit]
    assert objective.dense_loss == pytest.approx(naive_loss(model, pairs), rel=1e-12)
    assert objective.value(state) == pytest.approx(naive(counts), rel=1e-12)
    np.testing.assert_allclose(objective.weights(state), width * counts / max(counts.sum(), 1))
    candidates = np.array([0, 3, 2, width - 1 if width > 4 else 1])
    expected = np.array([naive(counts + np.eye(width)[unit]) - naive(counts) for unit in candidates])
    found, again = objective.gains(state, candidates), objective.gains(state, candidates)
    np.testing.assert_array_equal(found, again)
    best = expected.argmax()
    assert found.argmax() == best
    assert found[best] == pytest.approx(expected[best], rel=1e-9, abs=1e-12)
    exact = np.isclose(found, expected, rtol=1e-9, atol=1e-12)
    assert ((found > expected) | exact).all()  # what was broken off is an upper bound
    assert exact.all() or block == 2


@pytest.mark.parametrize(
    ("name", "repetition", "fresh", "together", "block"),
    [
        ("mlp", False, False, 6, 2),
        ("mlp", True, False, 4096, 100),
        ("mlp", True, True, 6, 2),
        ("residual", False, False, 6, 2),
        ("residual", False, False, 4096, 100),
        ("branched", True, False, 6, 2),
        ("branched", False, True, 4096, 100),
    ],
)
def test_picks_are_those_of_brute_force_however_candidates_are_stacked(
    name, repetition, fresh, together, block, monkeypatch
) -> None:
    monkeypatch.setitem(precomputed.TOGETHER, "cpu", together)
    monkeypatch.setattr(network_objective, "BLOCK", block)
    subject = SUBJECTS[name]
    model, pairs = subject.network(), ragged(name)
    sites = discover(model, subject.example())
    method = Forward(TaskLoss(repetition=repetition, fresh_batches=fresh))
    resources, budget = Resources(batch_size=BATCH_SIZE), budget_for(sites, 0.2)
    plan = select(method, model, pairs, sites, budget, repair=[], resources=resources, hold_out=False)
    gates: dict[str, FloatArray] = {}
    for choice in plan.choices:
        counts = np.zeros(choice.width)
        for n_picks, (unit, value) in enumerate(zip(choice.order, choice.values, strict=True)):
            left = [i for i in range(choice.width) if repetition or not counts[i]]
            candidates = [counts + np.eye(choice.width)[i] for i in left]
            weights = [gates | {choice.site: choice.width * each / each.sum()} for each in candidates]
            seen = pairs if not fresh else [pairs[n_picks % len(pairs)]]
            losses = [naive_loss(with_gates(model, sites, weight), seen) for weight in weights]
            assert left[int(np.argmin(losses))] == unit
            counts[unit] += 1
            chosen = with_gates(model, sites, gates | {choice.site: choice.width * counts / counts.sum()})
            assert -value == pytest.approx(naive_loss(chosen, pairs), rel=1e-9)
        gates[choice.site] = choice.width * counts / counts.sum()
        np.testing.assert_allclose(choice.weights, gates[choice.site][list(choice.kept)])


def test_candidates_that_cannot_win_are_broken_off(monkeypatch) -> None:
    subject = SUBJECTS["mlp"]
    model = subject.network()
    with torch.no_grad():
        model.get_parameter("4.weight").mul_(20)
        pairs = [(x, model(x).argmax(1)) for x in subject.batches(1, 200)]
    sites = discover(model, subject.example(), ["2"])
    pairs_run = []
    moved = precomputed.Precomputed.moved

    def counted(known, point, n_picks, units, rows) -> Any:
        pairs_run.append(len(rows))
        return moved(known, point, n_picks, units, rows)

    monkeypatch.setattr(precomputed.Precomputed, "moved", counted)
    objective = TaskLossObjective(view_of(model, sites, "0", pairs, labels=True))
    state = objective.start()
    for unit in (3, 7, 11):
        state = objective.commit(state, unit)
    objective.gains(state, np.arange(20))
    assert max(pairs_run) <= precomputed.TOGETHER["cpu"]
    assert 200 < sum(pairs_run) < 0.7 * 20 * 200


def test_tolerance_stops_at_the_first_pick_that_is_good_enough() -> None:
    subject = SUBJECTS["mlp"]
    model = subject.network()
    with torch.no_grad():
        model.get_parameter("4.weight").mul_(20)
        pairs = [(x, model(x).argmax(1)) for x in subject.batches(1, 64)]
    sites = discover(model, subject.example(), ["2"])
    plan = select(Forward(TaskLoss(tolerance=0.2)), model, pairs, sites, None, repair=[], hold_out=False)
    (choice,) = plan.choices
    allowed = naive_loss(model, pairs) + 0.2
    assert 1 < len(choice.kept) < choice.width
    assert -choice.values[-1] <= allowed < min(-value for value in choice.values[:-1])
    assert "stop rule" in choice.status


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((12,), 4), "labels of 4..4"),
        (torch.full((12,), -1), "labels of -1..-1"),
        (torch.zeros(5, dtype=torch.long), "5 labels"),
        (torch.zeros(12), "class indices"),
        (torch.zeros(12, 4, dtype=torch.long), "class indices"),
        (None, "needs labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message) -> None:
    subject = SUBJECTS["mlp"]
    model = subject.network()
    sites = discover(model, subject.example())
    batches = [(subject.batches(1, 12)[0], labels)]
    with pytest.raises(CalibrationError, match=message):
        select(Forward(TaskLoss()), model, batches, sites, budget_for(sites, 0.5))


@pytest.mark.parametrize("repair", [["refit"], []], ids=str)
def test_no_batches_are_refused(repair) -> None:
    subject = SUBJECTS["mlp"]
    model = subject.network()
    sites = discover(model, subject.example())
    with pytest.raises(CalibrationError, match="empty"):
        select(Forward(TaskLoss()), model, [], sites, budget_for(sites, 0.5), repair=repair)


def test_layer_that_gives_nan_is_named() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sqrt()

    model = nn.Sequential(nn.Linear(6, 8), Root(), nn.Linear(8, 4)).double()
    with torch.no_grad():
        model.get_parameter("0.weight").zero_()
        model.get_parameter("0.bias").fill_(1.0)  # fine on the example, not on the data
        model.get_parameter("0.weight")[0, 0] = -100.0
    sites = discover(model, torch.zeros(2, 6))
    pairs = SUBJECTS["mlp"].pairs(1, 12)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    with pytest.raises(CalibrationError, match="'1' gives NaN"):
        select(Forward(TaskLoss()), model, pairs, sites, budget_for(sites, 0.5), repair=[])
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


def test_network_that_cannot_be_stacked_is_refused_with_advice() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            out = self.last(torch.relu(self.first(x)))
            return out if out.sum() > -1e9 else -out

    model = Branching().double()
    sites = discover(model, torch.zeros(2, 6))
    with pytest.raises(UnsupportedModel, match="least_squares"):
        select(Forward(TaskLoss()), model, SUBJECTS["mlp"].pairs(1, 12), sites, budget_for(sites, 0.5))


@pytest.mark.parametrize(("name", "site"), [("residual", "stem"), ("branched", "side")])
def test_taylor_gains_are_the_slope_of_the_loss_along_each_pick(name, site) -> None:
    model, pairs = SUBJECTS[name].network(), ragged(name)
    sites = discover(model, SUBJECTS[name].example())
    width = sites[site].width
    view = view_of(model, sites, site, pairs, labels=True, batch_size=BATCH_SIZE)
    exact, taylor = TaskLossObjective(view), TaskLossObjective(view, Scoring(taylor=True))
    everyone = np.arange(width)
    np.testing.assert_array_equal(exact.gains(exact.start(), everyone), taylor.gains(taylor.start(), everyone))
    state, counts = taylor.start(), np.zeros(width)
    for unit in (3, 0, 3):
        state, counts = taylor.commit(state, unit), counts + np.eye(width)[unit]
    assert taylor.value(state) == pytest.approx(exact.value(exact.commit(exact.start(), 3)), abs=10)
    step, gates = 1e-6, width * counts / 3
    for unit, gain in zip(everyone, taylor.gains(state, everyone), strict=True):
        direction = (width * np.eye(width)[unit] - gates) / 4
        losses = [
            naive_loss(with_gates(model, sites, {site: gates + sign * step * direction}), pairs) for sign in (1, -1)
        ]
        assert gain == pytest.approx((losses[1] - losses[0]) / (2 * step), rel=1e-4, abs=1e-7)
