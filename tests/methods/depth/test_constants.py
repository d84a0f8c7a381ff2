"""Constants in the place of branches: means of the dense branch, and what a refit adds; and refits behind them."""

from typing import Any

import numpy as np
import pytest
import torch
from support.naive import input_of, refit, rows, seen_at
from support.selecting import ALL_PIXELS, calibration_for, select
from support.subjects import SUBJECTS
from torch import Tensor, nn

from scionet.choices.depth import DropBranches
from scionet.choices.methods import Forward
from scionet.choices.repair import Refit
from scionet.choices.widths import Widths
from scionet.errors import CalibrationError
from scionet.methods.depth.constants import branch_means
from scionet.network.calling import replaced
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.plan import Plan
from scionet.network.sites import Sites

SUBJECT = SUBJECTS["residual"]
SOME = Widths({"block1.conv1": 5, "stem": 6})
WITH_DATA: dict[str, Any] = {"resources": ALL_PIXELS, "hold_out": False}


def output_of(model: nn.Module, module: str, batches: list[Tensor]) -> np.ndarray:
    """Rows (positions, channels) of what a module returns."""
    found: list[np.ndarray] = []
    hook = model.get_submodule(module).register_forward_hook(lambda _m, _a, out: found.append(rows(out)))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    hook.remove()
    return np.concatenate(found)


def planned(depth: Any, widths: Any = SOME, **choices: Any) -> tuple[nn.Module, Sites, Plan]:
    model = SUBJECT.network()
    with torch.no_grad():
        model.get_parameter("block1.bn2.bias").sub_(3)  # so that the ReLU behind the first sum has an effect
    sites = discover(model, SUBJECT.example())
    options = {"widths": widths, "depth": depth, **WITH_DATA, **choices}
    return model, sites, select("forward", model, SUBJECT.batches(), sites, None, **options)


def constant_of(plan: Plan, name: str) -> np.ndarray:
    constant = plan.dropped[name]
    assert constant is not None
    return constant.numpy()


@pytest.mark.parametrize("size", [1, 5, 48])
def test_the_constant_is_the_mean_of_the_dense_branch_whatever_the_batches(size: int) -> None:
    model = SUBJECT.network()
    network = Network(model, discover(model, SUBJECT.example()))
    calibration = calibration_for(network, SUBJECT.batches(), batch_size=size)
    means = branch_means(network, calibration, network.sites.branches.values())
    for name in ("block1", "block2"):
        expected = output_of(model, f"{name}.bn2", SUBJECT.batches()).mean(0)
        np.testing.assert_allclose(means[name].numpy(), expected, rtol=1e-12)
    assert not any(module._forward_hooks for module in model.modules())


def test_tokens_are_averaged_over_positions() -> None:
    subject = SUBJECTS["tokens"]
    model = subject.network()
    network = Network(model, discover(model, subject.example()))
    means = branch_means(network, calibration_for(network, subject.batches()), network.sites.branches.values())
    expected = output_of(model, "down2", subject.batches()).mean(0)
    np.testing.assert_allclose(means["down2"].numpy(), expected, rtol=1e-12)


def test_without_data_there_is_no_mean() -> None:
    model = SUBJECT.network()
    network = Network(model, discover(model, SUBJECT.example()))
    with pytest.raises(CalibrationError, match="a branch's constant is its mean on them"):
        branch_means(network, calibration_for(network, []), network.sites.branches.values())


@pytest.mark.parametrize("refit_step", [Refit(), Refit(shortcuts=False), Refit(asymmetric=False), None])
def test_a_refitted_constant_makes_up_for_the_mean_gap_of_the_shortcut(refit_step: Refit | None) -> None:
    model, sites, plan = planned(["block1", "block2"], widths=Widths({}), repair=[refit_step] if refit_step else [])
    batches = SUBJECT.batches()
    expected = output_of(model, "block2.bn2", batches).mean(0)
    if refit_step == Refit():
        with replaced(model, Network(model, sites).masked_by(plan)):
            pruned = input_of(model, "block2", batches)
        gap = input_of(model, "block2", batches).mean(0) - pruned.mean(0)
        assert np.abs(gap).max() > 1e-3
        expected = expected + gap
    np.testing.assert_allclose(constant_of(plan, "block2"), expected, rtol=1e-9)


def test_nothing_stays_nothing() -> None:

    _, _, plan = planned(DropBranches(["block2"], constants=False))
    assert dict(plan.dropped) == {"block2": None}


def test_consumers_behind_a_dropped_branch_are_refitted_to_what_they_see() -> None:
    model, sites, plan = planned(["block1"], widths=Widths({"block2.conv1": 7}))
    batches = SUBJECT.batches()
    with replaced(model, Network(model, sites).masked_by(plan)):
        seen = seen_at(model, "block2.conv1", batches).inputs
        after = seen_at(model, "head", batches).inputs
    whole = range(10)
    for layer, inputs, norm in (("block2.conv1", seen, "block2.bn1"), ("head", after, None)):
        dense = seen_at(model, layer, batches)
        weight, intercept = refit(inputs, dense.outputs, whole, model.get_parameter(f"{layer}.weight"))
        np.testing.assert_allclose(plan.tensors[f"{layer}.weight"].numpy(), weight, rtol=1e-6, atol=1e-9)
        name, sign = (f"{norm}.running_mean", -1) if norm else (f"{layer}.bias", 1)
        np.testing.assert_allclose(
            plan.tensors[name].numpy(), model.state_dict()[name].numpy() + sign * intercept, rtol=1e-6
        )


def test_consumers_inside_a_dropped_branch_and_before_it_keep_their_weights() -> None:
    _, sites, plan = planned(["block2"], widths=Widths({}))
    inside = set(sites.branches["block2"].tensors)
    assert not inside & plan.tensors.keys()
    assert not {"block1.conv1.weight", "block1.conv2.weight"} & plan.tensors.keys()
    assert "head.weight" in plan.tensors
    assert "block2.conv1" not in plan.kept


def test_further_passes_go_through_the_dropped_network() -> None:

    model, sites, plan = planned(["block2"])
    again = select(Forward(passes=2), model, SUBJECT.batches(), sites, None, widths=SOME, depth=["block2"], **WITH_DATA)
    assert again.dropped.keys() == {"block2"}
    assert again.widths == plan.widths


def test_the_same_examples_in_other_batches_give_the_same_plan() -> None:
    model = SUBJECT.network()
    sites = discover(model, SUBJECT.example())
    x = torch.cat(SUBJECT.batches())
    plans = [
        select("forward", model, [*x.split(size)], sites, None, widths=SOME, depth=["block2"], hold_out=False)
        for size in (7, 48)
    ]
    assert plans[0].kept == plans[1].kept
    np.testing.assert_allclose(constant_of(plans[0], "block2"), constant_of(plans[1], "block2"), rtol=1e-9)
