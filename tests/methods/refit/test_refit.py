"""The small decisions of the refit: types of what replaces weights, gates, rows held out, the order of the walk."""

import numpy as np
import pytest
import torch
from support.small_networks import Net, chain, conv, image, residual
from torch import nn
from torch.nn import functional

from scionet.choices.repair import Refit
from scionet.methods.refit.refit import Fitting, Sample
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.passes.moments import Moments
from scionet.selection.greedy import Selection, Status


def repeated() -> Net:
    """The consumer of `a` runs twice, that of `b` once."""
    return Net(
        lambda m, x: m.head(functional.relu(m.b(m.mix(functional.relu(m.mix(functional.relu(m.a(x)))))))),
        a=conv(3, 4),
        mix=conv(4, 4),
        b=conv(4, 5),
        head=conv(5, 2),
    )


def fitting(model: nn.Module, refit: Refit | None = None) -> Fitting:
    return Fitting(Network(model.eval(), discover(model, image())), refit, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_replaces_a_tensor_is_of_its_type_and_needs_no_gradient(dtype: torch.dtype) -> None:
    one = fitting(chain())
    one = Fitting(Network(one.network.model.to(dtype), one.sites), Refit(shrinkage=0.1), 10)
    rows = np.random.default_rng(0).normal(size=(60, 36 + 6)).astype(np.float32)
    moments = Moments.of(torch.from_numpy(rows[:, :36]), torch.from_numpy(rows[:, 36:]), None)
    gates = {"a": torch.tensor([0.0, 1, 0, 1], dtype=torch.float64)}
    found, state = one.fitted("b.weight", moments, gates), one.network.state
    assert found.tensors.keys() == {"b.weight", "b.bias"}
    for name, tensor in found.tensors.items():
        assert (tensor.dtype, tensor.shape, tensor.requires_grad) == (dtype, state[name].shape, False)
    assert found.tensors["b.weight"][:, [0, 2]].eq(0).all()
    assert found.shift is not None
    assert torch.equal(found.tensors["b.bias"], state["b.bias"] + found.shift)


def test_a_site_waits_for_its_only_consumer_if_that_runs_once() -> None:
    streams, line, twice = fitting(residual()), fitting(chain()), fitting(repeated())
    assert {name: streams.waits(site) for name, site in streams.sites.items()} == {
        "stem": False,
        "a1": True,
        "a2": True,
    }
    assert all(line.waits(site) for site in line.sites.values())
    assert {name: twice.waits(site) for name, site in twice.sites.items()} == {"a": False, "b": True}


@pytest.mark.parametrize(
    ("site", "refit", "expected"),
    [("b", None, [0, 2, 0, 0.5, 0]), ("b", Refit(), [0, 1, 0, 1, 0]), ("a", Refit(), [0, 2, 0, 0.5])],
)
def test_a_refit_absorbs_multipliers_where_it_takes_place(site: str, refit: Refit | None, expected: list) -> None:
    one = fitting(repeated(), refit)
    selection = Selection((1, 3), (3, 1), (0.0, 1.0), (2.0, 0.5), Status.REPLAYED)
    gate = one.gate(one.sites[site], selection)
    assert gate.dtype == torch.float64
    assert gate.tolist() == expected


@pytest.mark.parametrize("n_rows", [2, 6, 5])
def test_rows_are_held_out_with_their_example(n_rows: int) -> None:
    per_example = -(-n_rows // 2)
    held = Sample(np.arange(2), 0, np.array([True, False])).held_rows(n_rows)
    assert held is not None
    assert held.tolist() == [row < per_example for row in range(n_rows)]
    assert Sample(np.arange(2), 0, None).held_rows(n_rows) is None
