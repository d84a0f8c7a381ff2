"""prune under a limit on latency: measured, predicted, reported, and the same again from a saved table."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scionet import prune, pruning
from scionet.budget.latency.table import LatencyTable
from scionet.choices.limits import Limits
from scionet.errors import InvalidSetting, UnreachableBudget
from scionet.network.discovery.discover import discover


def network() -> nn.Module:
    """Convolutions wide enough that they, and not the interpreter, take the time."""
    torch.manual_seed(0)
    convs = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in pairwise((3, 32, 48, 32))]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def table(inputs: Tensor) -> LatencyTable:
    model = network()
    return LatencyTable.measure(model, inputs, discover(model, inputs), repeats=3)


@pytest.mark.parametrize("widths", ["uniform", pytest.param("error_curves", marks=pytest.mark.slow)])
def test_the_predicted_latency_is_within_the_limit_and_both_are_reported(widths: Any, inputs: Tensor) -> None:
    result = prune(network(), [inputs], "latency<=70%", example_inputs=inputs, widths=widths)
    timed = result.report.latency
    assert timed is not None
    assert result.latency_table is not None
    assert 0.69 <= timed.predicted_pruned_ms / timed.predicted_dense_ms <= 0.7
    assert result.report.pruned.macs < 0.9 * result.report.dense.macs
    assert timed.dense.batch_size == 8
    text = str(result.report)
    assert f"latency {timed.predicted_dense_ms:.4g} ms -> {timed.predicted_pruned_ms:.4g} ms predicted" in text
    assert f"{timed.dense} -> {timed.pruned} measured" in text
    assert str(timed.origin) in text
    assert result.report.seconds["latency table"] > 0


def test_the_same_table_gives_the_same_plan(inputs: Tensor, table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "table.json")
    plans = [
        prune(network(), [inputs], "macs<=90%, latency<=80%", example_inputs=inputs, latency_table=given).plan
        for given in (table, LatencyTable.load(tmp_path / "table.json"))
    ]
    assert plans[0].identity == plans[1].identity


def test_a_table_is_reported_on_where_latency_is_not_limited(inputs: Tensor, table: LatencyTable) -> None:
    limited: dict[str, Any] = {"example_inputs": inputs, "method": "l1"}
    with_table = prune(network(), (), "macs<=50%", latency_table=table, **limited)
    without = prune(network(), (), "macs<=50%", **limited)
    assert with_table.plan.identity == without.plan.identity
    assert with_table.report.latency is not None
    assert without.report.latency is None
    assert "latency" not in str(without.report)


def test_what_the_table_was_not_measured_for_is_refused(inputs: Tensor, table: LatencyTable) -> None:
    with pytest.raises(InvalidSetting, match="another inputs float32 8x3x32x32, now float32 1x3x32x32"):
        prune(network(), (), "latency<=60%", example_inputs=inputs[:1], method="l1", latency_table=table)
    limits = Limits(ignored_layers=["0"])
    with pytest.raises(InvalidSetting, match="another network"):
        prune(network(), (), "macs<=90%", example_inputs=inputs, method="l1", latency_table=table, limits=limits)


def test_processes_do_not_each_measure_their_own(inputs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "world", lambda: (0, 2))
    with pytest.raises(InvalidSetting, match=r"LatencyTable\.load\(path\) in every process"):
        prune(network(), (), "latency<=60%", example_inputs=inputs, method="l1")


def test_a_limit_out_of_reach_names_the_least_latency(inputs: Tensor, table: LatencyTable) -> None:
    with pytest.raises(UnreachableBudget, match=r"smallest network .* ms \(macs .* latency [\d.]+% of the dense"):
        prune(network(), (), "latency<=1us", example_inputs=inputs, method="l1", latency_table=table)
