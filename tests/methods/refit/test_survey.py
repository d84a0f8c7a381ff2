"""A survey measures, at every consumer, what hooks see of all examples in all calls."""

import weakref
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.small_networks import Net
from torch import Tensor, nn
from torch.nn import functional

from scionet.choices.repair import Refit
from scionet.choices.resources import Resources
from scionet.choices.settings import Settings
from scionet.methods.method_run import MethodRun
from scionet.methods.refit.survey import Pruned, survey, surveying
from scionet.methods.registry import SCORES
from scionet.network.passes.moments import Moments
from scionet.selection.greedy import Selection, Status


def prepared(model: nn.Module, score: str = "energy", data: Sequence[Any] = (), **choices: Any) -> MethodRun:
    """The survey of a model on three batches."""
    settings = Settings(resources=Resources(batch_size=4), **choices)
    run = surveying(model, data or batches(), batches()[0], SCORES[score], settings, 0)
    assert len(run.calibration.batches) == 3
    return run


def network() -> nn.Module:
    """`first` feeds `mix`, which is called twice one after the other, and `side`, which feeds two calls of `head`."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = functional.relu(m.first(x))
        x = functional.relu(m.mix(functional.relu(m.mix(x))))
        x = m.side(x)
        return m.head(functional.relu(x)) - m.head(functional.relu(-x))

    torch.manual_seed(3)
    layers = {"first": (5, 6), "mix": (6, 6), "side": (6, 4), "head": (4, 2)}
    return Net(forward, **{name: nn.Linear(*sizes) for name, sizes in layers.items()}).double().eval()


def batches() -> list[Tensor]:
    """Three batches of four."""
    return list(torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).split(4))


def seen_by_hooks(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """Inputs of every layer, by the name of its weight: one tensor for each call with each batch."""
    seen: dict[str, list[Tensor]] = defaultdict(list)
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen[f"{name}.weight"].append(args[0]))
        for name, layer in model.named_children()
    ]
    with torch.no_grad():
        for batch in inputs:
            model(batch)
    for hook in hooks:
        hook.remove()
    return seen


def assert_moments_of(found: Moments, rows: Tensor, weight: Tensor) -> None:
    x, y = rows.numpy(), (rows @ weight.T).numpy()
    dx, dy = x - x.mean(0), y - y.mean(0)
    assert found.count == len(x)
    expected = {"x": x.mean(0), "y": y.mean(0), "xx": dx.T @ dx, "xy": dx.T @ dy, "yy": (dy**2).sum(0)}
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name).numpy(), value, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("pruned", [None, Pruned({}, lambda present: [stop.output for stop in present])])
@pytest.mark.parametrize("names", [["first", "side"], ["first"], ["side"]])
def test_all_calls_with_all_batches_count_once(names: list[str], pruned: Pruned | None) -> None:
    model = network()
    run = prepared(model, repair=())
    rows = {name: torch.cat(parts) for name, parts in seen_by_hooks(model, batches()).items()}
    assert {name: site.consumers for name, site in run.sites.items()} == {
        "first": ("mix.weight", "side.weight"),
        "side": ("head.weight",),
    }
    asked = []
    for view, moments in survey(run, run.calibration, names, pruned):
        asked.append(view.site.name)
        assert moments.keys() == set(view.site.consumers)
        for name, found in moments.items():
            assert_moments_of(found, rows[name], model.get_parameter(name).detach())
    assert sorted(asked) == names


def test_held_out_examples_are_those_of_their_batch() -> None:
    model = network()
    run = prepared(model, repair=(Refit(shrinkage="held_out"),))
    held = run.calibration.held_out(run.generators, run.network.device)
    parts = seen_by_hooks(model, batches())["side.weight"]
    assert 0 < sum(map(np.count_nonzero, held)) < 12
    ((_, moments),) = survey(run, run.calibration, ["first"])
    found = moments["side.weight"].held
    assert found is not None
    rows = torch.cat([part[torch.from_numpy(which)] for part, which in zip(parts, held, strict=True)])
    assert_moments_of(found, rows, model.get_parameter("side.weight").detach())


def test_moments_are_dropped_once_no_site_needs_them() -> None:
    run, alive = prepared(network()), list[weakref.ref[Moments]]()
    for view, moments in survey(run, run.calibration, run.sites):
        assert [reference() for reference in alive] == [None] * len(alive)
        alive += map(weakref.ref, moments.values())
        del view, moments
    assert len(alive) == 3


def test_what_a_survey_prepares_knows_the_sites_and_reads_labels_only_where_they_are_used() -> None:
    model, labels = network(), torch.arange(4) % 2
    pairs = [(batch, labels) for batch in batches()]
    for name in ("taylor", "energy"):
        run = prepared(model, name, pairs, repair=())
        kept = [batch.labels for batch in run.calibration.batches]
        assert [given is not None for given in kept] == [SCORES[name].uses_labels] * len(kept)
    ((view, _),) = survey(run, run.calibration, ["first"])
    repaired = view.repaired(Selection((0, 2), (0, 2), (0.0, 0.0), (1.0, 1.0), Status.REPLAYED))
    assert repaired["side.weight"][:, [1, 3, 4, 5]].eq(0).all()
    assert view.sites is run.sites
