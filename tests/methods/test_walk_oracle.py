"""The walk against a naive one: no suspended passes, no moments, everything from explicit features."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support import selecting
from support.naive import FloatArray, after, gated, input_of, refit, regression, rows, scale_of, seen_at
from support.selecting import ALL_PIXELS
from support.subjects import SUBJECTS, Subject, budget_for, settled
from torch import Tensor, nn

from scionet.budget.budget import Budget
from scionet.choices.methods import Forward, LeastSquares
from scionet.choices.repair import Refit
from scionet.methods.registry import GivenMethod
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.plan import Plan
from scionet.network.sites import Sites


def chain() -> nn.Module:
    """Three sites in a row: into a BatchNorm, into a convolution with a bias, into a linear map behind a flattening."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 9, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(9), nn.ReLU(),
        nn.Conv2d(9, 10, 2, dilation=2), nn.Softplus(), nn.Flatten(), nn.Linear(10, 4),
    )  # fmt: skip


CHAIN = Subject(chain, (2, 6, 6))
CONSUMERS = {"0": ("3", "4"), "3": ("6", None), "6": ("9", None)}
"""Site of the chain: its consumer, and the BatchNorm behind that."""


def planned(
    subject: Subject,
    model: nn.Module,
    method: GivenMethod = "forward",
    density: float = 0.6,
    ignored: Sequence[str] = (),
    **choices: Any,
) -> tuple[Plan, Sites]:
    """A plan at one density for all sites, on all pixels; refitted unless `repair` says otherwise."""
    sites = discover(model, subject.example(), ignored)
    chosen = {"widths": "uniform", "resources": ALL_PIXELS, "hold_out": False} | choices
    return selecting.select(method, model, subject.batches(), sites, budget_for(sites, density), **chosen), sites


def close(found: Tensor, expected: FloatArray) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("method", ["forward", "random", "l1"])
@pytest.mark.parametrize("asymmetric", [True, False])
def test_refit_is_the_regression_of_dense_targets_on_inputs_of_the_network_cut_so_far(method, asymmetric) -> None:
    model = CHAIN.network()
    plan, _ = planned(CHAIN, model, method, repair=[Refit(asymmetric=asymmetric)])
    batches, growing = CHAIN.batches(), model
    for site, (layer, norm) in CONSUMERS.items():
        dense = seen_at(model, layer, batches)
        seen = seen_at(growing if asymmetric else model, layer, batches)
        weight, intercept = refit(seen.inputs, dense.outputs, plan.kept[site], model.get_parameter(f"{layer}.weight"))
        close(plan.tensors[f"{layer}.weight"], weight)
        name, sign = (f"{norm}.running_mean", -1) if norm else (f"{layer}.bias", 1)
        close(plan.tensors[name], model.state_dict()[name].numpy() + sign * intercept)
        growing = after(growing, {key: plan.tensors[key] for key in (f"{layer}.weight", name)})


def test_refit_without_a_place_for_an_intercept_is_uncentred() -> None:
    subject = Subject(lambda: nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3, bias=False)), (5,))
    model = subject.network()
    plan, _ = planned(subject, model)
    seen = seen_at(model, "2", subject.batches())
    expected, _ = refit(seen.inputs, seen.outputs, plan.kept["0"], model.get_parameter("2.weight"), centred=False)
    close(plan.tensors["2.weight"], expected)
    assert plan.tensors.keys() == {"2.weight"}


def test_consumers_before_the_first_cut_keep_their_weights() -> None:
    subject = SUBJECTS["residual"]
    model = subject.network()
    plan, sites = planned(subject, model, ignored=["stem", "block1"])
    assert plan.tensors.keys() == {"block2.conv2.weight", "block2.bn2.running_mean"}
    whole = selecting.select("forward", model, subject.batches(), sites, Budget("macs<=100%"))
    assert not whole.tensors
    assert whole.widths == {"block2.conv1": 12}


def walked(model: nn.Module, plan: Plan, layers: Sequence[str]) -> nn.Module:
    """The masked network with the refits of the given layers alone."""
    owned = {name: t for name, t in plan.tensors.items() if name.rpartition(".")[0] in layers}
    return after(model, owned)


@pytest.mark.parametrize("shortcuts", [True, False])
def test_target_takes_over_the_damage_of_the_shortcut(shortcuts) -> None:
    subject = SUBJECTS["residual"]
    model = subject.network()
    with torch.no_grad():
        model.get_parameter("block2.bn2.weight")[1] *= -1
    plan, _ = planned(subject, model, repair=[Refit(shortcuts=shortcuts)])
    growing = walked(model, plan, [f"{b}.{m}" for b in ("block1", "block2") for m in ("conv1", "bn1", "conv2", "bn2")])
    batches = subject.batches()
    target = seen_at(model, "block2.conv2", batches).outputs
    gap = input_of(model, "block2", batches) - input_of(growing, "block2", batches)
    if shortcuts:
        target = target + gap / scale_of(model.get_submodule("block2.bn2"))
    assert np.abs(gap).max() > 1e-3
    seen = seen_at(growing, "block2.conv2", batches)
    dense = model.get_parameter("block2.conv2.weight")
    weight, intercept = refit(seen.inputs, target, plan.kept["block2.conv1"], dense)
    close(plan.tensors["block2.conv2.weight"], weight)
    mean = model.get_submodule("block2.bn2").running_mean
    close(plan.tensors["block2.bn2.running_mean"], mean.numpy() - intercept)  # type: ignore[union-attr]


def test_target_takes_over_the_damage_of_a_shortcut_of_tokens() -> None:
    subject = SUBJECTS["tokens"]
    model = subject.network()
    plan, sites = planned(subject, model)
    assert sites.consumers["down2.weight"].shortcut is not None
    growing = walked(model, plan, ["down1"])
    batches = subject.batches()
    target = seen_at(model, "down2", batches).outputs
    gap = stream_before_second_block(model, batches) - stream_before_second_block(growing, batches)
    assert np.abs(gap).max() > 1e-3
    seen = seen_at(growing, "down2", batches)
    weight, intercept = refit(seen.inputs, target + gap, plan.kept["up2"], model.get_parameter("down2.weight"))
    close(plan.tensors["down2.weight"], weight)
    close(plan.tensors["down2.bias"], model.get_parameter("down2.bias").detach().numpy() + intercept)


def stream_before_second_block(model: nn.Module, batches: Sequence[Tensor]) -> FloatArray:
    def stream(batch: Tensor) -> Tensor:
        x = model.get_submodule("embed")(batch)
        hidden = nn.functional.gelu(model.get_submodule("up1")(nn.functional.layer_norm(x, (6,))))
        return x + model.get_submodule("down1")(hidden)

    return np.concatenate([stream(batch).detach().reshape(-1, 6).numpy() for batch in batches])


# -- which units are taken -------------------------------------------------------------------------------------------


def picks(size: int, n_units: int, error: Callable[[list[int]], float]) -> list[int]:
    """Greedy without repetition by the definition."""
    order: list[int] = []
    while len(order) < n_units:
        left = [unit for unit in range(size) if unit not in order]
        order.append(min(left, key=lambda unit: error([*order, unit])))
    return order


def contributions(seen: FloatArray, weight: Tensor, scale: FloatArray | float) -> FloatArray:
    """What each input channel gives: (channels, positions, outputs)."""
    taps = weight.detach().flatten(2).numpy() if weight.ndim > 2 else weight.detach().numpy()[..., None]
    return np.einsum("pct,oct->cpo", seen, taps) * scale


def line_search_picks(phi: FloatArray, goal: FloatArray, n_units: int) -> tuple[list[int], FloatArray]:
    """Line search by the definition: the best clipped step for every candidate, from explicit vectors."""
    size = len(phi)
    phi, alpha, order = size * phi.reshape(size, -1), np.zeros(size), []
    while np.count_nonzero(alpha) < n_units:
        moves = []
        for unit in range(size):
            own, step = np.eye(size)[unit], 1.0
            if alpha.any() and alpha[unit] < 1:
                towards = (own - alpha) @ phi
                best = towards @ (goal - alpha @ phi) / (towards @ towards)
                step = np.clip(best, -alpha[unit] / (1 - alpha[unit]), 1.0)
            moves.append((1 - step) * alpha + step * own)
        errors = [((move @ phi - goal) ** 2).sum() for move in moves]
        order.append(int(np.argmin(errors)))
        alpha = np.where(moves[order[-1]] < 1e-14, 0, moves[order[-1]])
    return order, size * alpha


def sites_on_the_way(plan: Plan, model: nn.Module, refitted: bool) -> Iterator[tuple[Any, ...]]:
    """For each site of the chain: what its consumer sees in the network cut so far, and the dense target."""
    growing, batches = model, CHAIN.batches()
    for choice in plan.choices:
        layer, norm = CONSUMERS[choice.site]
        scale = scale_of(None if norm is None else model.get_submodule(norm))
        yield choice, seen_at(growing, layer, batches).inputs, seen_at(model, layer, batches).outputs, layer, scale
        if refitted:
            names = [name for name in plan.tensors if name.startswith((f"{layer}.", f"{norm}."))]
            growing = after(growing, {name: plan.tensors[name] for name in names})
        else:
            gates = np.zeros(choice.width)
            gates[list(choice.kept)] = choice.weights
            name = f"{layer}.weight"
            growing = after(growing, {name: gated(model.state_dict()[name], gates)})


@pytest.mark.parametrize(("refitted", "shrinkage"), [(True, None), (True, 0.0), (True, 0.3), (False, None)])
def test_least_squares_picks_are_those_of_brute_force_at_every_site(refitted, shrinkage) -> None:
    """Without a refit there is no intercept to make up for the means, and nothing to hold back."""
    model = CHAIN.network()
    plan, _ = planned(CHAIN, model, repair=[Refit(shrinkage=shrinkage)] if refitted else [])
    for choice, seen, target, layer, scale in sites_on_the_way(plan, model, refitted):
        inputs = seen[0].size
        share = (inputs / (inputs + len(seen)) if shrinkage is None else shrinkage) if refitted else 0.0
        dense = model.get_parameter(f"{layer}.weight")
        problem = regression(seen, target, dense, centred=refitted, share=share, scale=scale)
        assert list(choice.order) == picks(choice.width, len(choice.kept), problem.error)
        expected = [-problem.error(choice.order[: n + 1]) for n in range(len(choice.order))]
        np.testing.assert_allclose(choice.values, expected, rtol=1e-6, atol=1e-9)


def test_average_picks_are_those_of_brute_force_at_every_site() -> None:
    model = CHAIN.network()
    plan, _ = planned(CHAIN, model, Forward("average"), repair=[])
    for choice, seen, target, layer, scale in sites_on_the_way(plan, model, refitted=False):
        phi = contributions(seen, model.get_parameter(f"{layer}.weight"), scale)
        goal, size = target * scale, choice.width

        def error(units: list[int], phi: FloatArray = phi, goal: FloatArray = goal, size: int = size) -> float:
            return float(((goal - size / len(units) * phi[units].sum(0)) ** 2).sum())

        assert list(choice.order) == picks(size, len(choice.kept), error)
        np.testing.assert_allclose(choice.weights, size / len(choice.kept))


def test_line_search_picks_are_those_of_brute_force_at_every_site() -> None:
    model = CHAIN.network()
    plan, _ = planned(CHAIN, model, Forward("line_search"), repair=[])
    for choice, seen, target, layer, scale in sites_on_the_way(plan, model, refitted=False):
        phi = contributions(seen, model.get_parameter(f"{layer}.weight"), scale)
        order, weights = line_search_picks(phi, (target * scale).ravel(), len(choice.kept))
        assert list(choice.order) == order
        np.testing.assert_allclose(choice.weights, weights[list(choice.kept)], rtol=1e-6)


def test_stream_is_chosen_for_all_its_consumers_in_the_dense_network() -> None:
    subject = SUBJECTS["residual"]
    model = subject.network()
    plan, sites = planned(subject, model, Forward("average"), repair=[])
    consumers = {"block1.conv1": "block1.bn1", "block2.conv1": "block2.bn1", "head": None}
    assert sites["stem"].consumers == tuple(f"{name}.weight" for name in consumers)
    shares = []
    for layer, norm in consumers.items():
        scale = scale_of(None if norm is None else model.get_submodule(norm))
        seen = seen_at(model, layer, subject.batches())
        goal = seen.outputs * scale
        root = np.sqrt((goal**2).sum())
        shares.append((contributions(seen.inputs, model.get_parameter(f"{layer}.weight"), scale) / root, goal / root))
    choice = next(choice for choice in plan.choices if choice.site == "stem")

    def error(units: list[int]) -> float:
        return sum(float(((goal - 10 / len(units) * phi[units].sum(0)) ** 2).sum()) for phi, goal in shares)

    assert list(choice.order) == picks(10, len(choice.kept), error)


def test_units_of_a_concatenation_are_chosen_beside_the_weights_of_those_before() -> None:
    """The second site of a concatenation must see the first one as it was re-weighted."""
    subject = SUBJECTS["branched"]
    model = subject.network()
    plan, _ = planned(subject, model, Forward("average"), ignored=["stem", "squeeze", "join"], repair=[])
    first, second = (next(c for c in plan.choices if c.site == site) for site in ("expand", "side"))
    assert len(first.kept) < 14
    assert len(second.kept) < 9
    gates = np.zeros(14)
    gates[list(first.kept)] = first.weights
    growing = after(model, {"squeeze.weight": gated(model.state_dict()["squeeze.weight"], gates)})
    seen = seen_at(growing, "join", subject.batches()).inputs
    phi = contributions(seen, model.get_parameter("join.weight"), scale_of(model.get_submodule("join_norm")))
    target = seen_at(model, "join", subject.batches()).outputs * scale_of(model.get_submodule("join_norm"))
    rest = target - np.tensordot(gates, phi[:14], axes=1)

    def error(units: list[int]) -> float:
        return float(((rest - 9 / len(units) * phi[14:][units].sum(0)) ** 2).sum())

    assert list(second.order) == picks(9, len(second.kept), error)


# -- what is known of the other sites --------------------------------------------------------------------------------


def staying(size: int, kept: Sequence[int]) -> FloatArray:
    """1 at the outputs that stay."""
    found = np.zeros(size)
    found[list(kept)] = 1
    return found


def test_what_a_consumer_gives_to_units_of_a_stream_that_were_cut_does_not_count() -> None:
    subject = SUBJECTS["residual"]
    model = subject.network()
    plan, _ = planned(subject, model, density=0.4, repair=[Refit(shortcuts=False)])
    growing = walked(model, plan, ["block1.conv1", "block1.bn1"])
    dense, batches = model.get_parameter("block1.conv2.weight"), subject.batches()
    seen = seen_at(growing, "block1.conv2", batches).inputs
    target = seen_at(model, "block1.conv2", batches).outputs
    share, scale = seen[0].size / (seen[0].size + len(seen)), scale_of(model.get_submodule("block1.bn2"))
    choice = next(choice for choice in plan.choices if choice.site == "block1.conv1")
    orders = []
    for counted in (staying(10, plan.kept["stem"]), np.ones(10)):
        problem = regression(seen, target, dense, centred=True, share=share, scale=scale * counted)
        orders.append(picks(12, len(choice.kept), problem.error))
    assert list(choice.order) == orders[0] != orders[1]


def test_a_second_pass_counts_only_what_stayed_in_the_first() -> None:
    model = CHAIN.network()
    first, second = (planned(CHAIN, model, Forward(passes=passes), 0.3)[0] for passes in (1, 2))
    assert first.kept != second.kept
    assert first.widths == second.widths
    for choice, seen, target, layer, scale in sites_on_the_way(second, model, refitted=True):
        counted = staying(target.shape[1], first.kept[layer]) if layer in first.kept else np.ones(target.shape[1])
        share, dense = seen[0].size / (seen[0].size + len(seen)), model.get_parameter(f"{layer}.weight")
        problem = regression(seen, target, dense, centred=True, share=share, scale=scale * counted)
        assert list(choice.order) == picks(choice.width, len(choice.kept), problem.error)


def test_a_second_pass_decides_streams_in_the_network_that_the_first_one_made() -> None:
    subject = SUBJECTS["residual"]
    model = subject.network()
    (first, sites), (second, _) = (planned(subject, model, Forward(passes=passes), 0.4) for passes in (1, 2))
    pruned = after(model, Network(model, sites).masked_by(first))
    problems = []
    for layer, norm in {"block1.conv1": "block1.bn1", "block2.conv1": "block2.bn1", "head": None}.items():
        seen = seen_at(pruned, layer, subject.batches()).inputs
        target = seen_at(model, layer, subject.batches()).outputs
        counted = staying(target.shape[1], first.kept[layer]) if layer in first.kept else np.ones(target.shape[1])
        scale = counted * scale_of(None if norm is None else model.get_submodule(norm))
        share = seen[0].size / (seen[0].size + len(seen))
        dense = model.get_parameter(f"{layer}.weight")
        problems.append(regression(seen, target, dense, centred=True, share=share, scale=scale))
    choice = next(choice for choice in second.choices if choice.site == "stem")
    expected = picks(10, len(choice.kept), lambda units: sum(problem.error(units) for problem in problems))
    assert list(choice.order) == expected != list(first.choices[0].order)


# -- how far a refit is held back ------------------------------------------------------------------------------------


def test_a_plan_with_held_out_shrinkage_is_that_of_the_number_it_settles_on(monkeypatch) -> None:
    """Units of L1 norms do not depend on it, so that with one value to try the plan is that of the number."""
    model = CHAIN.network()
    for value in (0.0, 0.1):
        monkeypatch.setattr("scionet.methods.refit.shrinkage.TRIED", (value,))
        judged, _ = planned(CHAIN, model, "l1", repair=[Refit(shrinkage="held_out")])
        given, _ = planned(CHAIN, model, "l1", repair=[Refit(shrinkage=value)])
        assert judged.kept == given.kept
        for name, tensor in given.tensors.items():
            assert torch.equal(tensor, judged.tensors[name])


# -- what else a walk owes ------------------------------------------------------------------------------------------


def test_errors_are_measured_behind_the_batch_norm() -> None:
    """Unit 0 is loud at an output that BatchNorm turns down, unit 1 quiet at one that it turns up."""
    subject = Subject(
        lambda: nn.Sequential(
            nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(),
            nn.Linear(8, 2),
        ),
        (2, 2, 2),
    )  # fmt: skip
    picked = []
    for gamma in ([1.0, 1.0], [0.1, 10.0]):
        model = subject.network()
        with torch.no_grad():
            model.get_parameter("0.weight").copy_(torch.eye(2)[..., None, None])
            model.get_parameter("1.weight").copy_(torch.diag(torch.tensor([3.0, 1.0]))[..., None, None])
            model.get_parameter("2.weight").copy_(torch.tensor(gamma))
            model.get_buffer("2.running_var").fill_(1.0)
        plan, _ = planned(subject, model, ignored=["1"], density=0.5)
        picked.append(plan.kept["0"])
    assert picked == [(0,), (1,)]


@pytest.mark.parametrize("name", ["random", "l1", "bn_scale"])
def test_refit_lowers_the_error_at_the_consumer(name) -> None:
    subject = Subject(
        lambda: nn.Sequential(nn.Conv2d(2, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 5, 2)), (2, 5, 5)
    )
    model = subject.network()
    errors = {}
    for refitted in (False, True):
        plan, _ = planned(subject, model, name, 0.4, repair=["refit"] if refitted else [])
        gates = np.zeros(12)
        gates[list(plan.kept["0"])] = 1
        masked = {"3.weight": gated(model.state_dict()["3.weight"], gates), **plan.tensors}
        changed = after(model, masked)
        found, dense = (np.concatenate([rows(net(x)) for x in subject.batches()]) for net in (changed, model))
        errors[refitted] = ((found - dense) ** 2).mean() / dense.var()
    assert errors[True] < 0.5 * errors[False]


class Twice(nn.Module):
    """The second layer runs twice in each pass: it cannot be refitted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(5, 12), nn.Linear(12, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = self.shared(torch.relu(self.first(x))) + self.shared(torch.relu(self.first(-x)))
        return self.last(torch.relu(both))


def test_layers_that_run_twice_keep_the_weights_of_the_selection() -> None:
    subject = Subject(Twice, (5,))
    model = subject.network()
    plan, _ = planned(subject, model, Forward("average"))
    weights = {choice.site: set(choice.weights) for choice in plan.choices}
    assert weights == {"first": {12 / plan.widths["first"]}, "shared": {1.0}}
    assert plan.widths["first"] < 12
    assert plan.tensors.keys() == {"last.weight", "last.bias"}


class SharedNorm(nn.Module):
    """Two layers whose outputs go through one BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 6, 3, bias=False), nn.Conv2d(8, 6, 3, bias=False)
        self.norm, self.last = nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.softplus(self.first(x))
        both = torch.relu(self.norm(self.left(x))) + torch.relu(self.norm(self.right(x)))
        return self.last(both.mean((2, 3)))


def test_batch_norm_of_two_consumers_takes_no_intercept() -> None:
    subject = Subject(SharedNorm, (2, 5, 5))
    model = subject.network()
    plan, _ = planned(subject, model, ignored=["left", "right"])
    assert plan.tensors.keys() == {"left.weight", "right.weight"}
    for layer in ("left", "right"):
        seen = seen_at(model, layer, subject.batches())
        dense = model.get_parameter(f"{layer}.weight")
        close(plan.tensors[f"{layer}.weight"], refit(seen.inputs, seen.outputs, plan.kept["first"], dense, False)[0])


class Mixed(nn.Module):
    """A site that is read by a layer that runs twice and by one that runs once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.once = nn.Linear(5, 12), nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        return self.twice(hidden) + self.twice(2 * hidden) + self.once(hidden)


def test_refit_beside_a_layer_that_keeps_the_weights_of_the_selection() -> None:
    subject = Subject(Mixed, (5,))
    model = subject.network()
    plan, _ = planned(subject, model, Forward("average"), repair=[Refit(shortcuts=False)])
    (choice,) = plan.choices
    gate = 12 / len(choice.kept)
    assert set(choice.weights) == {gate}
    assert gate > 1
    assert plan.tensors.keys() == {"once.weight", "once.bias"}
    seen = seen_at(model, "once", subject.batches())
    weight, _ = refit(seen.inputs, seen.outputs, choice.kept, model.get_parameter("once.weight"))
    close(gate * plan.tensors["once.weight"], weight)


def test_refit_uses_units_that_line_search_dropped() -> None:
    """A site whose units give nothing: line search keeps one of them, a refit all that were asked for."""
    subject = Subject(chain, (2, 6, 6))
    model = subject.network()
    with torch.no_grad():
        model.get_parameter("1.weight").zero_()
        model.get_parameter("1.bias").fill_(-1.0)
    plan, _ = planned(subject, model, Forward("line_search"))
    assert plan.widths["0"] > 1
    plan, _ = planned(subject, model, Forward("line_search"), repair=[])
    assert plan.widths["0"] == 1


def test_batch_norm_of_no_use_hides_its_share_of_the_shortcut() -> None:
    """Behind a BatchNorm scale of 0 nothing can be made up for: the target stays finite."""
    subject = SUBJECTS["residual"]
    model = subject.network()
    settled_to_zero = model.get_submodule("block2.bn2")
    assert isinstance(settled_to_zero, nn.BatchNorm2d)
    settled(settled_to_zero)
    settled_to_zero.weight.data.zero_()
    plan, _ = planned(subject, model)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in plan.tensors.values())


def test_certified_shares_are_stated_and_true() -> None:
    model = CHAIN.network()
    plan, _ = planned(CHAIN, model, Forward(LeastSquares(certify=True)))
    assert "certified share of the best possible reduction of the error: median" in plan.status
    share = float(plan.status.rpartition("least ")[2].partition("%")[0])
    assert 50 < share <= 100


def test_one_partition_is_plain_and_several_are_seeded_and_little_worse() -> None:
    model = CHAIN.network()
    plain, _ = planned(CHAIN, model)
    one, _ = planned(CHAIN, model, Forward(LeastSquares(partitions=1)))
    assert one.kept == plain.kept
    three, again = (
        planned(CHAIN, model, Forward(LeastSquares(partitions=3)), resources=replace(ALL_PIXELS, backend=backend))[0]
        for backend in ("sequential", "threading")
    )
    assert three.kept == again.kept
    assert three.choices[0].values[-1] >= 1.5 * plain.choices[0].values[-1]  # errors, negative
